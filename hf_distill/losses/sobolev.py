"""Sobolev training: the student's derivatives by its input match the teacher's, beside its answers."""

from typing import Literal

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Signal, input_gradient
from hf_distill.tasks import Task

SMALLEST = 1e-12  # of a norm: below it there is no direction

CITATION = "Czarnecki et al. 2017, Sobolev Training for Neural Networks, arXiv:1706.04859"


def gradient_match(student_gradient: Tensor, teacher_gradient: Tensor, normalize: bool = False) -> Tensor:
    """Squared distance of two derivatives by the token embeddings of an example.

    Args:
        student_gradient: shape (batch, tokens, dim), 0 on padding.
        teacher_gradient: shape (batch, tokens, dim), 0 on padding.
        normalize: divide each by its norm over tokens and dim first, so that only the direction counts.

    Returns:
        One value an example, summed over tokens and dim, shape (batch,), float32; with `normalize` 0 (same direction)
        to 4, where an example whose derivative vanishes on one side gives 1.

    Reference: Czarnecki et al. 2017, arXiv:1706.04859, the stochastic projection of the Jacobian; with `normalize`
    Wang et al. 2022, arXiv:2211.01071, gradient alignment.
    Differs from the papers: the norm is taken over a whole example, so that the share of each token stays in it.
    """
    student, teacher = student_gradient.float().flatten(1), teacher_gradient.detach().float().flatten(1)
    if normalize:
        student, teacher = _direction(student), _direction(teacher)
    return (student - teacher).square().sum(-1)


def _direction(rows: Tensor) -> Tensor:
    largest = rows.detach().abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    scaled = rows / largest  # squares of small derivatives would vanish
    squares = scaled.square().sum(-1, keepdim=True)
    return torch.where(squares > 0, scaled * squares.clamp(min=SMALLEST).rsqrt(), 0.0)


class Sobolev(Loss):
    """How the answer changes with each token, along the labels' loss or along random projections of the Jacobian.

    Take it beside `SoftTargets` where data are few: a derivative says what the teacher would answer near an example.
    It costs a backward pass of each model and a second derivative of the student, for which attention runs in its
    plain form while this loss is used. Token embeddings must be as wide as the teacher's, and students made from the
    teacher (`students.keep_layers`, `students.from_teacher`) have them in the same space. Not with `torch_compile`.

    Args:
        order: 1 matches derivatives; 2 also their derivatives along one random direction of the embeddings.
        projections: on how many random directions of the logits the Jacobian is projected; drawn anew in every step.
        along: ``"random"`` directions, which need no labels; ``"loss"`` is the labels' loss (one direction).
        normalize: compare directions only. None: for ``"loss"``, as gradient alignment does, and not for ``"random"``.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = CITATION

    def __init__(
        self,
        order: int = 1,
        projections: int = 1,
        along: Literal["random", "loss"] = "random",
        normalize: bool | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.order = order
        self.projections = projections
        self.along = along
        self.normalize = normalize

    @property
    def needs_labels(self) -> bool:  # type: ignore[override]
        """Only along the labels' loss."""
        return self.along == "loss"

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: an argument is out of range, there are no logits to differentiate, or the widths differ.
        """
        if self.order not in (1, 2):
            raise ValueError(f"Sobolev: order is {self.order}; it must be 1 or 2.")
        if self.projections < 1:
            raise ValueError(f"Sobolev: projections is {self.projections}; it must be at least 1.")
        if self.along not in ("random", "loss"):
            raise ValueError(f'Sobolev: along={self.along!r} is not "random" or "loss".')
        if task is Task.EMBEDDING:
            raise ValueError("Sobolev needs logits: an embedding model has none. Use HiddenMSE or RKDDistance.")
        if teacher is None:
            raise ValueError(
                "Sobolev needs the derivatives of a teacher model, and this teacher is not one. Leave it out."
            )
        if student.width != teacher.width:
            raise ValueError(
                f"Sobolev: the student is {student.width} wide, the teacher {teacher.width}, and derivatives by "
                "embeddings of other widths cannot be compared. Make the student from the teacher "
                "(students.keep_layers, students.from_teacher), or use HiddenMSE."
            )
        if self.along == "loss":
            self.citation = f"{CITATION}; Wang et al. 2022, gradient alignment, arXiv:2211.01071"

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        directions = ["loss"] if self.along == "loss" else list(range(self.projections))
        signals = [input_gradient(each, order) for each in directions for order in range(1, self.order + 1)]  # type: ignore[arg-type]
        return [(signal, signal) for signal in signals]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        normalize = self.along == "loss" if self.normalize is None else self.normalize
        directions = 1 if self.along == "loss" else self.projections
        return batch.mean(gradient_match(student, teacher, normalize) / directions, over="examples")
