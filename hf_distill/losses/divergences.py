"""Other ways than KL(teacher || student) to compare two distributions: mode seeking, bounded, or smoothed."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.losses.logits import LogitLoss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape
from hf_distill.tasks import Task


def _log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return log_q, F.log_softmax(teacher.detach().float() / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), from log-probabilities."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log(share p + (1 - share) q), for a share between 0 and 1, both excluded."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) of the softened distributions, times temperature squared, as `kl_divergence` is.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        temperature: divides both; above 1 it softens.

    Returns:
        One value in nats per position, shape (...), float32. Zero exactly where the distributions agree.

    Reference: Gu et al. 2024 (MiniLLM), arXiv:2306.08543, equation 1.
    Differs from the paper: of each token's distribution, by its own gradient, where the paper takes whole sequences
    that the student samples and a policy gradient; temperature and its square are added.
    See also: `kl_divergence` (covers all that the teacher says), `generalized_jsd` (between the two).
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return _kl(log_q, log_p) * temperature**2


def generalized_jsd(student: Tensor, teacher: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """beta KL(teacher || M) + (1 - beta) KL(student || M) with the mixture M = beta teacher + (1 - beta) student.

    At beta 0 it is KL(teacher || student), at 1 KL(student || teacher). The scale jumps there: between them the value
    tends to 0 towards both ends (as beta times the one and 1 - beta times the other), so a beta of 0.01 is a small
    loss and no smoothed KL. Without temperature squared, as in TRL.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        beta: share of the teacher in the mixture, 0 to 1.
        temperature: divides both; above 1 it softens, and the gradient fades with its square.

    Returns:
        One value in nats per position, shape (...), float32; between the ends at most the entropy of beta, so never
        above log 2. Zero exactly where the distributions agree.

    Reference: Agarwal et al. 2024 (GKD), arXiv:2306.13649, equation 1.
    Differs from the paper: the ends are the two KL divergences, the limits of the value over beta and over 1 - beta.
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    if beta == 0:
        return _kl(log_p, log_q)
    if beta == 1:
        return _kl(log_q, log_p)
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skew_kl(student: Tensor, teacher: Tensor, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """KL(teacher || alpha teacher + (1 - alpha) student): a KL that never exceeds -log alpha.

    Without temperature squared, as in DistiLLM.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        alpha: share of the teacher in the mixture, from 0 (the plain KL) to below 1.
        temperature: divides both; above 1 it softens, and the gradient fades with its square.

    Returns:
        One value in nats per position, shape (...), float32. Zero exactly where the distributions agree.

    Reference: Ko et al. 2024 (DistiLLM), arXiv:2402.03898, section 3.1.
    Differs from the paper: nothing; the authors' code leaves out the teacher's entropy, which has no gradient.
    """
    log_q, log_p = _log_probabilities(student, teacher, temperature)
    return _kl(log_p, log_q if alpha == 0 else _log_mixture(log_p, log_q, alpha))


def total_variation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Half the summed absolute difference of the softened distributions. Without temperature squared.

    Args:
        student: logits, shape (..., classes).
        teacher: logits, shape (..., classes).
        temperature: divides both; above 1 it softens, and the gradient fades with it.

    Returns:
        One value per position, 0 to 1, shape (...), float32: the largest difference in the probability of any event.

    Reference: Wen et al. 2023 (f-DISTILL), arXiv:2307.15190, section 2.2.
    Differs from the paper: of each token's distribution, on the data as it is, where the paper also samples; the
    temperature is added.
    """
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


class _Divergence(LogitLoss):
    refused: ClassVar[dict[Task, str]] = {Task.REGRESSION: "Use SoftTargets or LogitMSE."}

    def __init__(self, temperature: float = 1.0, chunk_size: int | None = None, weight: Weight = 1.0) -> None:
        super().__init__(chunk_size, weight)
        self.temperature = temperature

    @property
    def takes_top_k(self) -> bool:
        return True


class ReverseKL(_Divergence):
    """KL(student || teacher): the student puts nothing where the teacher has nothing, and may miss what it has.

    Take it for small students of language models, which cannot cover all that the teacher says; `SoftTargets` where
    the whole distribution matters. Temperature squared is inside the formula.

    Args:
        temperature: softens both sides.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Gu et al. 2024, MiniLLM: Knowledge Distillation of LLMs, arXiv:2306.08543"

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return reverse_kl(student, teacher, self.temperature)


class GeneralizedJSD(_Divergence):
    """Generalised Jensen-Shannon divergence: bounded, and between covering and mode seeking by `beta`.

    Take it where single tokens with a huge KL unsettle the training; `SkewKL` to stay closer to the KL. `beta` 0 and 1
    are the two KL divergences and larger by far than what lies next to them: set the weight anew. No temperature
    squared, as in TRL.

    Args:
        beta: share of the teacher in the mixture, 0 to 1.
        temperature: softens both sides.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Agarwal et al. 2024, On-Policy Distillation of Language Models, arXiv:2306.13649"

    def __init__(
        self, beta: float = 0.5, temperature: float = 1.0, chunk_size: int | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(temperature, chunk_size, weight)
        self.beta = beta

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: there are no logits, the task is regression, or an argument is out of range.
        """
        super().setup(student, teacher, task)
        if not 0 <= self.beta <= 1:
            raise ValueError(f"GeneralizedJSD: beta is {self.beta}; it must be between 0 and 1.")

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return generalized_jsd(student, teacher, self.beta, self.temperature)


class SkewKL(_Divergence):
    """KL of the teacher to a mixture that holds some of it: a KL whose value and gradient stay bounded.

    Take it for language models in place of `SoftTargets` where the student gives some of the teacher's tokens almost
    no probability; `GeneralizedJSD` for mode seeking. No temperature squared, as in DistiLLM.

    Args:
        alpha: share of the teacher in the mixture, from 0 (the plain KL) to below 1.
        temperature: softens both sides.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Ko et al. 2024, DistiLLM: Streamlined Distillation for LLMs, arXiv:2402.03898"

    def __init__(
        self, alpha: float = 0.1, temperature: float = 1.0, chunk_size: int | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(temperature, chunk_size, weight)
        self.alpha = alpha

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: there are no logits, the task is regression, or an argument is out of range.
        """
        super().setup(student, teacher, task)
        if not 0 <= self.alpha < 1:
            raise ValueError(f"SkewKL: alpha is {self.alpha}; it must be at least 0 and below 1.")

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return skew_kl(student, teacher, self.alpha, self.temperature)


class TotalVariation(_Divergence):
    """Total variation distance: every bit of misplaced probability costs the same, rare or not.

    Take it where the teacher's tail is noise and should not be learned; `SoftTargets` otherwise, whose gradient does
    not vanish where the student is certain and wrong. No temperature squared.

    Args:
        temperature: softens both sides.
        chunk_size: positions that are compared at once, to bound the memory of a vocabulary; None chooses.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Wen et al. 2023, f-Divergence Minimization for Distillation, arXiv:2307.15190"

    def values(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        return total_variation(student, teacher, self.temperature)
