"""Logits that were not computed yet: a vocabulary is large, and not every position of a batch counts.

Torch only. `capture` makes them, the losses that go position by position read them a few rows at a time, and to
everybody else they are a tensor like any other, made whole when it is touched.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.uncomputed import Uncomputed


class HeadLogits(Uncomputed):
    """Logits of one model, shape (batch, positions, classes), as what its last linear layer would make them of.

    Any operation gets the logits themselves, so that a model may go on working with them (soft-capping, a bias), and a
    loss that knows nothing of this class is right, at the cost of the whole tensor. Made by `of` and `placed`.

    Attributes:
        hidden: what enters the linear layer, one row for each position that was kept, (kept, width); the logits
            themselves, (kept, classes), where `weight` is None.
        weight: of the layer, (classes, width).
        bias: of the layer, (classes,), or None.
        rows: the place of each row in batch * positions, (kept,); None: the rows are all that there is.
    """

    hidden: Tensor
    weight: Tensor | None
    bias: Tensor | None
    rows: Tensor | None

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> "HeadLogits":
        """What a linear layer would answer.

        Args:
            hidden: (..., width).
            weight: (classes, width).
            bias: (classes,), or None.
        """
        return cls._standing_for((*hidden.shape[:-1], len(weight)), hidden.flatten(0, -2), weight, bias, None)

    @classmethod
    def placed(cls, logits: Tensor, rows: Tensor, positions: torch.Size) -> "HeadLogits":
        """Logits of some positions, in the place of those of all; the others are 0.

        Args:
            logits: (..., classes), one row for each of `rows`; not computed yet, or computed.
            rows: (kept,), where they stand in batch * positions.
            positions: (batch, positions).
        """
        shape = (*positions, logits.shape[-1])
        if isinstance(logits, HeadLogits) and logits.made is None:
            return cls._standing_for(shape, logits.hidden, logits.weight, logits.bias, rows)
        values = logits.made if isinstance(logits, HeadLogits) and logits.made is not None else logits
        return cls._standing_for(shape, values.flatten(0, -2), None, None, rows)

    @classmethod
    def _standing_for(
        cls, shape: Iterable[int], hidden: Tensor, weight: Tensor | None, bias: Tensor | None, rows: Tensor | None
    ) -> "HeadLogits":
        # at least float32, as accelerate makes a model's answer: it would convert it, and so make it whole
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        made: HeadLogits = cls.stand_in(tuple(shape), dtype, hidden.device)
        made.hidden, made.weight, made.bias, made.rows = hidden, weight, bias, rows
        return made

    def kept(self) -> Tensor:
        """The logits of the positions that were kept: (kept, classes)."""
        return self.hidden if self.weight is None else F.linear(self.hidden, self.weight, self.bias)

    def whole(self) -> Tensor:
        """The logits of all positions, 0 where one was not kept; computed once."""
        if self.made is None:
            found = self.kept().to(self.dtype)
            if self.rows is not None:
                everywhere = found.new_zeros(self.shape[:-1].numel(), found.shape[-1])
                found = everywhere.index_copy(0, self.rows, found)
            self.made = found.view(self.shape)
        return self.made
