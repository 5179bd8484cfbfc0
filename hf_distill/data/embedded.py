"""Rows that are embeddings instead of token ids (`inputs_embeds`): how they come into a batch, beside rows of text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Array2D, Dataset, Features
from torch import Tensor
from transformers import default_data_collator

COLUMN = "inputs_embeds"
Collate = Callable[[list[Any]], dict[str, Any]]


def embedded_rows(embeddings: Tensor) -> Dataset:
    """A data set of embeddings, float32, read as numpy arrays.

    Args:
        embeddings: (rows, tokens, width).
    """
    found = embeddings.detach().float().cpu().numpy()
    features = Features({COLUMN: Array2D(shape=found.shape[1:], dtype="float32")})
    return Dataset.from_dict({COLUMN: found}, features=features).with_format("numpy")


class EmbeddedCollator:
    """Puts rows of `inputs_embeds` into a batch, padded on the right; rows of token ids go to another collator.

    Args:
        other: for rows of token ids, those of the evaluation for example.
    """

    def __init__(self, other: Collate) -> None:
        self.other = other

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """A batch of rows, all of one kind; `inputs_embeds` is (rows, longest, width), float32."""
        if not rows or COLUMN not in rows[0]:
            return self.other(rows)
        embedded = [torch.as_tensor(np.asarray(row[COLUMN], dtype=np.float32)) for row in rows]
        masks = [torch.as_tensor(np.asarray(row.get("attention_mask", np.ones(len(each))))).long()
                 for row, each in zip(rows, embedded, strict=True)]  # fmt: skip
        rest = [{name: value for name, value in row.items() if name not in (COLUMN, "attention_mask")} for row in rows]
        batch = default_data_collator(rest) if rest[0] else {}
        return batch | {COLUMN: _padded(embedded), "attention_mask": _padded(masks)}


def collator_for(given: Collate, *datasets: Any) -> Collate:
    """The collator of a trainer: the given one, taught to read embeddings where some data set has a column of them.

    Args:
        given: a collator of one's own is left as it is, those of transformers know token ids alone.
        datasets: what is trained on and evaluated; several by name are looked into.
    """
    flat = [each for some in datasets for each in (some.values() if isinstance(some, Mapping) else [some])]
    columns: list[Sequence[str]] = [getattr(each, "column_names", None) or [] for each in flat]
    stock = str(getattr(given, "__module__", "")).startswith("transformers.")
    return EmbeddedCollator(given) if stock and any(COLUMN in names for names in columns) else given


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
