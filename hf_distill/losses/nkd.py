"""Normalised knowledge distillation: a soft label for the target, and the other classes among themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.losses.schedules import Weight
from hf_distill.losses.target_class import TargetClassLoss, split_target, target_odds


def normalized_kd(
    student: Tensor, teacher: Tensor, labels: Tensor, gamma: float = 1.5, temperature: float = 1.0
) -> Tensor:
    """Cross entropy of the target by the teacher's probability, plus that of the other classes among themselves.

    -p_y log q_y, without a temperature, minus gamma times temperature squared times the sum of p'_j log q'_j over the
    classes that are not the target y, where p' and q' are softmaxes over those classes alone.

    Args:
        student: logits, shape (..., classes), at least three classes (with two the second part is 0).
        teacher: logits, shape (..., classes).
        labels: class ids, shape (...); a negative one is none.
        gamma: weight of the second part.
        temperature: divides both in the second part; above 1 it softens.

    Returns:
        One value in nats per position, shape (...), float32; 0 without a label. Never negative, but not 0 where both
        agree: the first part wants all probability on the target, the second is least, the teacher's entropy, where
        they agree on the others.

    Reference: Yang et al. 2023, arXiv:2303.13005, the NKD loss.
    Differs from the paper: nothing; the cross entropy of the labels is `TaskLoss`.
    """
    target, others = split_target(student, labels)
    theirs, their_others = split_target(teacher.detach(), labels)
    is_target = -target_odds(theirs, their_others).sigmoid() * F.logsigmoid(target_odds(target, others))
    log_others = F.log_softmax(others / temperature, dim=-1)
    which_other = -(F.softmax(their_others / temperature, dim=-1) * log_others).sum(-1)
    return torch.where(labels >= 0, is_target + gamma * temperature**2 * which_other, 0.0)


class NormalizedKD(TargetClassLoss):
    """The teacher's probability as a soft label of the target, and the other classes normalised apart (NKD).

    Take it in place of `SoftTargets` where there are labels; it differs from `DecoupledKL` in that the student is
    always drawn towards the target, by as much as the teacher believes in it, and in having one weight to tune. Its
    value does not reach 0. Beside `TaskLoss` with weight 1. Averages over positions with a label.

    Args:
        gamma: weight of the non-target part.
        temperature: softens both sides of the non-target part. Its square is inside the formula.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Yang et al. 2023, From Knowledge Distillation to Self-KD (NKD), arXiv:2303.13005"

    def __init__(
        self, gamma: float = 1.5, temperature: float = 1.0, chunk_size: int | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(chunk_size, weight)
        self.gamma = gamma
        self.temperature = temperature

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        (labels,) = more
        return normalized_kd(student, teacher, labels, self.gamma, self.temperature)
