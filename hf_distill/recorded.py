"""Attention as it was recorded: queries, keys and masks. Maps are made of them when somebody asks, or never.

Torch only. `anatomy` makes the records and `capture` hands out their maps; `losses.recorded_maps` compares these in
blocks, and to everybody else they are a tensor like any other, made whole when it is touched.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_distill.uncomputed import Uncomputed


@dataclass(frozen=True)
class AttentionRecord:
    """What one attention call was given, by reference: nothing is computed until it is asked for.

    Args:
        query: (batch, heads, query, head width).
        key: (batch, key-value heads, key, head width).
        value: as `key`; None where only maps are asked for.
        mask: True or 0 where a query sees a key, (batch or 1, heads or 1, query or 1, key); or which keys are no
            padding, (batch, key), as flash attention is told; or None.
        scaling: of the products; None: one over the root of the head width.
        causal: whether, without a mask, no query sees a later key.
        bias: added to the scores, (batch or 1, heads, query, key).
        window: how far a query sees, where the kernel masks by itself.
        cap: the largest score that there may be.
        first: the place of the first query.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    mask: Tensor | None
    scaling: float | None
    causal: bool
    bias: Tensor | None
    window: int | None = None
    cap: float | None = None
    first: int = 0

    def signal(self, kind: str) -> Tensor:
        """What a signal of that kind is: `attention`, `attention_scores`, `query`, `key` or `value`."""
        if kind in ("attention", "attention_scores"):
            return RecordedMap.of(replace(self, value=None), scores=kind == "attention_scores")
        part: Tensor = getattr(self, kind)
        return part

    def part(self, examples: slice, queries: slice) -> "AttentionRecord":
        """The attention of some queries of some examples."""
        mask = self.mask
        if mask is not None:
            mask = mask[examples] if mask.dim() == 2 else rows_of(mask, examples, queries)
        return replace(
            self,
            query=self.query[examples, :, queries],
            key=self.key[examples],
            value=None,
            mask=mask,
            bias=None if self.bias is None else rows_of(self.bias, examples, queries),
            first=self.first + queries.start,
        )

    def scores(self) -> Tensor:
        """Scaled products, capped or with position bias where they are so: (batch, heads, query, key).

        At least float32, as maps are.
        """
        query, key = (each.to(wide(each)) for each in (self.query, self.key))
        if query.shape[1] > key.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scaling = self.scaling if self.scaling is not None else query.shape[-1] ** -0.5
        with torch.autocast(query.device.type, enabled=False):
            scores = (query * scaling) @ key.transpose(-1, -2)
            scores = scores if self.cap is None else (scores / self.cap).tanh() * self.cap
        return scores if self.bias is None else scores + self.bias.to(wide(self.bias))

    def masked(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores as the softmax is given them.

        Args:
            scores: of `scores`; changed in place where they have no gradient.

        Returns:
            The scores, lowest where a key is not seen; and which keys are, bool, broadcastable to them, None: all.
        """
        mask = self.mask
        if mask is None or mask.dim() == 2:  # flash attention is told which keys are padding, and nothing else
            mask = self._kernel_mask(mask)
        if mask is None:
            return scores, None
        if mask.dtype is not torch.bool:
            seen = mask > torch.finfo(mask.dtype).min / 2
            scores, mask = scores + mask.to(wide(mask)).masked_fill(~seen, 0.0), seen
        fill = scores.masked_fill if scores.requires_grad else scores.masked_fill_
        return fill(~mask, torch.finfo(scores.dtype).min), mask

    def probabilities(self) -> Tensor:
        """Softmax over the keys that the mask leaves, exactly 0 on the others: (batch, heads, query, key)."""
        scores, seen = self.masked(self.scores())
        if scores.requires_grad:
            return scores.softmax(-1) if seen is None else scores.softmax(-1) * seen
        return _softmax_(scores) if seen is None else _softmax_(scores).mul_(seen)

    def _kernel_mask(self, keys: Tensor | None) -> Tensor | None:
        """What a kernel masks by itself: later keys, those outside of its window, and padding."""
        mask = None if keys is None else keys[:, None, None, :].bool()
        if not self.causal and self.window is None:
            return mask
        mine, theirs = (torch.arange(each.shape[2], device=each.device) for each in (self.query, self.key))
        apart = (mine + self.first)[:, None] - theirs
        seen = apart >= 0 if self.causal else torch.ones_like(apart, dtype=torch.bool)
        if self.window is not None:
            seen &= apart.abs() < self.window
        return seen if mask is None else mask & seen


class RecordedMap(Uncomputed):
    """Attention probabilities or scores of one layer, (batch, heads, query, key), as what they would be made of.

    Attributes:
        record: what was recorded.
        scores: whether it stands for the scores before mask and softmax.
        source: the map that this one is with 0 in some places; None: it is none.
        kept: which places are not 0, bool, broadcastable to the map; None: all of them.
    """

    record: AttentionRecord
    scores: bool
    source: "RecordedMap | None"
    kept: Tensor | None

    @classmethod
    def of(cls, record: AttentionRecord, scores: bool = False) -> "RecordedMap":
        """The map that a record would give."""
        shape = (*record.query.shape[:3], record.key.shape[2])
        found: RecordedMap = cls.stand_in(shape, wide(record.query), record.query.device)
        found.record, found.scores, found.source, found.kept = record, scores, None, None
        return found

    def cleaned(self, kept: Tensor) -> "RecordedMap":
        """The same with 0 where `kept` is False: the places of padding, which no sum over what counts contains."""
        found = self.of(self.record, self.scores)
        found.source, found.kept = self, kept
        return found

    @property
    def untouched(self) -> bool:
        """Whether nobody asked for the map itself; afterwards it may have been changed in place."""
        return self.made is None and (self.source is None or self.source.untouched)

    def whole(self) -> Tensor:
        """The map itself; computed once, and again if it has no gradient from then and should have one now."""
        record = self.record
        parts = (record.query, record.key, record.bias, record.mask)
        trained = any(each is not None and each.requires_grad for each in parts)
        if self.made is None or (trained and torch.is_grad_enabled() and not self.made.requires_grad):
            if self.source is not None and self.kept is not None:
                self.made = torch.where(self.kept, self.source.whole(), 0.0)
            else:
                self.made = record.scores() if self.scores else record.probabilities()
        return self.made


def wide(tensor: Tensor) -> torch.dtype:
    """The type of a tensor, at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def rows_of(tensor: Tensor, examples: slice, queries: slice) -> Tensor:
    """Some queries of some examples, as a view; axes of length 1 stand for all.

    Args:
        tensor: (batch or 1, ..., query or 1, key).
        examples: which of axis 0.
        queries: which of the last axis but one.
    """
    found = tensor if tensor.shape[0] == 1 else tensor[examples]
    return found if tensor.shape[-2] == 1 else found[..., queries, :]


def _softmax_(scores: Tensor) -> Tensor:
    """Over the last axis, in place: of a teacher's maps no copy is made."""
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    return scores.div_(scores.sum(-1, keepdim=True))
