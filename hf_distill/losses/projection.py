"""A trainable map from the student's width to the teacher's, for losses on hidden states."""

from typing import Literal, cast

from torch import Tensor, nn

from hf_distill.losses.base import LayerLoss, LayerMap
from hf_distill.losses.schedules import Weight
from hf_distill.signals import Layer, ModelShape, Signal, hidden
from hf_distill.tasks import Task

Projection = Literal["auto", "linear", "shared", "none"]


class ProjectedLayerLoss(LayerLoss):
    """Matches hidden states; where the widths differ, a linear projection of the student's is trained with it.

    Projections live in the objective: they are clipped, resumed and synchronised like weights of the student, and
    never saved with it.

    Args:
        layers: {student layer: teacher layer}, ``"embeddings"`` among them, or ``"uniform"`` over the depth, or
            ``"last"``; see `LayerLoss`.
        projection: ``"auto"`` builds one for each pair where the widths differ; ``"linear"`` always; ``"shared"`` is
            one for all pairs (TinyBERT); ``"none"`` refuses widths that differ.
        bias: whether projections have one.
        weight: what the term is multiplied by in the total.
    """

    allows_embeddings = True

    def __init__(
        self, layers: LayerMap = "uniform", projection: Projection = "auto", bias: bool = True, weight: Weight = 1.0
    ) -> None:
        super().__init__(layers, weight)
        self.projection = projection
        self.bias = bias
        self.projections = nn.ModuleList()

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`. Builds the projections.

        Raises:
            ValueError: a layer does not exist, the widths differ under ``"none"``, or the word is not known.
        """
        super().setup(student, teacher, task)
        assert teacher is not None
        who, mine, theirs = type(self).__name__, student.width, teacher.width
        if self.projection not in ("auto", "linear", "shared", "none"):
            raise ValueError(f'{who}: projection={self.projection!r} is not "auto", "linear", "shared" or "none".')
        if self.projection == "none" and mine != theirs:
            raise ValueError(
                f'{who}: the student is {mine} wide, the teacher {theirs}, and projection="none". '
                'Pass projection="linear", or compare relations instead (RKDDistance, AttentionKL).'
            )
        needed = {"none": 0, "auto": 0 if mine == theirs else len(self.matched), "shared": 1}
        count = needed.get(self.projection, len(self.matched))
        self.projections = nn.ModuleList(nn.Linear(mine, theirs, bias=self.bias) for _ in range(count))

    def signal(self, layer: Layer) -> Signal:
        return hidden(layer)

    def project(self, index: int, student: Tensor) -> Tensor:
        if not len(self.projections):
            return student
        projection = cast(nn.Linear, self.projections[index % len(self.projections)])
        return cast(Tensor, projection(student.to(projection.weight.dtype)))
