"""Relations between tokens: how alike their queries, keys and values are. What MiniLM v2 compares, in any heads."""

from collections.abc import Sequence
from math import gcd
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import LayerLoss, LayerMap, compares_as
from hf_distill.losses.schedules import Weight
from hf_distill.losses.states import refuse_other_positions, sum_in_blocks
from hf_distill.relations import Relations, in_heads, products, whole
from hf_distill.signals import Layer, ModelShape, Signal, key, query, value
from hf_distill.tasks import Task

Relation = Literal["query", "key", "value"]
SIGNALS = {"query": query, "key": key, "value": value}
MASKED = -1e30  # below any product, and finite: a row without keys is uniform on both sides


def _split(states: Tensor, heads: int, side: str) -> Tensor:
    """The same width in other heads: (batch, heads of its own, tokens, width) -> (batch, heads, tokens, width)."""
    _, own, _, width = states.shape
    if heads < 1 or own * width % heads:
        raise ValueError(
            f"relation_kl: the {side} is {own * width} wide ({own} heads of {width}), which does not make {heads} "
            "relation heads. Pass a number of heads that divides the widths of both."
        )
    return in_heads(states, heads)


def _log_relations(states: Tensor, mask: Tensor | None) -> Tensor:
    """Of states, or of the products that `relations.triangle` made of them."""
    if states.dim() == 3:
        scores = whole(states.float())
    else:
        if mask is not None:  # what sees no token and is seen by none may hold NaN
            states = torch.where((mask.any(1) | mask.any(2))[:, None, :, None], states.float(), 0.0)
        scores = products(states)
    return F.log_softmax(scores if mask is None else scores.masked_fill(~mask[:, None], MASKED), dim=-1)


def _sum_over_heads(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    log_q, log_p = _log_relations(student, mask), _log_relations(teacher, mask)
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum((1, 3))


def relation_kl(student: Tensor, teacher: Tensor | Relations, heads: int, mask: Tensor | None = None) -> Tensor:
    """KL(teacher || student) of how alike each token is to the others, mean over relation heads.

    Queries (or keys, or values) of all heads are joined and split again into `heads` heads X; the relations of a token
    are its row of softmax(X X^T / sqrt(width of X)). Goes over blocks of heads where there are many.

    Args:
        student: one of query, key, value, shape (batch, heads of its own, tokens, head width of its own).
        teacher: the same of the teacher, shape (batch, heads of its own, tokens, head width of its own); or their
            products in `heads` heads.
        heads: relation heads; must divide heads x head width of both.
        mask: shape (batch, tokens, tokens), True where the first token is compared with the second, as `Batch.pairs`
            gives it; None: every token with every token. What is masked may hold NaN.

    Returns:
        One value in nats per token, shape (batch, tokens), float32; 0 for a token that is compared with none.

    Raises:
        ValueError: `heads` does not divide a width, the numbers of tokens differ, or the products are in other heads.

    Reference: Wang et al. 2021 (MiniLM v2), arXiv:2012.15828, equations 6 to 8; in the values' own heads Wang et
    al. 2020 (MiniLM), arXiv:2002.10957, equations 7 to 9.
    Differs from the papers: in causal models the mask leaves out later tokens.
    """
    refuse_other_positions(student.shape[2], teacher.shape[2], "relation_kl")
    mine, seen = _split(student, heads, "student"), None if mask is None else mask.bool()
    if isinstance(teacher, Relations) and teacher.shape[1] != heads:
        raise ValueError(f"relation_kl: the teacher's products are in {teacher.shape[1]} heads, not in {heads}.")
    theirs = teacher.products if isinstance(teacher, Relations) else _split(teacher.detach(), heads, "teacher")
    return sum_in_blocks(_sum_over_heads, mine, theirs, seen, each=len(mine) * mine.shape[2] ** 2) / heads


class MiniLMv2(LayerLoss):
    """Relations between tokens by query, key and value of the last layers, by KL over attended tokens. Any shapes.

    Take it first where a student without the teacher's weights learns from text without labels: depth, width and heads
    are free, and nothing is projected. `HiddenMSE` is for students cut out of the teacher.

    Args:
        layers: {student layer: teacher layer}, ``"uniform"`` or ``"last"``; of teachers of 24 layers the paper takes
            an upper middle one, such as ``{-1: 20}``.
        heads: relation heads, which must divide the widths of all `relations` on both sides; the more, the finer. The
            paper takes 48 of a teacher of width 768 and 64 of 1024. None takes the teacher's own number where it
            divides, else the largest divisor below.
        relations: which are compared, added with equal weight.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Wang et al. 2021, MiniLMv2: Self-Attention Relation Distillation, arXiv:2012.15828"

    def __init__(
        self,
        layers: LayerMap = "last",
        heads: int | None = None,
        relations: Sequence[Relation] = ("query", "key", "value"),
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(layers, weight)
        self.heads = heads
        self.relations = relations

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`. Chooses the relation heads.

        Raises:
            ValueError: a layer does not exist, a relation is not known, or `heads` does not divide a width.
        """
        super().setup(student, teacher, task)
        assert teacher is not None
        if not self.relations or len({*self.relations} & {*SIGNALS}) < len(self.relations):
            known = '"query", "key" and "value", each at most once'
            raise ValueError(f"MiniLMv2: relations={self.relations!r} must be some of {known}.")
        wide = {
            f"{side}'s {relation}": (shape.heads if relation == "query" else shape.key_heads) * shape.head_width
            for side, shape in (("student", student), ("teacher", teacher))
            for relation in self.relations
        }
        common = gcd(*wide.values())  # 0 where no width is known: the function checks
        for whose, width in wide.items():
            if self.heads is not None and (self.heads < 1 or width % self.heads):
                raise ValueError(
                    f"MiniLMv2: the {whose} is {width} wide, which does not make {self.heads} relation heads. "
                    f"Pass a divisor of {common}, or heads=None to have one chosen."
                )
        fitting = (n for n in range(teacher.heads, 1, -1) if common % n == 0)
        self.relation_heads = self.heads or next(fitting, 1)

    @property
    def relations_compared(self) -> int | None:
        return self.relation_heads if compares_as(self, MiniLMv2) else None

    def signal(self, layer: Layer) -> Signal:
        return query(layer)  # type: ignore[arg-type]

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        kinds = [SIGNALS[relation] for relation in self.relations]
        return [(kind(mine), kind(theirs)) for mine, theirs in self.matched.items() for kind in kinds]  # type: ignore[arg-type]

    def compare(self, student: Tensor, teacher: Tensor | Relations, batch: Batch) -> Tensor:
        return batch.mean(relation_kl(student, teacher, self.relation_heads, batch.pairs), over="tokens")
