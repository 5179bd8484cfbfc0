"""Confidence weighted by teacher max: the labels alone, those examples more of which the teacher is sure."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.signals import LOGITS, ModelShape, Signal
from hf_distill.tasks import Task


def cwtm(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the labels, each example weighted by the teacher's largest probability over the batch's sum.

    Args:
        student: logits, (..., classes).
        teacher: logits, (..., classes).
        labels: class ids, (...); a negative one takes no part.

    Returns:
        A scalar, float32; 0 where there is no label.

    Reference: Furlanello et al. 2018, arXiv:1805.04770, confidence weighted by teacher max.
    Differs from the paper: nothing.
    """
    total, mass = _weighted(student, teacher, labels)
    return total / mass.clamp(min=1e-12)


def _weighted(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum, and the sum of the weights."""
    known, classes = (labels >= 0).reshape(-1), student.shape[-1]
    mine, theirs = (torch.where(known[:, None], each.reshape(-1, classes), 0.0).float() for each in (student, teacher))
    weights = torch.where(known, theirs.detach().softmax(-1).amax(-1), 0.0)
    values = F.cross_entropy(mine, labels.reshape(-1).clamp(min=0), reduction="none")
    return (weights * values).sum(), weights.sum()


class CWTM(Loss):
    """The labels' cross entropy, weighted by how sure the teacher is of each example, and not by what it says.

    Take it instead of `TaskLoss` to see how much of a distillation is that some examples count more (as
    `schemes.born_again` does), or to learn less from labels that the teacher doubts. The weights of a batch sum to
    one: on several processes all their rows are one batch, but an accumulated micro-batch weighs its own rows only.

    Args:
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Furlanello et al. 2018, Born Again Neural Networks, arXiv:1805.04770"
    needs_labels: ClassVar[bool] = True
    relational: ClassVar[bool] = True

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the labels are no class ids.
        """
        if task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN, Task.EMBEDDING):
            raise ValueError(f"CWTM weighs labels that are class ids, and the task is {task}. Use TaskLoss.")

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, LOGITS)]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError("CWTM needs a labels column, and the batch has none. Add it, or leave CWTM out.")
        labels = torch.where(batch.predictions, batch.labels, -1)
        total, mass = _weighted(batch.align(student), batch.align(teacher), labels)
        return batch.mean(total / batch.mean_over_processes(mass).clamp(min=1e-12), over="batch")
