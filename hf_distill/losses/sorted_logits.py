"""Universal logit distillation: how probability is spread, whatever the classes are called."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from hf_distill.losses.logits import LogitLoss
from hf_distill.tasks import Task


def sorted_logits(student: Tensor, teacher: Tensor) -> Tensor:
    """Summed absolute difference of the sorted probabilities, the shorter side padded with 0.

    For sorted one-dimensional answers it is the optimal transport that knows nothing of the classes: only the shape of
    the distribution is learned, and a student that is as sure of another class is as good.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes of its own).

    Returns:
        One value per position, 0 to 2, shape (...), float32. Zero exactly where the sorted probabilities agree.

    Reference: Boizard et al. 2024, arXiv:2402.12030, the universal logit distillation loss.
    Differs from the paper: nothing in a position's value; positions are compared one to one here.
    """
    mine = student.float().softmax(-1).sort(-1, descending=True).values
    theirs = teacher.detach().float().softmax(-1).sort(-1, descending=True).values
    classes = max(mine.shape[-1], theirs.shape[-1])
    mine, theirs = (F.pad(side, (0, classes - side.shape[-1])) for side in (mine, theirs))
    return (mine - theirs).abs().sum(-1)


class SortedLogits(LogitLoss):
    """Sorted probabilities, for a student and a teacher whose vocabularies or classes have nothing in common.

    Take it only beside `TaskLoss`, which says what is right, and only where the two sides share no classes: with one
    vocabulary `SoftTargets` learns far more. The sides must have as many positions, and each must stand for the same
    text. Averages over predictions.

    Args:
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Boizard et al. 2024, Towards Cross-Tokenizer Distillation (ULD), arXiv:2402.12030"
    other_classes: ClassVar[bool] = True
    refused: ClassVar[dict[Task, str]] = {
        Task.MULTI_LABEL: "Its labels are no distribution to sort. Use SoftTargets.",
        Task.REGRESSION: "A value has nothing to sort. Use SoftTargets or LogitMSE.",
        Task.SPAN: "Sorted positions no longer say where the answer is. Use SoftTargets.",
    }

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return sorted_logits(student, teacher)
