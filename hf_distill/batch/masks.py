"""What a batch's tensors say about which rows, tokens, predictions and pairs count."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_distill.tasks import Task


def tensors_of(inputs: Mapping[str, Any]) -> list[Tensor]:
    """Those that have rows."""
    return [value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0]


def rows_of(inputs: Mapping[str, Any]) -> int:
    """Examples."""
    known = (inputs.get(name) for name in ("labels", "input_ids", "inputs_embeds"))  # images may be several an example
    tensors = [each for each in known if isinstance(each, Tensor) and each.dim() > 0] or tensors_of(inputs)
    return len(tensors[0])


def device_of(inputs: Mapping[str, Any]) -> torch.device:
    """Where the tensors are."""
    return tensors_of(inputs)[0].device


def tokens_of(inputs: Mapping[str, Any], prefix: str = "") -> Tensor | None:
    """Attended positions, bool (batch, tokens); None where the inputs have none. `prefix` is the decoder's."""
    mask: Tensor | None = inputs.get(f"{prefix}attention_mask")
    if mask is not None and mask.dim() == 2:
        return mask.bool()
    read = inputs.get(f"{prefix}input_ids")
    read = inputs.get(f"{prefix}inputs_embeds") if read is None else read
    return None if read is None else torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)


def spans_of(tokens: Tensor) -> Tensor:
    """Of each row the first attended position and the one after the last: (batch, 2); twice the same where none is."""
    order = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    ends = torch.where(tokens, order, 0).amax(1)
    starts = torch.where(tokens, order - 1, tokens.shape[1]).amin(1).minimum(ends)
    return torch.stack([starts, ends], 1)


def labels_of(inputs: Mapping[str, Any], task: Task) -> Tensor | None:
    """Labels beside the logits they belong to: shifted for causal models, stacked for spans; None without."""
    if task is Task.SPAN and "start_positions" in inputs:
        return torch.stack([inputs["start_positions"], inputs["end_positions"]], dim=1)
    labels: Tensor | None = inputs.get("labels")
    if labels is None:
        return None
    return labels[:, 1:] if task is Task.CAUSAL_LM else labels


def predictions_of(inputs: Mapping[str, Any], task: Task) -> Tensor:
    """Which predictions count, bool, of the shape of the predictions without classes."""
    labels = labels_of(inputs, task)
    if task.per_token:
        tokens = tokens_of(inputs, prefix="decoder_" if task is Task.SEQ2SEQ else "")
        if task is Task.CAUSAL_LM and tokens is not None:
            tokens = tokens[:, 1:] & tokens[:, :-1]
        if labels is None and tokens is not None:
            return tokens
        if labels is not None and (tokens is None or tokens.shape != labels.shape or task is Task.SEQ2SEQ):
            return labels >= 0  # the labels of a decoder stand one beside its mask, and say alone what counts
        if labels is not None and tokens is not None:
            return (labels >= 0) & tokens
    shape = (rows_of(inputs), 2) if task is Task.SPAN else (rows_of(inputs),)
    return torch.ones(shape, dtype=torch.bool, device=device_of(inputs))


def positions_of(inputs: Mapping[str, Any], task: Task) -> Tensor | None:
    """Of a model's own positions those whose logits count, bool (batch, positions); None where there are none."""
    counted = predictions_of(inputs, task)
    if not task.per_token or counted.dim() != 2:
        return None
    return torch.nn.functional.pad(counted, (0, 1)) if task is Task.CAUSAL_LM else counted  # the last predicts nothing


def targets_of(inputs: Mapping[str, Any], task: Task) -> Tensor:
    """Which predictions have a label, bool, of the shape of the values that the labels' loss gives."""
    labels = labels_of(inputs, task)
    if labels is None:
        return torch.zeros(1, dtype=torch.bool, device=device_of(inputs))
    if task is Task.REGRESSION:
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    if task is Task.MULTI_LABEL:
        return (labels >= 0).any(-1)
    if task.per_token:
        return predictions_of(inputs, task)
    tokens = tokens_of(inputs)
    if task is Task.SPAN and tokens is not None:  # an answer cut off, or in padding, is none
        inside = (labels >= 0) & (labels < tokens.shape[1])
        return inside & tokens.gather(1, torch.where(inside, labels, 0))
    return labels >= 0


def is_causal(task: Task, causal: bool | None) -> bool:
    """Whether no position sees a later one; where the models do not say, it is what the task implies."""
    return task is Task.CAUSAL_LM if causal is None else causal


def pairs_of(tokens: Tensor, causal: bool) -> Tensor:
    """Which query sees which key, both attended, bool (batch, query, key)."""
    pairs = tokens[:, :, None] & tokens[:, None, :]
    if causal:
        pairs = pairs & torch.ones(pairs.shape[1:], dtype=torch.bool, device=pairs.device).tril()
    return pairs
