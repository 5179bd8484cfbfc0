"""The batch, and the one place where a sum is divided.

Every loss averages over its own count (examples, predictions, tokens, query-key pairs) of the **whole optimizer
step**: all accumulated micro-batches and all processes. A step is therefore the same whether 8 examples come at once,
as 4 x 2 accumulated, or as 2 processes with 4 each. Padding, ignored labels, the causal shift and the number of
processes are known here and nowhere else.

What padding holds, NaN included, reaches neither value nor gradient. `mean` keeps it out of the value; 0 times NaN is
NaN in the backward of whatever made the values, so `clean` and `align` take it out *before* the formula as well.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hf_distill.batch import host, masks
from hf_distill.batch.counting import COUNTED, count
from hf_distill.batch.counting import count_step as count_step
from hf_distill.batch.trust import trusted
from hf_distill.recorded import RecordedMap
from hf_distill.relations import Relations
from hf_distill.signals import Pooling, Signal
from hf_distill.tasks import Task

IGNORED = -100  # what collators write for "no label"; any negative class id is read as that
Seen = TypeVar("Seen", Tensor, Relations)
Over = Literal["examples", "predictions", "targets", "tokens", "pairs", "batch"]
_TOKEN_AXES: Mapping[str, tuple[int, ...]] = {
    "hidden": (1,),
    "input_gradient": (1,),
    "query": (2,),
    "key": (2,),
    "value": (2,),
    "attention": (2, 3),
    "attention_scores": (2, 3),
}
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
        causal: whether in the models no position sees a later one; None: only where the task is a causal LM.
        seed: what random directions are drawn from: the same for all micro-batches and processes of a step.
        training: whether the student trains on it, so that a teacher may leave out what an evaluation alone looks at.
        counted_only: whether of a vocabulary's logits nobody reads those that do not count, so that they may be 0.
        trust: what every value is multiplied by in `mean`, of the shape of `predictions`, or in multi-label
            (batch, labels); see `signals.TRUST`. What is divided by stays the same, so that a share that is left out
            makes a step smaller, and accumulated steps add up.
    """

    inputs: Mapping[str, Any]
    task: Task
    counts: Mapping[str, Tensor] | None = None
    processes: int = 1
    seed: int = 0
    causal: bool | None = None
    training: bool = False
    counted_only: bool = False
    trust: Tensor | None = None

    @property
    def rows(self) -> int:
        """Examples of this micro-batch on this process."""
        return masks.rows_of(self.inputs)

    @property
    def labels(self) -> Tensor | None:
        """Labels beside the logits they belong to: shifted for causal models, stacked for spans; None without."""
        return masks.labels_of(self.inputs, self.task)

    @cached_property
    def tokens(self) -> Tensor | None:
        """Attended positions, bool (batch, tokens); None where the inputs have none (images, audio without a mask)."""
        return masks.tokens_of(self.inputs)

    @cached_property
    def pairs(self) -> Tensor | None:
        """Which query sees which key, both attended: bool (batch, query, key); None where the inputs have no tokens.

        In causal models no query sees a later key.
        """
        return None if self.tokens is None else masks.pairs_of(self.tokens, masks.is_causal(self.task, self.causal))

    @cached_property
    def predictions(self) -> Tensor:
        """Which predictions count, bool, of the shape of the predictions without classes.

        One an example, two for spans; for token tasks the positions that have a label, or without labels all that are
        attended. The first token after left padding is predicted from padding: it does not count.
        """
        return masks.predictions_of(self.inputs, self.task)

    @cached_property
    def on_host(self) -> "Batch":
        """The same in the host's memory, where a look at a number waits for no device; itself if that is unknown."""
        inputs = host.known(self.inputs)
        return self if inputs is None else replace(self, inputs=inputs)

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

    @cached_property
    def positions(self) -> Tensor | None:
        """Which positions of a model's own logits predict something that counts; None where there is no such row.

        bool, (batch, positions): `predictions` without the causal shift, for those who look at a few rows at a time.
        """
        return masks.positions_of(self.inputs, self.task)

    def counted_positions(self, logits: Tensor) -> Tensor | None:
        """`positions`; None where these logits, (batch, positions, classes), have others, or every row counts."""
        kept = self.positions if logits.dim() == 3 else None
        return kept if kept is not None and kept.shape == logits.shape[:-1] else None

    @cached_property
    def counted_rows(self) -> Tensor:
        """Where `positions` are, in the order of batch * positions: (counted,)."""
        positions = self.on_host.positions
        assert positions is not None
        return host.sent(positions.flatten().nonzero().squeeze(1), masks.device_of(self.inputs))

    def at_counted_rows(self, values: Tensor) -> Tensor:
        """One entry a prediction, of the shape of `predictions` -> (counted,), in the order of `counted_rows`."""
        assert self.positions is not None
        added = self.positions.shape[-1] - values.shape[-1]
        return torch.nn.functional.pad(values, (0, added)).flatten().index_select(0, self.counted_rows)

    def clean(self, signal: Signal, seen: Seen) -> Seen:
        """What was seen of a signal, 0 where it belongs to padding; as it is where nothing can be padding.

        Args:
            signal: says which axes are tokens.
            seen: of the shape that `signals` states for it; or `Relations`, of which padding is no part.

        Returns:
            The same shape.

        Raises:
            ValueError: it has another number of tokens than the batch.
        """
        axes = _TOKEN_AXES.get(signal.kind)
        if self.tokens is None or axes is None:
            return seen
        axis = axes[0]
        tokens = self._tokens_beside(str(signal), seen.shape[axis])
        if isinstance(seen, Relations):
            return seen
        kept = tokens[..., None] if axis == 1 else tokens[:, None, :, None]
        if signal.kind == "attention_scores" and self.pairs is not None:
            kept = self.pairs[:, None]
        return seen.cleaned(kept) if isinstance(seen, RecordedMap) else torch.where(kept, seen, 0.0)

    def token_axes(self, signal: Signal) -> tuple[int, ...]:
        """Which axes of a signal are the positions of this batch; none where the inputs have no tokens."""
        if self.tokens is None:
            return ()
        if signal.kind == "logits":
            return (2,) if self.task is Task.SPAN else (1,) if self.task.per_token else ()
        return _TOKEN_AXES.get(signal.kind, ())

    def mean(self, values: Tensor, over: Over) -> Tensor:
        """The share of this micro-batch in the mean over the whole optimizer step; shares add up to the mean.

        Args:
            values: ``examples``: (batch, ...), averaged within an example first; ``predictions`` and ``targets``: the
                shape of `predictions` and of the labels, in multi-label also (batch, labels), which are added up;
                ``tokens``: (batch, tokens); ``pairs``: (batch, query, key); ``batch``: a scalar that belongs to all
                rows of all processes.
            over: what is averaged over. What does not count may hold anything, NaN included; for the gradient of
                what made it see `clean` and `align`.

        Returns:
            A scalar, at least float32.

        Raises:
            ValueError: `values` has not the shape that `over` asks for, or there are no labels for ``targets``; some
                rows are trusted less, and the value belongs to all of them.
        """
        values = values if values.dtype == torch.float64 else values.float()  # a sum of float16 ends at 65504
        if self.trust is not None:
            values = trusted(values, self.trust, over, self.predictions)
        if over == "batch":
            return values * (sum(self._rows_per_process) / self.processes) / self.divisor("examples")
        if over in ("tokens", "pairs") and self.tokens is None:  # every example has equally many: no mask, no count
            over = "examples"
        if over == "examples":
            if len(values) != self.rows:
                raise ValueError(f"mean over examples needs values of {self.rows} rows, got {len(values)}.")
            return values.reshape(len(values), -1).mean(-1).sum() / self.divisor("examples")
        if self.task is Task.MULTI_LABEL and over == "predictions" and values.dim() == 2:
            values = values.sum(-1)
        return self.total(values, over) / self.divisor(over)

    def total(self, values: Tensor, over: Literal["predictions", "targets", "tokens", "pairs"]) -> Tensor:
        """The sum over what counts in this micro-batch, not divided: what a derivative is taken of.

        Args:
            values: as in `mean`.
            over: what is summed over.

        Returns:
            A scalar.

        Raises:
            ValueError: as `mean`.
        """
        mask = self._mask(over)
        if values.shape != mask.shape:
            raise ValueError(f"mean over {over} needs values of shape {tuple(mask.shape)}, got {tuple(values.shape)}.")
        return torch.where(mask, values, 0.0).sum()

    def random_direction(self, name: str, size: int) -> Tensor:
        """A unit vector drawn for this step: one for both models, all micro-batches and all processes.

        Args:
            name: tells several of one step apart.
            size: how many entries.

        Returns:
            (size,), float32, on the device of the inputs.
        """
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {name}".encode()))
        drawn = torch.randn(size, generator=generator)
        return torch.nn.functional.normalize(drawn, dim=0).to(masks.device_of(self.inputs))

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

    def mean_over_processes(self, values: Tensor) -> Tensor:
        """The mean of what each process has, the same on all of them; without gradient."""
        values = values.detach()
        if self.processes > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.processes
        return values

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
        mine = torch.tensor([self.rows], device=masks.device_of(self.inputs))
        every = [torch.empty_like(mine) for _ in range(self.processes)]
        dist.all_gather(every, mine)
        return [int(size) for size in every]

    def _mask(self, over: str) -> Tensor:
        if over == "predictions":
            return self.predictions
        if over == "targets":
            if self.labels is None:
                raise ValueError("mean over targets needs labels, and the batch has none.")
            return masks.targets_of(self.inputs, self.task)
        if over not in COUNTED:
            raise ValueError(f"mean over {over!r} is not known; use one of {', '.join(COUNTED)}, batch.")
        mask = self.tokens if over == "tokens" else self.pairs
        assert mask is not None
        return mask

    def divisor(self, over: str) -> Tensor:
        """What `mean` is divided by, at least one, so that a step with nothing in it gives 0 and not NaN."""
        counts = self.counts if self.counts is not None else self._own_counts
        return counts[over].clamp(min=1.0 / self.processes)

    @cached_property
    def _own_counts(self) -> Mapping[str, Tensor]:
        return count(self.inputs, self.task, self.causal)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: int) -> Tensor:
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None
