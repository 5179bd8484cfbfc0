"""Soft targets: the student learns the teacher's whole answer, not only its best."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.logits import LogitLoss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape
from hf_distill.tasks import Task

SOFTMAX = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531"
LABEL_WISE = "Yang et al. 2023, Multi-Label Knowledge Distillation (L2D), arXiv:2308.06453"
STANDARDIZED = "Sun et al. 2024, Logit Standardization in Knowledge Distillation, arXiv:2403.01427"


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of the softened distributions, times temperature squared.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        temperature: divides both; above 1 it softens.

    Returns:
        One value in nats per position, shape (...), float32. Zero exactly where the distributions agree.

    Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2 (softmax: equation 1).
    Differs from the paper: its cross entropy is written as a KL, with the same gradient and zero at the optimum.
    """
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1) * temperature**2


def binary_kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of every label's own softened Bernoulli, summed over labels, times temperature squared.

    Args:
        student: logits, shape (..., labels).
        teacher: logits, shape (..., labels).
        temperature: divides both; above 1 it softens.

    Returns:
        One value in nats per position, shape (...), float32. Finite at any logit, in float16 too.

    Reference: Yang et al. 2023 (L2D), arXiv:2308.06453, the multi-label logits distillation.
    Differs from the paper: computed from log-sigmoids, where the authors' clamp gives NaN; the temperature is added.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    positive = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    negative = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (positive + negative).sum(-1) * temperature**2


def standardize(logits: Tensor) -> Tensor:
    """Each row with mean 0 and unbiased standard deviation 1, so that only the shape of the logits is learned.

    Args:
        logits: shape (..., classes).

    Returns:
        The same shape, float32.

    Reference: Sun et al. 2024, arXiv:2403.01427, algorithm 1.
    Differs from the paper: nothing (the 1e-7 beside the deviation is the authors').
    """
    logits = logits.float()
    return (logits - logits.mean(-1, keepdim=True)) / (logits.std(-1, keepdim=True) + 1e-7)


class SoftTargets(LogitLoss):
    """The teacher's logits as targets, by the task: softmax KL, per-label Bernoulli KL, or squared error.

    The first loss to take, with or without labels. Averages over predictions: examples, or for token tasks the tokens
    with a label (all attended tokens where the batch has no labels).

    Args:
        temperature: softens both sides; 1 to 4 is usual. Its square is inside the formula. Not used in regression.
        standardize: logits are standardised row by row first (Sun et al. 2024); single label and tokens only.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = SOFTMAX
    positionwise: ClassVar[bool] = True

    def __init__(
        self,
        temperature: float = 2.0,
        standardize: bool = False,
        chunk_size: int | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(chunk_size, weight)
        self.temperature = temperature
        self.standardize = standardize

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the temperature is not positive, there are no logits, or standardising does not fit the task.
        """
        super().setup(student, teacher, task)
        if self.standardize and task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN):
            raise ValueError(f"SoftTargets(standardize=True) is for classes, and the task is {task}. Leave it out.")
        if self.standardize and student.classes == 2:
            raise ValueError("SoftTargets(standardize=True): of two classes only the sign is left. Leave it out.")
        self.citation = LABEL_WISE if task is Task.MULTI_LABEL else SOFTMAX
        if self.standardize:
            self.citation = f"{SOFTMAX}; {STANDARDIZED}"

    @property
    def takes_top_k(self) -> bool:
        return not self.standardize

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        if self.standardize:
            student, teacher = standardize(student), standardize(teacher)
        return kl_divergence(student, teacher, self.temperature)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if batch.task is Task.MULTI_LABEL:
            by_label = binary_kl_divergence(student[..., None], teacher[..., None], self.temperature)
            return batch.mean(by_label, over="predictions")
        if batch.task is Task.REGRESSION:
            return batch.mean((student.float() - teacher.detach().float()).square().mean(-1), over="predictions")
        return super().compare(student, teacher, batch)
