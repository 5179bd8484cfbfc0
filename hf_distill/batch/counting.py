"""How much there is in a micro-batch, and in a whole optimizer step: what sums are divided by."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hf_distill.batch import masks
from hf_distill.tasks import Task

COUNTED = ("examples", "predictions", "targets", "tokens", "pairs")


def count(inputs: Mapping[str, Any], task: Task, causal: bool | None = None) -> dict[str, Tensor]:
    """What one micro-batch holds; arguments as in `Batch`.

    Returns:
        {name in `COUNTED`: scalar float tensor}, on the device of the inputs.
    """
    tokens = masks.tokens_of(inputs)
    found = {
        "examples": torch.tensor(float(masks.rows_of(inputs)), device=masks.device_of(inputs)),
        "predictions": masks.predictions_of(inputs, task).sum().float(),
        "targets": masks.targets_of(inputs, task).sum().float(),
    }
    if tokens is None:
        return found | {"tokens": found["examples"], "pairs": found["examples"]}
    length = tokens.sum(1)
    pairs = length * (length + 1) // 2 if masks.is_causal(task, causal) else length.square()
    return found | {"tokens": length.sum().float(), "pairs": pairs.sum().float()}


def count_step(
    batches: Iterable[Mapping[str, Any]], task: Task, processes: int = 1, causal: bool | None = None
) -> dict[str, Tensor]:
    """What one optimizer step holds, per process: summed over its micro-batches and processes, divided by the latter.

    All processes must call it together. One reduction, no host synchronisation.

    Args:
        batches: the accumulated micro-batches of this process, at least one.
        task: decides what a prediction is.
        processes: how many processes take part.

    Returns:
        {name in `COUNTED`: scalar float tensor}.
    """
    counts = [count(inputs, task, causal) for inputs in batches]
    total = torch.stack([torch.stack([each[name] for name in COUNTED]) for each in counts]).sum(0)
    if processes > 1:
        dist.all_reduce(total)
    return dict(zip(COUNTED, total / processes, strict=True))
