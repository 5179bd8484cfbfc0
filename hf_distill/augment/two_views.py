"""Batches that hold every training example twice, changed at random in two ways."""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from hf_distill.teachers.swapped_views import ROW

Change = Callable[[dict[str, Any], torch.Generator], dict[str, Any]]


class TwoViews(TrainerCallback):
    """A collator that changes every example twice. Pass it as `data_collator`, and in `callbacks` too.

    Rows that have no column `ROW` (those of an evaluation) are collated as they are. What is drawn depends on the
    seed, the epoch, the row and the view alone, and so neither on the order nor on a resume nor on how many workers or
    processes there are. As a callback it learns which epoch begins; workers that outlive an epoch
    (`dataloader_persistent_workers`) are not told.

    Args:
        collate: makes a batch of examples.
        change: called with one example and a generator; returns the changed example.
        seed: of the run.
    """

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], change: Change, seed: int = 0) -> None:
        self.collate, self.change, self.seed = collate, change, seed
        self.epoch = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`; after a resume an epoch begins where it was left."""
        self.epoch = int(state.epoch or 0)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch of both views of all examples, first views first, with `ROW` as a tensor."""
        if not examples or ROW not in examples[0]:
            return self.collate(examples)
        rows = [int(each[ROW]) for each in examples]
        plain = [{name: value for name, value in each.items() if name != ROW} for each in examples]
        views = [
            self.change(example, self._generator(row, view))
            for view in (0, 1)
            for row, example in zip(rows, plain, strict=True)
        ]
        return {**self.collate(views), ROW: torch.tensor(rows * 2)}

    def _generator(self, row: int, view: int) -> torch.Generator:
        mixed = zlib.crc32(f"{self.seed} {self.epoch} {row} {view}".encode())
        return torch.Generator().manual_seed(mixed)
