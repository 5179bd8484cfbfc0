"""Rows of an evaluation's batch that are a process's own: the last batch of several processes is filled up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def count(rows: int, accelerator: Any) -> int:
    """How many of a batch's rows are this process's own; the others count on another process.

    Args:
        rows: of the batch.
        accelerator: knows the processes, and where its data loader is.
    """
    loader = accelerator.gradient_state
    if accelerator.num_processes > 1 and loader.end_of_dataloader and loader.remainder > 0:
        before = rows * int(accelerator.process_index)
        return min(max(int(loader.remainder) - before, 0), rows)
    return rows


def cut(inputs: Mapping[str, Any], rows: int, own: int) -> Mapping[str, Any]:
    """The first rows, the own ones; all of them where none is, because no model runs on nothing."""
    if not 0 < own < rows:
        return inputs
    return {name: value[:own] if _is_rows(value, rows) else value for name, value in inputs.items()}


def fill(logits: Tensor | None, rows: int, own: int) -> Tensor | None:
    """As many rows as the batch had: every process hands over equally many, and the Trainer drops the rest."""
    if logits is None or not 0 < own < rows:
        return logits
    return torch.cat([logits, logits.new_zeros(rows - own, *logits.shape[1:])])


def _is_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
