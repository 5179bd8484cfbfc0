"""Correlation congruence: how strongly two examples correlate, through a kernel, is the same for both models."""

from math import exp, factorial
from typing import Literal

import torch
from torch import Tensor

from hf_distill.losses.relation import RelationLoss, unit
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Pooling
from hf_distill.tasks import Task

Kernel = Literal["gaussian", "consecutive"]


def _correlations(rows: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma |a - b|^2) of unit rows, as exp(-2 gamma) times the series of exp(2 gamma a.b): (batch, batch)."""
    with torch.autocast(rows.device.type, enabled=False):
        cosines = unit(rows) @ unit(rows).T
    series = torch.ones_like(cosines)
    for power in range(1, order + 1):
        series = series + (2 * gamma) ** power / factorial(power) * cosines**power
    return exp(-2 * gamma) * series


def correlation_congruence(
    student: Tensor, teacher: Tensor, kernel: Kernel = "gaussian", gamma: float = 0.4, order: int = 2
) -> Tensor:
    """Squared difference of the two correlation matrices of a batch.

    Args:
        student: embeddings, shape (batch, dim).
        teacher: embeddings, shape (batch, dim of its own); (batch, dim) for ``"consecutive"``.
        kernel: ``"gaussian"`` compares Gaussian kernels of the directions, expanded as a Taylor series;
            ``"consecutive"`` is the variant of a widely used re-implementation, in a space that both share: the mean
            over i of the sum over dimensions of |d_i| |d_(i+1)| with d = student - teacher, which depends on the order
            of the rows. It takes neither of the arguments that follow.
        gamma: how fast the correlation falls with the squared distance of the unit vectors.
        order: the highest power of the series.

    Returns:
        A scalar, float32: mean over all batch^2 entries (the batch - 1 neighbours for ``"consecutive"``). 0, with
        gradient 0, for one row. Free of the lengths of the rows and of each side's rotation (not ``"consecutive"``).

    Reference: Peng et al. 2019 (CCKD), arXiv:1904.01802, the Gaussian kernel's correlation congruence.
    Differs from the paper: the diagonal, which is the same constant on both sides, is 0 exactly, also for a row of
    zeros, which has cosine 0 to all. The paper's terms on single examples are `SoftTargets` and `HiddenMSE`.
    """
    student, teacher = student.float(), teacher.detach().float()
    if kernel == "consecutive":
        apart = (student - teacher).abs()
        return (apart[:-1] * apart[1:]).sum() / max(1, len(student) - 1)
    difference = _correlations(student, gamma, order) - _correlations(teacher, gamma, order)
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    return torch.where(itself, 0.0, difference).square().mean()


class CorrelationCongruence(RelationLoss):
    """Gaussian kernels between the examples of a batch, of their directions alone. Any widths.

    Take it where the lengths of embeddings mean nothing, as in retrieval; `SimilarityPreserving` where they do,
    `RKDDistance` where the origin means nothing either.

    Args:
        kernel: ``"gaussian"``, of the directions; ``"consecutive"``, of neighbours in the batch, needs equal widths.
        gamma: how fast the correlation falls with the squared distance of the unit vectors.
        order: the highest power of the Gaussian's series.
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Peng et al. 2019, Correlation Congruence for Knowledge Distillation, arXiv:1904.01802"

    def __init__(
        self,
        kernel: Kernel = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
        pooling: Pooling = "first",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(pooling, weight)
        self.kernel: Kernel = kernel
        self.gamma = gamma
        self.order = order

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: an argument is out of range, or ``"consecutive"`` meets widths that differ.
        """
        super().setup(student, teacher, task)
        who = type(self).__name__
        if self.kernel not in ("gaussian", "consecutive"):
            raise ValueError(f'{who}: kernel={self.kernel!r} is not "gaussian" or "consecutive".')
        if self.gamma <= 0:
            raise ValueError(f"{who}: gamma is {self.gamma}; it must be above 0.")
        if self.order < 1:
            raise ValueError(f"{who}: order is {self.order}; it must be at least 1.")
        if self.kernel == "consecutive" and teacher is not None and student.width != teacher.width:
            raise ValueError(
                f'{who}: the student is {student.width} wide, the teacher {teacher.width}, and kernel="consecutive" '
                'subtracts one from the other. Pass kernel="gaussian".'
            )

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_congruence(student, teacher, self.kernel, self.gamma, self.order)
