"""MiniLM: what the tokens of the last layer look at, and how alike their values are."""

from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.attention_maps import attention_kl
from hf_distill.losses.base import LayerLoss, LayerMap, compares_as
from hf_distill.losses.recorded_maps import recorded_kl, stays_recorded
from hf_distill.losses.relations_qkv import relation_kl
from hf_distill.losses.schedules import Weight
from hf_distill.relations import Relations
from hf_distill.signals import Layer, ModelShape, Signal, Signals, attention, value
from hf_distill.tasks import Task


class MiniLM(LayerLoss):
    """Attention probabilities and value relations of the last layers, by KL over the attended tokens. Any widths.

    Take it for a student with as many heads as the teacher and any depth; `MiniLMv2`, its successor, does without
    equal heads; `AttentionKL` matches several layers and no values. Recorded maps are compared in blocks, as there.

    Args:
        layers: {student layer: teacher layer}, or ``"uniform"`` over the depth, or ``"last"``, which is the paper's;
            see `LayerLoss`.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Wang et al. 2020, MiniLM: Deep Self-Attention Distillation, arXiv:2002.10957"

    def __init__(self, layers: LayerMap = "last", weight: Weight = 1.0) -> None:
        super().__init__(layers, weight)

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: a layer does not exist, or the numbers of heads differ.
        """
        super().setup(student, teacher, task)
        assert teacher is not None
        heads = {"attention": (student.heads, teacher.heads), "value": (student.key_heads, teacher.key_heads)}
        for kind, (mine, theirs) in heads.items():
            if mine != theirs:
                raise ValueError(
                    f"MiniLM: the student has {mine} {kind} heads, the teacher {theirs}. "
                    "Take MiniLMv2, which splits them anew."
                )
        self._value_heads = teacher.key_heads

    @property
    def relations_compared(self) -> int | None:
        return (self._value_heads or None) if compares_as(self, MiniLM) else None

    def signal(self, layer: Layer) -> Signal:
        return value(layer)  # type: ignore[arg-type]

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        maps = [(attention(mine), attention(theirs)) for mine, theirs in self.matched.items()]  # type: ignore[arg-type]
        return [*maps, *super().pairs()]

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight: attention and value relations, one to one."""
        terms = []
        for mine, theirs in self.pairs():
            assert theirs is not None
            ours, other = batch.clean(mine, student[mine]), batch.clean(theirs, teacher[theirs])
            if mine.kind != "attention":
                terms.append(self.compare(ours, other, batch))
            elif stays_recorded(ours):
                terms.append(recorded_kl(ours, other, batch))
            else:
                terms.append(batch.mean(attention_kl(ours, other), over="tokens"))
        if not terms:
            raise ValueError("MiniLM compares nothing; call its setup first.")
        return sum(terms[1:], start=terms[0])

    def compare(self, student: Tensor, teacher: Tensor | Relations, batch: Batch) -> Tensor:
        """The share of one layer's value relations, in the values' own heads."""
        return batch.mean(relation_kl(student, teacher, student.shape[1], batch.pairs), over="tokens")
