"""Flow of solution procedure: how one layer's states lead to another's."""

from itertools import pairwise

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.projection import ProjectedLayerLoss
from hf_distill.losses.states import sum_in_blocks, valid
from hf_distill.signals import ModelShape, Signals
from hf_distill.tasks import Task

Pair = tuple[Tensor, Tensor]


def _parts(pair: Pair, mask: Tensor | None) -> Pair:
    """The factors of the flow matrix: (batch, dim, positions), over their number, and (batch, positions, dim)."""
    first, second = (valid(states, mask) for states in pair)
    count = first.shape[1] if mask is None else mask.sum(-1).clamp(min=1)[:, None, None]
    return (first / count).transpose(1, 2), second


def _squares(first: Tensor, their_first: Tensor, second: Tensor, their_second: Tensor) -> Tensor:
    with torch.autocast(first.device.type, enabled=False):
        return (first @ second - their_first @ their_second).square().sum((1, 2))


def fsp(student_pair: Pair, teacher_pair: Pair, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the two flow matrices G = F1^T F2 / positions, mean over their entries.

    Goes over blocks of the first width where the matrices are large.

    Args:
        student_pair: states of two layers in the teacher's widths, shapes (batch, positions, dim) and
            (batch, positions, dim of its own).
        teacher_pair: states of two layers, likewise; without a mask their positions may be others.
        mask: shape (batch, positions), True where a position counts; None: all do. What is masked may hold NaN.

    Returns:
        One value per example, shape (batch,), float32; 0 for an example without positions. It grows with the fourth
        power of the states and its gradient with the third, which leaves the range of float16 states near 1e3.

    Raises:
        ValueError: the widths of the pairs differ.

    Reference: Yim et al. 2017, CVPR, doi:10.1109/CVPR.2017.754, equations 1 and 2.
    Differs from the paper: tokens or patches stand for the places of a map; the mean over entries, where the equation
    sums, so that a weight means the same at any width.
    """
    mine, theirs = ([states.shape[-1] for states in pair] for pair in (student_pair, teacher_pair))
    if mine != theirs:
        raise ValueError(
            f"fsp: the student's pair is {mine[0]} and {mine[1]} wide, the teacher's {theirs[0]} and {theirs[1]}. "
            "Project the student's states into the teacher's widths first."
        )
    first, second = _parts(student_pair, mask)
    their_first, their_second = _parts((teacher_pair[0].detach(), teacher_pair[1].detach()), mask)
    each = len(second) * second.shape[2]
    return sum_in_blocks(_squares, first, their_first, second, their_second, each=each) / (mine[0] * mine[1])


class FSP(ProjectedLayerLoss):
    """How the states of one matched layer lead to those of the next, over the valid tokens, mean over examples.

    Take it where the student should go the teacher's way and not reach the same states at each token: positions are
    averaged away. `HiddenMSE` compares the states themselves. Terms of neighbours in the map are added.

    Args:
        layers: {student layer: teacher layer}, at least two, related in the order of the map, ``"embeddings"`` among
            them; or ``"uniform"`` over the depth; see `LayerLoss`.
        projection: ``"auto"`` builds a linear one for each pair where the widths differ, ``"linear"`` always,
            ``"shared"`` one for all pairs; ``"none"`` refuses widths that differ.
        bias: whether projections have one.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Yim et al. 2017, A Gift from Knowledge Distillation, CVPR, doi:10.1109/CVPR.2017.754"

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: as `ProjectedLayerLoss.setup`, or fewer than two layers are matched.
        """
        super().setup(student, teacher, task)
        if len(self.matched) < 2:
            raise ValueError(
                f"FSP relates a matched layer to the next, and layers={self.layers!r} matches one. Pass a map of two "
                'or more, such as {"embeddings": "embeddings", -1: -1}.'
            )

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight: the sum over neighbours in the map."""
        states = []
        for index, (mine, theirs) in enumerate(self.pairs()):
            assert theirs is not None
            ours = self.project(index, batch.clean(mine, student[mine]))
            states.append((ours, batch.clean(theirs, teacher[theirs])))
        if not states:
            raise ValueError("FSP compares nothing; call its setup first.")
        terms = []
        for (first, their_first), (second, their_second) in pairwise(states):
            terms.append(self.compare((first, second), (their_first, their_second), batch))
        return sum(terms[1:], start=terms[0])

    def compare(self, student: Pair, teacher: Pair, batch: Batch) -> Tensor:  # type: ignore[override]
        """One pair of neighbours' share of the mean over the step, a scalar."""
        return batch.mean(fsp(student, teacher, batch.tokens), over="examples")
