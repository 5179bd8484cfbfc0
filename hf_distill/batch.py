"""The batch, and the one place where a sum is divided.

Every loss averages over its own count (examples, predictions, tokens, query-key pairs) of the **whole optimizer
step**: all accumulated micro-batches and all processes. A step is therefore the same whether 8 examples come at once,
as 4 x 2 accumulated, or as 2 processes with 4 each. Padding, ignored labels, the causal shift and the number of
processes are known here and nowhere else.

What padding holds, NaN included, reaches neither value nor gradient. `mean` keeps it out of the value; 0 times NaN is
NaN in the backward of whatever made the values, so `clean` and `align` take it out *before* the formula as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from hf_distill.signals import Pooling, Signal
from hf_distill.tasks import Task

IGNORED = -100  # what collators write for "no label"; any negative class id is read as that
Over = Literal["examples", "predictions", "targets", "tokens", "pairs", "batch"]
COUNTED = ("examples", "predictions", "targets", "tokens", "pairs")
_TOKEN_AXIS = {"hidden": 1, "query": 2, "key": 2, "value": 2, "attention": 2, "attention_scores": 2}
_NO_ANSWER = -1e30  # a logit that takes no part in a softmax, at any temperature


@dataclass(frozen=True)
class Batch:
    """Inputs of one micro-batch on one process, and how much the whole optimizer step holds.

    Args:
        inputs: what the collator made, on the model's device, labels included.
        task: decides what a prediction is.
        counts: what the whole step holds *per process* (total over all processes, divided by their number, because
            gradients are averaged over processes): name in `COUNTED` -> scalar tensor. None: this batch is the step.
        processes: how many processes share the step; relations between examples are gathered from all of them.
    """

    inputs: Mapping[str, Any]
    task: Task
    counts: Mapping[str, Tensor] | None = None
    processes: int = 1

    @property
    def rows(self) -> int:
        """Examples of this micro-batch on this process."""
        return _rows(self.inputs)

    @property
    def labels(self) -> Tensor | None:
        """Labels beside the logits they belong to: shifted for causal models, stacked for spans; None without."""
        return _labels(self.inputs, self.task)

    @cached_property
    def tokens(self) -> Tensor | None:
        """Attended positions, bool (batch, tokens); None where the inputs have none (images, audio without a mask)."""
        return _tokens(self.inputs)

    @cached_property
    def predictions(self) -> Tensor:
        """Which predictions count, bool, of the shape of the predictions without classes.

        One an example, two for spans; for token tasks the positions that have a label, or without labels all that are
        attended. The first token after left padding is predicted from padding: it does not count.
        """
        return _predictions(self.inputs, self.task)

    def align(self, logits: Tensor) -> Tensor:
        """Logits beside their labels, for every loss on logits.

        Causal models: the last position predicts nothing and is dropped. Token tasks: 0 where a prediction does not
        count. Spans: padding is no place for an answer and takes no part in the softmax.

        Args:
            logits: (batch, classes), (batch, tokens, classes), or (batch, 2, tokens) for spans.

        Returns:
            One row of logits for every entry of `predictions`.
        """
        if self.task is Task.SPAN:
            tokens = self.tokens
            return logits if tokens is None else logits.float().masked_fill(~tokens[:, None], _NO_ANSWER)
        if self.task is Task.CAUSAL_LM:
            logits = logits[:, :-1]
        if not self.task.per_token or self.predictions.shape != logits.shape[:-1]:
            return logits
        return torch.where(self.predictions[..., None], logits, 0.0)

    def clean(self, signal: Signal, seen: Tensor) -> Tensor:
        """What was seen of a signal, 0 where it belongs to padding; as it is where nothing can be padding.

        Args:
            signal: says which axes are tokens.
            seen: of the shape that `signals` states for it.

        Returns:
            The same shape.

        Raises:
            ValueError: it has another number of tokens than the batch.
        """
        axis = _TOKEN_AXIS.get(signal.kind)
        if self.tokens is None or axis is None:
            return seen
        tokens = self._tokens_beside(str(signal), seen.shape[axis])
        if signal.kind == "attention_scores":
            return torch.where(_pairs(tokens, self.task)[:, None], seen, 0.0)
        return torch.where(tokens[..., None] if axis == 1 else tokens[:, None, :, None], seen, 0.0)

    def mean(self, values: Tensor, over: Over) -> Tensor:
        """The share of this micro-batch in the mean over the whole optimizer step; shares add up to the mean.

        Args:
            values: ``examples``: (batch,) or (batch, ...), averaged within an example first; ``predictions`` and
                ``targets``: the shape of `predictions` and of the labels; ``tokens``: (batch, tokens);
                ``pairs``: (batch, query, key); ``batch``: a scalar that belongs to all rows of all processes.
            over: what is averaged over. What does not count may hold anything, NaN included; for the gradient of
                what made it see `clean` and `align`.

        Returns:
            A scalar, at least float32.

        Raises:
            ValueError: `values` has not the shape that `over` asks for, or there are no labels for ``targets``.
        """
        values = values if values.dtype == torch.float64 else values.float()  # a sum of float16 ends at 65504
        if over == "batch":
            return values * (sum(self._rows_per_process) / self.processes) / self._count("examples")
        if over in ("tokens", "pairs") and self.tokens is None:  # every example has equally many: no mask, no count
            over = "examples"
        if over == "examples":
            return values.reshape(len(values), -1).mean(-1).sum() / self._count("examples")
        mask = self._mask(over)
        if values.shape != mask.shape:
            raise ValueError(f"mean over {over} needs values of shape {tuple(mask.shape)}, got {tuple(values.shape)}.")
        return torch.where(mask, values, 0.0).sum() / self._count(over)

    def per_example(self, values: Tensor) -> Tensor:
        """Sum and number of the predictions that count in each example: the shape of `predictions` -> (batch, 2)."""
        mask = self.predictions
        kept = torch.where(mask, values.float(), 0.0)
        return torch.stack([kept.reshape(self.rows, -1).sum(1), mask.reshape(self.rows, -1).sum(1).float()], dim=1)

    def pool(self, hidden: Tensor, pooling: Pooling) -> Tensor:
        """One vector an example: its first, last or mean attended token, 0 where none is.

        Args:
            hidden: (batch, tokens, width).
            pooling: which; padding may be on either side.

        Returns:
            (batch, width).

        Raises:
            ValueError: `hidden` has another number of tokens than the batch.
        """
        if self.tokens is None:
            tokens = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        else:
            tokens = self._tokens_beside("the last hidden state", hidden.shape[1])
        if pooling == "mean":
            kept = torch.where(tokens[..., None], hidden, 0.0).float()
            return kept.sum(1) / tokens.sum(1, keepdim=True).clamp(min=1)
        order = torch.arange(tokens.shape[1], device=tokens.device)
        order = order if pooling == "last" else order.flip(0)
        chosen = torch.where(tokens, order, -1).argmax(1)
        picked = hidden[torch.arange(len(hidden), device=hidden.device), chosen]
        return torch.where(tokens.any(1, keepdim=True), picked, 0.0)

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, in the order of the processes, with gradient to those of this one.

        The gradient is multiplied by the number of processes, because it is averaged over them afterwards: relations
        on two processes of 4 are then exactly those of one process with 8.

        Args:
            rows: (batch, ...), the number of rows may differ between processes.

        Returns:
            (all rows, ...).
        """
        if self.processes == 1:
            return rows
        sizes = self._rows_per_process
        padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        parts = [part[:size] for part, size in zip(parts, sizes, strict=True)]
        parts[dist.get_rank()] = _ScaleGradient.apply(rows, self.processes)  # type: ignore[no-untyped-call]
        return torch.cat(parts)

    def _tokens_beside(self, what: str, positions: int) -> Tensor:
        assert self.tokens is not None
        if positions != self.tokens.shape[1]:  # audio frames against samples, image patches beside text
            raise ValueError(
                f"{what} has {positions} positions and the mask of the batch {self.tokens.shape[1]}, so it is not "
                "known which are padding. Use a loss on logits, or inputs whose mask has the model's own length."
            )
        return self.tokens

    @cached_property
    def _rows_per_process(self) -> list[int]:
        if self.processes == 1:
            return [self.rows]
        mine = torch.tensor([self.rows], device=_device(self.inputs))
        every = [torch.empty_like(mine) for _ in range(self.processes)]
        dist.all_gather(every, mine)
        return [int(size) for size in every]

    def _mask(self, over: str) -> Tensor:
        if over == "predictions":
            return self.predictions
        if over == "targets":
            if self.labels is None:
                raise ValueError("mean over targets needs labels, and the batch has none.")
            return _targets(self.inputs, self.task)
        if over not in COUNTED:
            raise ValueError(f"mean over {over!r} is not known; use one of {', '.join(COUNTED)}, batch.")
        assert self.tokens is not None
        return self.tokens if over == "tokens" else _pairs(self.tokens, self.task)

    def _count(self, over: str) -> Tensor:
        """What the mean is divided by, at least one, so that a step with nothing in it gives 0 and not NaN."""
        counts = self.counts if self.counts is not None else self._own_counts
        return counts[over].clamp(min=1.0 / self.processes)

    @cached_property
    def _own_counts(self) -> Mapping[str, Tensor]:
        return count(self.inputs, self.task)


def count(inputs: Mapping[str, Any], task: Task) -> dict[str, Tensor]:
    """What one micro-batch holds.

    Returns:
        {name in `COUNTED`: scalar float tensor}, on the device of the inputs.
    """
    tokens = _tokens(inputs)
    found = {
        "examples": torch.tensor(float(_rows(inputs)), device=_device(inputs)),
        "predictions": _predictions(inputs, task).sum().float(),
        "targets": _targets(inputs, task).sum().float(),
    }
    if tokens is None:
        return found | {"tokens": found["examples"], "pairs": found["examples"]}
    length = tokens.sum(1)
    pairs = length * (length + 1) // 2 if task is Task.CAUSAL_LM else length.square()
    return found | {"tokens": length.sum().float(), "pairs": pairs.sum().float()}


def count_step(batches: Iterable[Mapping[str, Any]], task: Task, processes: int = 1) -> dict[str, Tensor]:
    """What one optimizer step holds, per process: summed over its micro-batches and processes, divided by the latter.

    All processes must call it together. One reduction, no host synchronisation.

    Args:
        batches: the accumulated micro-batches of this process, at least one.
        task: decides what a prediction is.
        processes: how many processes take part.

    Returns:
        {name in `COUNTED`: scalar float tensor}.
    """
    counts = [count(inputs, task) for inputs in batches]
    total = torch.stack([torch.stack([each[name] for name in COUNTED]) for each in counts]).sum(0)
    if processes > 1:
        dist.all_reduce(total)
    return dict(zip(COUNTED, total / processes, strict=True))


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _tensors(inputs: Mapping[str, Any]) -> list[Tensor]:
    return [value for value in inputs.values() if isinstance(value, Tensor) and value.dim() > 0]


def _rows(inputs: Mapping[str, Any]) -> int:
    return len(_tensors(inputs)[0])


def _device(inputs: Mapping[str, Any]) -> torch.device:
    return _tensors(inputs)[0].device


def _tokens(inputs: Mapping[str, Any], prefix: str = "") -> Tensor | None:
    mask: Tensor | None = inputs.get(f"{prefix}attention_mask")
    if mask is not None and mask.dim() == 2:
        return mask.bool()
    read = inputs.get(f"{prefix}input_ids")
    read = inputs.get(f"{prefix}inputs_embeds") if read is None else read
    return None if read is None else torch.ones(read.shape[:2], dtype=torch.bool, device=read.device)


def _labels(inputs: Mapping[str, Any], task: Task) -> Tensor | None:
    if task is Task.SPAN and "start_positions" in inputs:
        return torch.stack([inputs["start_positions"], inputs["end_positions"]], dim=1)
    labels: Tensor | None = inputs.get("labels")
    if labels is None:
        return None
    return labels[:, 1:] if task is Task.CAUSAL_LM else labels


def _predictions(inputs: Mapping[str, Any], task: Task) -> Tensor:
    labels = _labels(inputs, task)
    if task.per_token:
        tokens = _tokens(inputs, prefix="decoder_" if task is Task.SEQ2SEQ else "")
        if task is Task.CAUSAL_LM and tokens is not None:
            tokens = tokens[:, 1:] & tokens[:, :-1]
        if labels is None and tokens is not None:
            return tokens
        if labels is not None and (tokens is None or tokens.shape != labels.shape or task is Task.SEQ2SEQ):
            return labels >= 0  # the labels of a decoder stand one beside its mask, and say alone what counts
        if labels is not None and tokens is not None:
            return (labels >= 0) & tokens
    shape = (_rows(inputs), 2) if task is Task.SPAN else (_rows(inputs),)
    return torch.ones(shape, dtype=torch.bool, device=_device(inputs))


def _targets(inputs: Mapping[str, Any], task: Task) -> Tensor:
    labels = _labels(inputs, task)
    if labels is None:
        return torch.zeros(1, dtype=torch.bool, device=_device(inputs))
    if task is Task.REGRESSION:
        return torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    if task is Task.MULTI_LABEL:
        return (labels >= 0).any(-1)
    if task.per_token:
        return _predictions(inputs, task)
    tokens = _tokens(inputs)
    if task is Task.SPAN and tokens is not None:  # an answer cut off, or in padding, is none
        inside = (labels >= 0) & (labels < tokens.shape[1])
        return inside & tokens.gather(1, torch.where(inside, labels, 0))
    return labels >= 0


def _pairs(tokens: Tensor, task: Task) -> Tensor:
    pairs = tokens[:, :, None] & tokens[:, None, :]
    if task is Task.CAUSAL_LM:
        pairs = pairs & torch.ones(pairs.shape[1:], dtype=torch.bool, device=pairs.device).tril()
    return pairs
