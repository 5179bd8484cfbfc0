"""Squared error of the logits themselves."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.logits import LogitLoss
from hf_distill.tasks import Task


def logit_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference, mean over the classes.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).

    Returns:
        One value per position, shape (...), float32. Zero exactly where the logits agree, not only up to a constant.

    Reference: Kim et al. 2021, arXiv:2105.08919, the squared error of logits; before it Ba, Caruana 2014.
    Differs from the paper: the mean over classes, where it sums (as DistilBERT's code does).
    """
    return F.mse_loss(student.float(), teacher.detach().float(), reduction="none").mean(-1)


class LogitMSE(LogitLoss):
    """Squared error of the logits of every label or class; for multi-label and regression on the same logits.

    Take it in regression, and where the teacher's confidence itself should be learned; `SoftTargets` where only the
    probabilities matter, or the classes are many. Averages over predictions.

    Args:
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Kim et al. 2021, Comparing KL Divergence and Mean Squared Error, arXiv:2105.08919"
    positionwise: ClassVar[bool] = True
    refused: ClassVar[dict[Task, str]] = {
        Task.SPAN: "Its classes are positions, of another number in every example. Use SoftTargets."
    }

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return logit_mse(student, teacher)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return batch.mean(self.by_prediction(student, teacher, batch), over="predictions")
