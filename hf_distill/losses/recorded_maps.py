"""Attention maps compared in blocks, from the queries and keys that they would be made of.

No map of the student ever exists as a whole, and none of the teacher where its attention was recorded too. The
gradients by queries, keys and position bias are made in the forward, block by block, while a block's scores are there,
so that nothing is computed twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import log
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_distill.batch import Batch
from hf_distill.losses import states
from hf_distill.recorded import AttentionRecord, RecordedMap, rows_of, wide

# of one map: larger ones are made in blocks of examples, or of the query rows of one example
BLOCK_ELEMENTS = 2**19  # on a processor what its cache holds is fastest: smaller ones are slower, and larger ones too
SMALLEST = torch.finfo(torch.float32).tiny  # what a probability of 0 is taken for in a logarithm, as in `attention_kl`

Compare = Callable[[AttentionRecord, Tensor, slice, slice], tuple[Tensor, Tensor]]  # of a block: sum, its gradient


def stays_recorded(student: Tensor) -> TypeGuard[RecordedMap]:
    """Whether a map was recorded and nobody made it yet, so that the functions below serve.

    A mask that is learned (some families add their position bias there) has its gradient from the map itself.
    """
    if not isinstance(student, RecordedMap) or not student.untouched:
        return False
    return student.record.mask is None or not student.record.mask.requires_grad


def recorded_kl(student: RecordedMap, teacher: Tensor, batch: Batch, heads: int | None = None) -> Tensor:
    """`batch.mean` of `attention_kl` over tokens, from log-probabilities that are no logarithms of probabilities.

    Args:
        student: probabilities, not computed yet: gradients go to the queries, keys and bias.
        teacher: probabilities, (batch, heads of its own, query, key), computed or not.
        batch: knows which queries count.
        heads: of how many groups of consecutive heads the averages are compared; None: each head.

    Returns:
        A scalar. It is differentiated once only, by as many backward passes as there may be.

    Raises:
        ValueError: the maps have other rows than the batch, or other positions than one another.
    """
    _check(student, teacher, batch, heads)
    groups = heads or student.shape[1]
    compare = partial(_kl, teacher=teacher, tokens=batch.tokens, groups=groups)
    return _share(_sum(student, compare) / groups, batch, "tokens", student.shape[2])


def recorded_mse(student: RecordedMap, teacher: Tensor, batch: Batch, heads: int | None = None) -> Tensor:
    """`batch.mean` of `attention_mse` over pairs; all else as in `recorded_kl`, of scores and not of probabilities."""
    _check(student, teacher, batch, heads)
    groups = heads or student.shape[1]
    compare = partial(_mse, teacher=teacher, pairs=batch.pairs, groups=groups)
    return _share(_sum(student, compare) / groups, batch, "pairs", student.shape[2] * student.shape[3])


def _share(total: Tensor, batch: Batch, over: str, each: int) -> Tensor:
    """What `Batch.mean` makes of a sum over what counts; `each`: how much that is in an example without padding."""
    return total / batch.divisor(over) / (each if batch.tokens is None else 1)


def _check(student: Tensor, teacher: Tensor, batch: Batch, heads: int | None) -> None:
    if len(student) != batch.rows:
        raise ValueError(f"mean over examples needs values of {batch.rows} rows, got {len(student)}.")
    mine, theirs = (shape if heads is None else (shape[0], *shape[2:]) for shape in (student.shape, teacher.shape))
    if mine != theirs:
        raise ValueError(
            f"the student's attention map is {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}: (batch, "
            "heads, query, key), which are compared one by one. Give both the same tokens."
        )


def _sum(student: RecordedMap, compare: Compare) -> Tensor:
    record = student.record
    return _InBlocks.apply(  # type: ignore[no-untyped-call, no-any-return]
        record.query, record.key, record.bias, record, compare, torch.is_grad_enabled()
    )


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, slice]]:
    """Examples and queries of each block."""
    examples, heads, queries, _ = query.shape
    a_row = heads * key.shape[2]
    size = BLOCK_ELEMENTS if query.device.type == "cpu" else states.BLOCK_ELEMENTS
    many, rows = max(1, size // (a_row * queries)), min(queries, max(1, size // a_row))
    for first in range(0, examples, many):
        for row in range(0, queries, rows):
            yield slice(first, first + many), slice(row, row + rows)


def _cut(parts: Sequence[Tensor], examples: slice, queries: slice) -> list[Tensor]:
    """A block of queries, keys and, where there is one, bias."""
    query, key, *bias = parts
    return [query[examples, :, queries], key[examples], *(rows_of(each, examples, queries) for each in bias)]


class _InBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        bias: Tensor | None,
        record: AttentionRecord,
        compare: Compare,
        trained: bool,
    ) -> Tensor:
        parts = [query, key] if bias is None else [query, key, bias]
        trained = trained and any(ctx.needs_input_grad)
        gradients = [torch.zeros_like(each, dtype=wide(each)) for each in parts] if trained else []
        total = query.new_zeros((), dtype=wide(query))
        with torch.autocast(query.device.type, enabled=False):
            for place in _blocks(query, key):
                block = record.part(*place)
                leaves = [each.detach().to(wide(each)).requires_grad_(trained) for each in _cut(parts, *place)]
                mine, theirs, *more = leaves
                with torch.enable_grad():
                    scores = replace(block, query=mine, key=theirs, bias=more[0] if more else None).scores()
                value, by_scores = compare(block, scores.detach(), *place)
                total += value
                if trained:
                    found = torch.autograd.grad(scores, leaves, by_scores)
                    for each, gradient in zip(_cut(gradients, *place), found, strict=True):
                        each += gradient
        ctx.save_for_backward(*gradients)
        ctx.dtypes = [each.dtype for each in parts]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        found = [(each * upstream).to(dtype) for each, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return *found, *[None] * (6 - len(found))


def _grouped(each: Tensor, groups: int) -> Tensor:
    """(batch, heads, query, key) -> (batch, groups, heads of a group, query, key)."""
    return each.view(len(each), groups, -1, *each.shape[2:])


def _kl(
    block: AttentionRecord,
    scores: Tensor,
    examples: slice,
    queries: slice,
    teacher: Tensor,
    tokens: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Sum over queries that count and over groups of heads, and its gradient by the student's scores."""
    scores, seen = block.masked(scores)
    log_each = scores.log_softmax(-1)
    each = log_each.exp()  # before keys that are not seen become finite
    if seen is not None:
        log_each.masked_fill_(~seen, log(SMALLEST))
    log_mine = _mean_of_heads(log_each, groups)
    theirs, log_theirs = _teachers(teacher, examples, queries, groups)
    values = log_theirs.sub_(log_mine).mul_(theirs).sum((1, 3))
    pull = theirs  # minus the derivative by each head's log-probabilities
    if each.shape[1] > groups:
        share = (_grouped(log_each, groups) - log_mine[:, :, None]).exp_()  # of a head in its group's sum
        pull = share.mul_(theirs[:, :, None]).div_(each.shape[1] // groups).flatten(1, 2)
    if seen is not None:
        pull.masked_fill_(~seen, 0.0)
    by_scores = each.mul_(pull.sum(-1, keepdim=True)).sub_(pull)
    if tokens is None:
        return values.sum(), by_scores
    counted = tokens[examples, queries]
    return torch.where(counted, values, 0.0).sum(), by_scores.masked_fill_(~counted[:, None, :, None], 0.0)


def _mean_of_heads(log_each: Tensor, groups: int) -> Tensor:
    """Log of the mean over groups of heads, of logs: (batch, heads, query, key) -> (batch, groups, query, key)."""
    many = log_each.shape[1] // groups
    return log_each if many == 1 else _grouped(log_each, groups).logsumexp(2) - log(many)


def _teachers(teacher: Tensor, examples: slice, queries: slice, groups: int) -> tuple[Tensor, Tensor]:
    """Probabilities and their logarithms, both for the asker to write into."""
    if isinstance(teacher, RecordedMap) and teacher.untouched:
        block = teacher.record.part(examples, queries)
        scores, seen = block.masked(block.scores().detach())
        log_each = scores.log_softmax(-1)
        if seen is not None:
            log_each.masked_fill_(~seen, torch.finfo(log_each.dtype).min)  # also where no key is seen
        log_theirs = _mean_of_heads(log_each, groups)
        return log_theirs.exp(), log_theirs
    theirs = rows_of(teacher.detach(), examples, queries)
    theirs = _grouped(theirs.to(wide(theirs)), groups).mean(2)
    return theirs, theirs.clamp(min=SMALLEST).log_()


def _mse(
    block: AttentionRecord,
    scores: Tensor,
    examples: slice,
    queries: slice,
    teacher: Tensor,
    pairs: Tensor | None,
    groups: int,
) -> tuple[Tensor, Tensor]:
    """Sum over pairs that count and over groups of heads, and its gradient by the student's scores."""
    if isinstance(teacher, RecordedMap) and teacher.untouched:
        theirs = teacher.record.part(examples, queries).scores().detach()
    else:
        theirs = rows_of(teacher.detach(), examples, queries)
        theirs = theirs.to(wide(theirs))
    mine, theirs = (_grouped(each, groups).mean(2) for each in (scores, theirs))
    apart = mine - theirs
    if pairs is not None:
        apart = torch.where(pairs[examples, queries][:, None], apart, 0.0)
    many = scores.shape[1] // groups
    by_scores = apart.mul(2.0 / many)
    return apart.square().sum(), by_scores.repeat_interleave(many, dim=1) if many > 1 else by_scores
