"""Attention maps: what each token looks at. Recorded while the models run sdpa; nothing is switched to eager.

Maps that were recorded are compared in blocks and never made (`recorded_maps`); the functions here are for those that
are there: handed out by the model, read from a cache, or touched by somebody.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import LayerLoss, LayerMap
from hf_distill.losses.recorded_maps import recorded_kl, recorded_mse, stays_recorded
from hf_distill.losses.schedules import Weight
from hf_distill.signals import Layer, ModelShape, Signal, attention, attention_scores
from hf_distill.tasks import Task

Heads = Literal["matched", "grouped", "mean"]


def attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of the attention of every query, mean over heads.

    Args:
        student: probabilities, shape (batch, heads, query, key); 0 on masked keys.
        teacher: probabilities, shape (batch, heads, query, key).

    Returns:
        One value in nats per query, shape (batch, query), float32. A key with teacher probability 0 adds 0, one with
        student probability 0 adds a finite value, and both have finite gradients.

    Reference: Wang et al. 2020 (MiniLM), arXiv:2002.10957, equation 6 (there of the last layer only).
    Differs from the paper: nothing.
    """
    student, teacher = student.float(), teacher.detach().float()
    smallest = torch.finfo(torch.float32).tiny
    log_ratio = teacher.clamp(min=smallest).log() - student.clamp(min=smallest).log()
    return (teacher * log_ratio).sum(-1).mean(1)


def attention_mse(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the scores before the softmax, mean over heads.

    Args:
        student: scaled query-key products, shape (batch, heads, query, key).
        teacher: scaled query-key products, shape (batch, heads, query, key).
        mask: True where a query may see a key and both count, shape broadcastable to (batch, 1, query, key). Masked
            scores are dropped *before* they are subtracted, so that they may be -inf.

    Returns:
        One value per query and key, shape (batch, query, key), float32; 0 where masked.

    Reference: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, equation 7.
    Differs from the paper: nothing; the authors' code averages over padding too, `AttentionMSE` does not.
    """
    student, teacher = student.float(), teacher.detach().float()
    if mask is not None:
        student, teacher = (torch.where(mask.bool(), side, 0.0) for side in (student, teacher))
    return F.mse_loss(student, teacher, reduction="none").mean(1)


class _AttentionLoss(LayerLoss):
    def __init__(self, layers: LayerMap = "uniform", heads: Heads = "matched", weight: Weight = 1.0) -> None:
        super().__init__(layers, weight)
        self.heads = heads
        self._groups: int | None = None

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: a layer does not exist, or the head counts differ and are not averaged, or not in equal groups.
        """
        super().setup(student, teacher, task)
        assert teacher is not None
        who = type(self).__name__
        if self.heads not in ("matched", "grouped", "mean"):
            raise ValueError(f'{who}: heads={self.heads!r} is not "matched", "grouped" or "mean".')
        fewer, more = sorted((student.heads, teacher.heads))
        if self.heads == "grouped" and fewer and more % fewer:
            raise ValueError(
                f"{who}: the student has {student.heads} attention heads, the teacher {teacher.heads}: {more} heads "
                f'make no {fewer} equal groups. Pass {who}(heads="mean") to compare averages over heads.'
            )
        if self.heads == "matched" and student.heads != teacher.heads:
            raise ValueError(
                f"{who}: the student has {student.heads} attention heads, the teacher {teacher.heads}. "
                f'Pass {who}(heads="mean") to compare averages over heads.'
            )

        self._groups = {"mean": 1, "grouped": fewer}.get(self.heads)

    @property
    def heads_compared(self) -> int | None:
        return self._groups

    def groups(self, student: Tensor, teacher: Tensor) -> int | None:
        """Of how many groups of heads the averages are compared; None: each head."""
        return {"mean": 1, "grouped": min(student.shape[1], teacher.shape[1])}.get(self.heads)

    def merge(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides with the heads that are compared: (batch, heads, query, key)."""
        heads = self.groups(student, teacher)
        if heads is None:
            return student, teacher
        student, teacher = (
            side.float().view(len(side), heads, -1, *side.shape[2:]).mean(2) for side in (student, teacher)
        )
        return student, teacher


class AttentionKL(_AttentionLoss):
    """Attention probabilities of matched layers, by KL over the attended queries.

    Take it where the student has room to look where the teacher looks; `AttentionMSE` learns the scores themselves and
    converges faster, but asks for comparable scales. Works for any width. Averages over heads are of probabilities.

    Args:
        layers: {student layer: teacher layer}, or ``"uniform"`` over the depth, or ``"last"`` on last; see
            `LayerLoss`.
        heads: ``"matched"`` compares them one to one, ``"mean"`` compares averages over all heads, and ``"grouped"``
            averages groups of consecutive heads of the side that has more, so that both have as many.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Wang et al. 2020, MiniLM: Deep Self-Attention Distillation, arXiv:2002.10957"

    def signal(self, layer: Layer) -> Signal:
        return attention(layer)  # type: ignore[arg-type]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if stays_recorded(student):
            return recorded_kl(student, teacher, batch, self.groups(student, teacher))
        return batch.mean(attention_kl(*self.merge(student, teacher)), over="tokens")


class AttentionMSE(_AttentionLoss):
    """Attention scores before the softmax of matched layers, by squared error over attended queries x keys.

    Take it as TinyBERT does, with `HiddenMSE`; `AttentionKL` where only the probabilities matter. Averages over heads
    are of scores.

    Args:
        layers: {student layer: teacher layer}, or ``"uniform"`` over the depth, or ``"last"`` on last; see
            `LayerLoss`.
        heads: ``"matched"`` compares them one to one, ``"mean"`` compares averages over all heads, and ``"grouped"``
            averages groups of consecutive heads of the side that has more, so that both have as many.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Jiao et al. 2020, TinyBERT: Distilling BERT for NLU, arXiv:1909.10351"

    def signal(self, layer: Layer) -> Signal:
        return attention_scores(layer)  # type: ignore[arg-type]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if stays_recorded(student):
            return recorded_mse(student, teacher, batch, self.groups(student, teacher))
        return batch.mean(attention_mse(*self.merge(student, teacher)), over="pairs")
