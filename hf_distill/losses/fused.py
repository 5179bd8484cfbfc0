"""The head of a vocabulary and the losses behind it in one pass: hidden states and head weights in, losses out.

Neither model's logits ever exist as a whole. The gradients are made in the forward, chunk by chunk, while a chunk's
logits are there, so that nothing is computed twice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses.base import PositionLoss
from hf_distill.losses.kernels import formula_of
from hf_distill.losses.logits import in_chunks
from hf_distill.losses.soft_targets import kl_divergence
from hf_distill.signals import LOGITS, Signals
from hf_distill.top_k import TopK

ROWS = 128  # positions in a chunk: fewer make the head slower, more hold more


class Head(NamedTuple):
    """The last layer of a model and what enters it.

    Args:
        hidden: (positions, width).
        weight: (classes, width).
        bias: (classes,), or None.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None


class Term(NamedTuple):
    """One loss behind the head.

    Args:
        values: logits of student and teacher, (positions, classes) each, and `more` -> one value a position.
        factor: what the sum of the values is multiplied by.
        more: one entry a position, (positions,) each.
    """

    values: Callable[..., Tensor]
    factor: float | Tensor = 1.0
    more: tuple[Tensor, ...] = ()


def head_and_divergence(
    student: Head,
    teacher: Head,
    divergence: Callable[..., Tensor] = kl_divergence,
    *more: Tensor,
    chunk_size: int = ROWS,
) -> Tensor:
    """The sum over positions of a divergence between two models' logits, from what enters their heads.

    A sum and not one value a position, as every other formula gives: the gradient that is made in the forward is that
    of one number.

    Args:
        student: gradients go to its hidden states, weight and bias.
        teacher: as many positions; widths may differ.
        divergence: (positions, classes) twice, and `more` -> (positions,); any formula of the catalogue that gives one
            value a position.
        more: one entry a position, (positions,), such as labels.
        chunk_size: positions whose logits exist at once.

    Returns:
        A scalar. It is differentiated once only: a second backward raises.

    Reference: Hsu et al. 2024 (Liger Kernel), arXiv:2410.10989, section 3.2.
    Differs from the paper: plain PyTorch, any divergence, two models.
    """
    return head_and_terms(student, teacher, [Term(divergence, 1.0, more)], chunk_size)[0]


def head_and_terms(
    student: Head, teacher: Head | Callable[[int, int], Tensor] | None, terms: Sequence[Term], chunk_size: int = ROWS
) -> Tensor:
    """Several losses behind one head, in one pass over it.

    Args:
        student: gradients go to its hidden states, weight and bias.
        teacher: its head; or what gives its logits of the positions from a first to an end; or None.
        terms: at least one.
        chunk_size: positions whose logits exist at once.

    Returns:
        (terms,): each one's sum over positions times its factor. Only their sum may be differentiated, or a multiple
        of it, and once: the gradient of a single one is not known any more, and is NaN where it is asked for.
    """
    answer = _rows_of(teacher) if isinstance(teacher, Head) else teacher
    return _HeadAndTerms.apply(*student, answer, terms, chunk_size)  # type: ignore[no-untyped-call, no-any-return]


def _rows_of(head: Head) -> Callable[[int, int], Tensor]:
    hidden, weight, bias = (None if each is None else _cast(each.detach()) for each in head)
    return lambda first, end: F.linear(hidden[first:end], weight, bias)  # type: ignore[index, arg-type]


def _cast(tensor: Tensor) -> Tensor:
    """As autocast would for a linear layer: once, and not for every chunk."""
    device = tensor.device.type
    return tensor.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tensor


class _Gradients:
    """Of the student's hidden states, head weight and bias: made chunk by chunk, for those that want one."""

    def __init__(self, head: Head, wanted: Sequence[bool]) -> None:
        self.wanted = [each if each is not None and want else None for each, want in zip(head, wanted, strict=True)]
        self.rows: list[Tensor] = []
        self.by_weight: Tensor | None = None
        self.by_bias: Tensor | None = None

    def add(self, by_logits: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """From a chunk's gradient by its logits to those by what made them."""
        mine, my_weight, my_bias = self.wanted
        if mine is not None:
            self.rows.append((by_logits @ weight).to(mine.dtype))
        if my_weight is not None and self.by_weight is not None and self.by_weight.dtype == hidden.dtype:
            self.by_weight.addmm_(by_logits.mT, hidden)
        elif my_weight is not None:
            self.by_weight = _sum(self.by_weight, by_logits.mT @ hidden)
        if my_bias is not None:
            self.by_bias = _sum(self.by_bias, by_logits.sum(0))

    def times(self, scale: Tensor) -> list[Tensor | None]:
        """In place, of the types of what they belong to; 0 where there was no chunk."""
        made = [torch.cat(self.rows) if self.rows else None, self.by_weight, self.by_bias]
        self.rows, self.by_weight, self.by_bias = [], None, None
        return [
            None
            if mine is None
            else torch.zeros_like(mine)
            if gradient is None
            else gradient.mul_(scale.to(gradient.dtype)).to(mine.dtype)
            for mine, gradient in zip(self.wanted, made, strict=True)
        ]


def _sum(so_far: Tensor | None, more: Tensor) -> Tensor:
    """Over chunks, at least in float32."""
    more = more.to(torch.promote_types(more.dtype, torch.float32))
    return more if so_far is None else so_far.add_(more)


class _HeadAndTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: Callable[[int, int], Tensor] | None,
        terms: Sequence[Term],
        chunk_size: int,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        gradients = _Gradients(Head(hidden, weight, bias), ctx.needs_input_grad[:3])
        factors = torch.stack([torch.as_tensor(each.factor, dtype=wide, device=hidden.device) for each in terms])
        total = torch.zeros_like(factors)
        rows, weight, bias = _cast(hidden), _cast(weight), None if bias is None else _cast(bias)
        for first in range(0, len(rows), chunk_size):
            chunk = slice(first, min(first + chunk_size, len(rows)))
            logits = F.linear(rows[chunk], weight, bias).requires_grad_()
            theirs = None if teacher is None else teacher(chunk.start, chunk.stop)
            with torch.enable_grad():
                sums = [each.values(logits, theirs, *(one[chunk] for one in each.more)).sum() for each in terms]
                weighted = torch.stack([each.to(wide) for each in sums]) * factors
                together = weighted.sum()
            total += weighted.detach()
            del sums, weighted, theirs
            if any(ctx.needs_input_grad) and together.requires_grad:
                (by_logits,) = torch.autograd.grad(together, logits)
                del logits, together
                gradients.add(by_logits, rows[chunk], weight)
        ctx.gradients = gradients
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the losses behind a fused head are differentiated once only, and were.")
        # the losses were added up before their gradient was made: known is that of their sum alone
        scale = torch.where((upstream == upstream[0]).all(), upstream[0], torch.nan)
        return *gradients.times(scale), None, None, None


def terms_on_counted(
    losses: Mapping[str, PositionLoss],
    factors: Mapping[str, float | Tensor],
    student: HeadLogits,
    teacher: Signals,
    batch: Batch,
) -> dict[str, Tensor]:
    """The terms of losses that read a vocabulary's logits position by position.

    Fused with the student's head where its last layer is a plain linear one; else on the logits of the counted
    positions, in chunks that are computed again in backward.

    Args:
        losses: by name; all are `positionwise`.
        factors: what each term is multiplied by: {name: number or scalar}.
        student: its head, not computed.
        teacher: its `LOGITS` whole, or as a head that was not computed.
        batch: knows which positions count.

    Returns:
        {name: scalar}. Fused ones can be differentiated together only, as `head_and_terms` says.
    """
    answer = _counted(teacher[LOGITS], batch) if LOGITS in teacher else None
    terms = []
    for name, loss in losses.items():
        asks, values = loss.asks_teacher, _values(loss, student.device)
        if isinstance(teacher.get(LOGITS), Tensor) and asks:
            shapes = (torch.empty(each.shape, device="meta") for each in (student, teacher[LOGITS]))
            loss.check_rows(LOGITS, *loss.classes_compared(*shapes))
        more = tuple(batch.at_counted_rows(each) for each in loss.beside(batch))
        if batch.trust is not None and asks:
            values, more = _times_trust(values), (*more, batch.at_counted_rows(batch.trust))
        terms.append(Term(values, factors[name] / batch.divisor(loss.over), more))
    sizes = [loss.chunk_size for loss in losses.values() if loss.chunk_size is not None]
    if student.weight is not None and _cast(student.hidden).dtype is not torch.float16:  # its small gradients are 0
        head = Head(student.hidden, student.weight, student.bias)
        found = head_and_terms(head, answer, terms, min(sizes, default=ROWS)).unbind()
    else:
        mine = student.kept()
        alone = both = (mine, mine.detach())
        if answer is not None:
            theirs = answer(0, len(mine))
            both = (theirs.beside(mine), theirs.logits) if isinstance(theirs, TopK) else (mine, theirs)
        found = tuple(
            in_chunks(
                term.values, *(both if loss.asks_teacher else alone), *term.more, chunk_size=min(sizes, default=None)
            ).sum()
            * term.factor
            for term, loss in zip(terms, losses.values(), strict=True)
        )
    return dict(zip(losses, found, strict=True))


def _counted(logits: Tensor | TopK, batch: Batch) -> Callable[[int, int], Any]:
    """What gives some of a teacher's logits at counted positions."""
    if isinstance(logits, HeadLogits) and logits.weight is not None:
        return _rows_of(Head(logits.hidden, logits.weight, logits.bias))
    if isinstance(logits, HeadLogits):
        return lambda first, end: logits.hidden[first:end]
    if isinstance(logits, TopK):
        return lambda first, end: logits.rows(batch.counted_rows[first:end])
    every = logits.flatten(0, 1)
    return lambda first, end: every.index_select(0, batch.counted_rows[first:end])


def _times_trust(values: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A formula's values, each times the last entry beside it."""

    def trusted(student: Tensor, teacher: Any, *more: Tensor) -> Tensor:
        return values(student, teacher, *more[:-1]) * more[-1]

    return trusted


def _values(loss: PositionLoss, device: torch.device) -> Callable[..., Tensor]:
    """The loss's formula, of the classes that it compares."""
    asks, formula = loss.asks_teacher, formula_of(loss, device)

    def values(student: Tensor, teacher: Any, *more: Tensor) -> Tensor:
        sides: Any = loss.classes_compared(student, teacher) if asks else (student, None)
        found = formula(*sides, *more)
        if found.shape != student.shape[:-1]:
            raise ValueError(
                f"{type(loss).__name__}.values gave {tuple(found.shape)} for logits of {tuple(student.shape)}. "
                "Give one value a position, not reduced."
            )
        return found

    return values
