"""Relational knowledge distillation: distances and angles between the examples of a batch."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_distill.losses.relation import RelationLoss, centred, relative_distances, rounding

PIVOT_BLOCK_ELEMENTS = 2**18  # cosines that are made at once on a CPU: they stay in a core's cache
ON_ACCELERATORS = 64  # so many times more there, where small operations wait for each other


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the normalised pairwise distances of the two.

    Args:
        student: embeddings, shape (batch, dim).
        teacher: embeddings, shape (batch, dim of its own).

    Returns:
        A scalar, float32: mean over all batch^2 entries, diagonal included. 0, with a finite gradient, for one row.

    Reference: Park et al. 2019, arXiv:1904.05068, equations 5 to 7.
    Differs from the paper: distances that are zero but for rounding (duplicates) count as zero, with gradient 0, and
    not in the normalising mean; the authors' code leaves exact zeros out of it likewise.
    """
    student, teacher = student.float(), teacher.detach().float()
    return F.smooth_l1_loss(relative_distances(student), relative_distances(teacher))


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles that three examples form.

    Cosines come from the products of all pairs, (e_j - e_i)(e_k - e_i) = G_jk - G_ij - G_ik + G_ii, so that no edge is
    made, for a block of pivots at a time; the gradient is made on the way, so that no block is kept or made twice. It
    can be differentiated once.

    Args:
        student: embeddings, shape (batch, dim).
        teacher: embeddings, shape (batch, dim of its own).

    Returns:
        A scalar, float32: mean over all batch^3 entries; a triplet with twice the same example adds 0 and is counted.

    Reference: Park et al. 2019, arXiv:1904.05068, section 3.2.2, the angle of equation 9.
    Differs from the paper: degenerate triplets are counted in the mean, as in the authors' code; an edge between
    duplicates has no direction, so its cosines are 0, with gradient 0.
    """
    found: Tensor = _Angle.apply(student, teacher.detach())  # type: ignore[no-untyped-call]
    return found


class _Angles:
    """All that the cosines between three of these rows, (batch, dim), are made of."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = centred(rows)
        self.products = self.rows @ self.rows.T
        squares = self.products.diagonal()
        self.by_pivot = (
            squares[:, None] / 2 - self.products
        )  # [i, j]: what j adds at the pivot i, in each of its angles
        between = squares[:, None] + squares - 2 * self.products
        apart = between > rounding(rows).square()
        self.inverse = torch.where(apart, torch.where(apart, between, 1.0).rsqrt(), 0.0)  # of distances

    def cosines(self, pivots: slice) -> Tensor:
        """At each pivot between every two rows, 0 at a duplicate, float32: (pivots, batch, batch)."""
        mine, inverse = self.by_pivot[pivots], self.inverse[pivots]
        found = (self.products + mine[:, :, None]).add_(mine[:, None, :])
        return found.mul_(inverse[:, :, None]).mul_(inverse[:, None, :]).float()


class _Angle(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        with torch.autocast(student.device.type, enabled=False):
            total, gradient = _angle(student, teacher, ctx.needs_input_grad[0])
        ctx.gradient, ctx.dtype = gradient, student.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return (ctx.gradient * upstream).to(ctx.dtype), None  # in float16 only once it is scaled


def _angle(student: Tensor, teacher: Tensor, wants_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss and, where it is wanted, its gradient by the student's rows, float32."""
    count, mine, theirs = len(student), _Angles(student.detach().float()), _Angles(teacher.float())
    elements = PIVOT_BLOCK_ELEMENTS * (1 if student.device.type == "cpu" else ON_ACCELERATORS)
    block = max(1, elements // count**2)
    total = mine.products.new_zeros(())
    by_products, by_pivot, by_inverse = (torch.zeros_like(mine.products) for _ in range(3))
    for start in range(0, count, block):
        pivots = slice(start, start + block)
        cosines, others = mine.cosines(pivots), theirs.cosines(pivots)
        total += F.smooth_l1_loss(cosines, others, reduction="sum")
        if wants_gradient:
            by_cosine = torch.sub(cosines, others, out=others).clamp_(-1, 1)  # Huber's derivative
            inverse = mine.inverse[pivots].float()
            by_inverse[pivots] = cosines.mul_(by_cosine).sum(-1)  # times inverse and two: an angle has two such edges
            by_pivot[pivots] = 2 * inverse * (by_cosine @ inverse[:, :, None]).squeeze(-1)
            by_products += by_cosine.mul_(inverse[:, :, None]).mul_(inverse[:, None, :]).sum(0)
    if not wants_gradient:
        return (total / count**3).float(), None
    by_square = -by_inverse * mine.inverse.square()  # of the distance between two rows
    by_products -= by_pivot + 2 * by_square
    by_products.diagonal().add_(by_pivot.sum(1) / 2 + by_square.sum(0) + by_square.sum(1))
    gradient = (by_products + by_products.T) @ mine.rows
    gradient -= gradient.mean(0)  # the rows were centred
    return (total / count**3).float(), (gradient / count**3).float()


class RKDDistance(RelationLoss):
    """Distances between the examples of a batch, each side over its own mean distance. Any widths.

    Take it for embeddings, and where student and teacher share no space; with `RKDAngle` at twice the weight, as the
    paper does. The batch is what it learns from: on several processes all their rows are one batch, but an accumulated
    micro-batch sees only its own relations, so 4 x 2 accumulated differs from 8 at once.

    Args:
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    fewest: ClassVar[int] = 3
    citation: str = "Park et al. 2019, Relational Knowledge Distillation, arXiv:1904.05068"

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        return rkd_distance(student, teacher)


class RKDAngle(RelationLoss):
    """Angles between the examples of a batch, at every one of them. Any widths.

    Take it beside `RKDDistance`, at twice its weight as the paper does, rather than alone: angles see the shape of
    what lies between three examples and not its size. `RelativeSimilarity` asks only which of two is nearer. It learns
    nothing from fewer than three examples, and more from large batches; time grows with batch^3.

    Args:
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    fewest: ClassVar[int] = 3
    citation: str = "Park et al. 2019, Relational Knowledge Distillation, arXiv:1904.05068"

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        return rkd_angle(student, teacher)
