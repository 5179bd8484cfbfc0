"""Relative similarity: which of two examples is nearer to a third, by the majority of the teachers."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_distill.batch import Batch
from hf_distill.losses.relation import RelationLoss, distances, relative_distances, rounding
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Pooling, Signal, Signals, pooled
from hf_distill.tasks import Task

PIVOT_BLOCK_ELEMENTS = 2**22


def _hinges(student: Tensor, teachers: list[Tensor], ties: list[Tensor], margin: float) -> tuple[Tensor, Tensor]:
    """Sum and number of the hinges at some pivots, from distances of shape (pivots, batch)."""
    votes = torch.zeros((), dtype=torch.int16, device=student.device)
    for theirs, tie in zip(teachers, ties, strict=True):
        farther = theirs[:, None, :] - theirs[:, :, None]  # of the pair (j, k): by how much k is the farther one
        votes = votes + (farther > tie).short() - (farther < -tie).short()
    hinges = F.relu(margin + student[:, :, None] - student[:, None, :])
    ordered = votes > 0
    return torch.where(ordered, hinges, 0.0).sum(), ordered.sum()


def relative_similarity(student: Tensor, teachers: Sequence[Tensor], margin: float) -> Tensor:
    """Hinge loss on the order of distances: of two examples the one nearer to a third by vote is nearer by a margin.

    Goes over blocks of pivots and computes each block again in backward: nothing of order batch^3 is held.

    Args:
        student: embeddings, shape (batch, dim).
        teachers: embeddings of each teacher, shape (batch, dim of its own). Each votes on every triplet i, j, k of
            distinct examples for d(i, j) < d(i, k) or the contrary; distances that are equal but for rounding give no
            vote, and a draw decides nothing.
        margin: how much nearer, as a share of the student's mean distance. Not 0 where student and teacher agree but
            two distances differ by less.

    Returns:
        A scalar, float32: mean over the triplets that were decided. 0, with gradient 0, where there is none, as for
        fewer than three rows. Free of each side's scale, place and rotation.

    Reference: You et al. 2017, KDD, doi:10.1145/3097983.3098135, the relative dissimilarity of intermediate layers.
    Differs from the paper: the student's distances are over their mean, so that the margin has a scale and cannot be
    met by longer vectors alone; all triplets of a batch are taken.
    """
    mine = relative_distances(student.float())
    rows = [teacher.detach().float() for teacher in teachers]
    theirs, ties = [distances(each) for each in rows], [rounding(each) for each in rows]
    total, count = mine.sum() * 0.0, torch.zeros((), dtype=torch.long, device=mine.device)
    itself = torch.eye(len(mine), dtype=torch.bool, device=mine.device)
    theirs = [each.masked_fill(itself, torch.nan) for each in theirs]  # no vote on triplets that hold the pivot again
    block = max(1, PIVOT_BLOCK_ELEMENTS // len(mine) ** 2)
    for start in range(0, len(mine), block):
        pivots = slice(start, start + block)
        blocks = (mine[pivots], [each[pivots] for each in theirs], ties, margin)
        if block >= len(mine):
            hinges, decided = _hinges(*blocks)
        else:
            hinges, decided = checkpoint(_hinges, *blocks, use_reentrant=False, preserve_rng_state=False)
        total, count = total + hinges, count + decided
    return total / count.clamp(min=1)


class RelativeSimilarity(RelationLoss):
    """The order of the distances between the examples of a batch, and not their size. Any widths.

    Take it where only the ranking is used, as in search, or where the teacher's distances are too far from what the
    student can reach for `RKDDistance`. Time grows with batch^3. With one teacher its own order counts, with an
    `EnsembleTeacher` that of the majority of its members; `.of(1)` takes the order of one of them.

    Args:
        margin: how much nearer the nearer one must be, as a share of the student's mean distance.
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    fewest: ClassVar[int] = 3
    citation: str = "You et al. 2017, Learning from Multiple Teacher Networks, doi:10.1145/3097983.3098135"

    def __init__(self, margin: float = 0.1, pooling: Pooling = "first", weight: Weight = 1.0) -> None:
        super().__init__(pooling, weight)
        self.margin = margin
        self._voters: list[int] = []  # members of an ensemble; none: the teacher is one

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the pooling is not known, the margin is negative, or no member of an ensemble is a model.
        """
        super().setup(student, teacher, task)
        members = () if teacher is None else teacher.members
        self._voters = [number for number, each in enumerate(members) if each is not None and each.width]
        if members and not self._voters:
            raise ValueError(
                f"{type(self).__name__}: no teacher of the {len(members)} has hidden states to vote with."
            )
        if self.margin < 0:
            raise ValueError(f"{type(self).__name__}: margin is {self.margin}; it must be at least 0.")

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        mine = pooled(self.pooling)
        return [(mine, mine.of(number)) for number in self._voters] or [(mine, mine)]

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight: one vote for each teacher."""
        mine = pooled(self.pooling)
        theirs = [teacher[signal] for _, signal in self.pairs() if signal is not None]
        for each in theirs:
            self.check_rows(mine, student[mine], each)
        rows = [batch.gather(each) for each in theirs]
        self._say_if_nothing_is_related(rows[0])
        return batch.mean(relative_similarity(batch.gather(student[mine]), rows, self.margin), over="batch")

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        return relative_similarity(student, [teacher], self.margin)
