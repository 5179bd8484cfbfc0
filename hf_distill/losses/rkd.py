"""Relational knowledge distillation: distances and angles between the examples of a batch."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_distill.losses.relation import RelationLoss, relative_distances, rounding

PIVOT_BLOCK_ELEMENTS = 2**22


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


def _cosines(rows: Tensor, pivots: Tensor) -> Tensor:
    """Cosines of the angle at each pivot between every two rows, 0 at a duplicate: (pivots, batch, batch)."""
    edges = rows[None] - pivots[:, None]
    squares = edges.square().sum(-1, keepdim=True)
    apart = squares > rounding(rows).square()
    edges = torch.where(apart, edges * torch.where(apart, squares, 1.0).rsqrt(), 0.0)
    with torch.autocast(rows.device.type, enabled=False):
        return edges @ edges.transpose(1, 2)


def _angle_block(rows: Tensor, pivots: Tensor, teacher: Tensor, teacher_pivots: Tensor) -> Tensor:
    return F.smooth_l1_loss(_cosines(rows, pivots), _cosines(teacher, teacher_pivots), reduction="sum")


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles that three examples form.

    Goes over blocks of pivots and computes each block again in backward: nothing of order batch^3 is held.

    Args:
        student: embeddings, shape (batch, dim).
        teacher: embeddings, shape (batch, dim of its own).

    Returns:
        A scalar, float32: mean over all batch^3 entries; a triplet with twice the same example adds 0 and is counted.

    Reference: Park et al. 2019, arXiv:1904.05068, section 3.2.2, the angle of equation 9.
    Differs from the paper: degenerate triplets are counted in the mean, as in the authors' code; an edge between
    duplicates has no direction, so its cosines are 0, with gradient 0.
    """
    student, teacher = student.float(), teacher.detach().float()
    rows = len(student)
    block = max(1, PIVOT_BLOCK_ELEMENTS // (rows * max(rows, student.shape[1], teacher.shape[1])))
    total = student.new_zeros(())
    for start in range(0, rows, block):
        pivots, theirs = student[start : start + block], teacher[start : start + block]
        if block >= rows:
            total = total + _angle_block(student, pivots, teacher, theirs)
        else:
            blocks = (student, pivots, teacher, theirs)
            total = total + checkpoint(_angle_block, *blocks, use_reentrant=False, preserve_rng_state=False)
    return total / rows**3


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
