"""DIST: correlation with a stronger teacher instead of agreement, of each example's classes and of each class."""

from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import LOGITS, ModelShape, Signal
from hf_distill.tasks import Task

CONSTANT = 1e-5  # of a vector's length: what deviates less from its mean is constant but for rounding
NOTHING = 1e-30  # a probability below this is 0: the gradient of a correlation goes with its inverse


def _deviations(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Centred rows of length 1, 0 for constant ones, and which are not: (rows, dim) -> (rows, dim), (rows,)."""
    largest = rows.detach().abs().amax(-1, keepdim=True)
    rows = rows / torch.where(largest > NOTHING, largest, 1.0)  # small ones would square to 0, as nothing shall
    centred = rows - rows.mean(-1, keepdim=True)
    squares = centred.square().sum(-1, keepdim=True)
    varies = squares > CONSTANT**2 * rows.detach().square().sum(-1, keepdim=True)
    return torch.where(varies, centred * torch.where(varies, squares, 1.0).rsqrt(), 0.0), varies[:, 0]


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - Pearson correlation of each row, mean over rows; 0 for a row in which the teacher is constant."""
    (mine, moves), (theirs, teaches) = _deviations(student), _deviations(teacher)
    # half the squared distance of two unit vectors is 1 - cosine, without its cancellation
    apart = torch.where(moves, (mine - theirs).square().sum(-1) / 2, 1.0)
    return torch.where(teaches, apart, 0.0).mean()


def _dist(student: Tensor, teacher: Tensor, beta: float, gamma: float) -> Tensor:
    return beta * _distance(student, teacher) + gamma * _distance(student.T, teacher.T)


def dist(student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> Tensor:
    """1 - correlation of the softened probabilities: of every row over classes, and of every class over rows.

    Args:
        student: logits, shape (batch, classes).
        teacher: logits, shape (batch, classes).
        beta: weight of the inter-class part, the mean over rows of 1 - Pearson over classes. It is 0 or 2, with no
            gradient, where there are two classes.
        gamma: weight of the intra-class part, the mean over classes of 1 - Pearson over rows.
        temperature: divides both; above 1 it softens. Its square is inside the formula.

    Returns:
        A scalar, float32, from 0 to 2 (beta + gamma) temperature squared. A row or class in which the teacher is
        constant has nothing to teach and adds 0, so the intra-class part of one row is 0; one in which only the
        student is constant adds 1, uncorrelated, with gradient 0. Both are counted in the mean.

    Reference: Huang et al. 2022, arXiv:2205.10536, equations 8 and 9.
    Differs from the paper: constant vectors, for which it has no value, as above. The authors' code adds 1e-8 to the
    product of the deviations instead, which draws the correlation of many small probabilities towards 0.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    return _dist(student.softmax(-1), teacher.softmax(-1), beta, gamma) * temperature**2


def binary_dist(
    student: Tensor, teacher: Tensor, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """`dist` for several labels an example: of the softened sigmoids, over labels and over rows.

    Args:
        student: logits, shape (batch, labels).
        teacher: logits, shape (batch, labels).
        beta: weight of the mean over rows of 1 - Pearson over labels.
        gamma: weight of the mean over labels of 1 - Pearson over rows.
        temperature: divides both; above 1 it softens. Its square is inside the formula.

    Returns:
        A scalar, float32, as `dist`.

    Reference: Huang et al. 2022, arXiv:2205.10536, equations 8 and 9.
    Differs from the paper: it has one label an example and a softmax.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    return _dist(student.sigmoid(), teacher.sigmoid(), beta, gamma) * temperature**2


class DIST(Loss):
    """Correlations with the teacher's probabilities: within each example and, per class, over the whole batch.

    Take it in place of `SoftTargets` where the teacher is so much stronger that its exact probabilities are out of
    reach: only their order and proportions are learned. For classifiers, single or multi-label. On several processes
    all their rows are one batch; an accumulated micro-batch sees only its own rows in the intra-class part, so that
    4 x 2 accumulated differs from 8 at once.

    Args:
        beta: weight of the inter-class part (each example over its classes).
        gamma: weight of the intra-class part (each class over the batch; nothing for a batch of one).
        temperature: softens both sides. Its square is inside the formula.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Huang et al. 2022, Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536"
    relational: ClassVar[bool] = True

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the task is not one of classes per example, or the temperature is not positive.
        """
        if task is Task.EMBEDDING:
            raise ValueError("DIST needs logits: an embedding model has none. Use RKDDistance.")
        if task not in (Task.SINGLE_LABEL, Task.MULTI_LABEL):
            raise ValueError(f"DIST is not for {task}: it correlates the classes of whole examples. Use SoftTargets.")
        if self.temperature <= 0:
            raise ValueError(f"DIST: temperature is {self.temperature}; it must be above 0.")

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, LOGITS)]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = batch.gather(batch.align(student)), batch.gather(batch.align(teacher))
        function = binary_dist if batch.task is Task.MULTI_LABEL else dist
        return batch.mean(function(student, teacher, self.beta, self.gamma, self.temperature), over="batch")
