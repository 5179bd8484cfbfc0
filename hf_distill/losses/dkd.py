"""Decoupled knowledge distillation: how sure the teacher is, and what it thinks of the other classes, apart."""

from torch import Tensor

from hf_distill.losses.schedules import Weight
from hf_distill.losses.soft_targets import binary_kl_divergence, kl_divergence
from hf_distill.losses.target_class import TargetClassLoss, split_target, target_odds


def decoupled_kl(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """KL of target against non-target and KL among the non-targets, weighted apart, times temperature squared.

    KL(teacher || student) is the first plus the second times the teacher's probability of a non-target: what is
    decoupled is that factor, which all but silences the second where the teacher is sure.

    Args:
        student: logits, shape (..., classes), at least three classes (with two the second part is 0).
        teacher: logits, shape (..., classes).
        labels: class ids, shape (...); a negative one is none.
        alpha: weight of the target part.
        beta: weight of the non-target part.
        temperature: divides both; above 1 it softens.

    Returns:
        One value in nats per position, shape (...), float32; 0 without a label. Zero exactly where the distributions
        agree. Finite at any logit, in float16 too.

    Reference: Zhao et al. 2022, arXiv:2203.08679, equation 7.
    Differs from the paper: nothing; the target is dropped from the second softmax, where the authors' code lowers its
    logit by 1000, and all is in log space, where that code gives inf for logits of +-60.
    """
    target, others = split_target(student.float() / temperature, labels)
    theirs, their_others = split_target(teacher.detach().float() / temperature, labels)
    odds, their_odds = target_odds(target, others), target_odds(theirs, their_others)
    is_target = binary_kl_divergence(odds[..., None], their_odds[..., None])
    return temperature**2 * (alpha * is_target + beta * kl_divergence(others, their_others))


class DecoupledKL(TargetClassLoss):
    """The teacher's certainty about the target and its view of the other classes, weighted apart (DKD).

    Take it in place of `SoftTargets` where there are labels and the teacher is so sure that its other classes hardly
    count; `NormalizedKD` for the same idea on a cross entropy. Beside `TaskLoss` with weight 1. The paper warms it up
    over its first epochs: `DecoupledKL(weight=losses.warmup(1.0, over=0.1))`. `beta` is what to tune: the paper takes
    1 to 8 by the pair of models, 0.5 on ImageNet. Averages over positions with a label.

    Args:
        alpha: weight of the target part.
        beta: weight of the non-target part.
        temperature: softens both sides. Its square is inside the formula.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Zhao et al. 2022, Decoupled Knowledge Distillation, arXiv:2203.08679"

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        chunk_size: int | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(chunk_size, weight)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        (labels,) = more
        return decoupled_kl(student, teacher, labels, self.alpha, self.beta, self.temperature)
