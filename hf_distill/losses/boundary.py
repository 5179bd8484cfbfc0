"""Boundary samples: the student learns the teacher's answers where its decision changes."""

from typing import ClassVar

from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.losses.schedules import Weight
from hf_distill.losses.soft_targets import binary_kl_divergence, kl_divergence
from hf_distill.signals import BOUNDARY, LOGITS, ModelShape, Signal, Signals
from hf_distill.tasks import Task


def boundary_divergence(student: Tensor, teacher: Tensor, temperature: float = 3.0, binary: bool = False) -> Tensor:
    """KL(teacher || student) of the softened answers at boundary samples, times temperature squared.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        temperature: divides both; above 1 it softens.
        binary: whether every label is a distribution of its own over yes and no (multi-label), summed over labels.

    Returns:
        One value in nats an example, shape (...), float32; 0 where both sides are the same.

    Reference: Heo et al. 2018, arXiv:1805.05532, the boundary supporting loss.
    Differs from the paper: temperature squared is inside, as for soft targets; labels that are not exclusive.
    """
    return (binary_kl_divergence if binary else kl_divergence)(student, teacher, temperature)


class BoundaryTargets(Loss):
    """Soft targets at boundary samples: inputs moved until the teacher's decision changes.

    Take it by way of `schemes.adversarial`, which sets it beside the labels and the soft targets of the examples
    themselves; the teacher must be an `augment.boundary.BoundaryTeacher`, which makes the samples. The mean is over
    all examples, those without a sample count 0; so do all in an evaluation, where none are made.

    Args:
        temperature: softens both sides. Its square is inside the formula.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = (
        "Heo et al. 2018, Knowledge Distillation with Adversarial Samples Supporting Decision Boundary, "
        "arXiv:1805.05532"
    )
    tasks: ClassVar[tuple[Task, ...]] = (Task.SINGLE_LABEL, Task.MULTI_LABEL)

    def __init__(self, temperature: float = 3.0, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.temperature = temperature

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the temperature is not positive, or the models are no classifiers of one or several labels.
        """
        if self.temperature <= 0:
            raise ValueError(f"BoundaryTargets: temperature is {self.temperature}; it must be above 0.")
        if task not in self.tasks:
            raise ValueError(
                f"BoundaryTargets is for classifiers of whole examples, and the task is {task}. Use SoftTargets."
            )

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, BOUNDARY)]

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        mine, theirs = teacher[BOUNDARY].unbind(1)
        return self.compare(mine, theirs, batch)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = boundary_divergence(student, teacher, self.temperature, batch.task is Task.MULTI_LABEL)
        return batch.mean(values, over="examples")
