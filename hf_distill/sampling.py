"""Which rows come together: those of like length, so that little is padding; and where the batches are put."""

from collections.abc import Callable, Iterator
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
import torch
from accelerate.data_loader import DataLoaderShard
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler


class LengthGrouped(LengthGroupedSampler):
    """`LengthGroupedSampler` with an order of its own in every epoch, the same after a resume and on every process.

    The Trainer's draws from whatever state the random numbers are in, so that a resumed run sees other batches.

    Args:
        batch_size: examples that should be of like length: those of an optimizer step.
        lengths: of every example.
        seed: of the order.
        epoch: says which epoch begins, counted from 0.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int, epoch: Callable[[], int]) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self._seed, self._epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(self._seed + self._epoch())
        found: Iterator[int] = super().__iter__()
        return found


def grouped(
    dataset: Any, args: TrainingArguments, processing_class: Any, epoch: Callable[[], int]
) -> LengthGrouped | None:
    """The sampler of ``train_sampling_strategy="auto"``; None where another strategy is asked for, or all are as long.

    Args:
        dataset: what is trained on.
        args: of the run.
        processing_class: says which column is the sequence; None for `input_ids`.
        epoch: see `LengthGrouped`.
    """
    if args.train_sampling_strategy != "auto":
        return None
    sequence = getattr(processing_class, "model_input_names", ["input_ids"])[0]
    if "inputs_embeds" in (getattr(dataset, "column_names", None) or []):
        sequence = "inputs_embeds"
    lengths = differing_lengths(dataset, args.length_column_name, sequence)
    if lengths is None:
        return None
    step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return LengthGrouped(step, lengths, args.seed if args.data_seed is None else args.data_seed, epoch)


def differing_lengths(dataset: Any, lengths: str, sequence: str) -> list[int] | None:
    """How long every example is, where that is quickly told and not the same for all; None otherwise.

    Args:
        dataset: read where it is a `datasets.Dataset` without a transform.
        lengths: the column that says so, if it is there.
        sequence: else the column of lists that is measured.
    """
    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] == "custom" or not len(dataset):
        return None
    if lengths in dataset.column_names:
        found = dataset.select_columns(lengths).with_format("arrow")[:][lengths].to_pylist()
    elif sequence in dataset.column_names:
        column = dataset.select_columns(sequence).with_format("arrow")[:][sequence]
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            return None
        found = pc.list_value_length(column).to_pylist()
    else:
        return None
    if not all(isinstance(length, int) for length in found):  # a missing row, or a column of another meaning
        return None
    return found if min(found) != max(found) else None


def leave_on_host(loader: Any) -> None:
    """Has a prepared loader give its batches as the collator made them; whoever takes them moves them.

    A loader of which one process reads for all must move them itself, and is left as it is.
    """
    if isinstance(loader, DataLoaderShard):
        loader.device = None
