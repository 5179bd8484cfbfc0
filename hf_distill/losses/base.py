"""What every loss is: what it looks at, how two things are compared, and what it weighs."""

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import ceil
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from hf_distill.batch import Batch
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ATTENTION_KINDS, EMBEDDINGS, LOGITS, Layer, ModelShape, Signal, Signals
from hf_distill.tasks import Task

LayerMap = Mapping[Layer, Layer] | Literal["uniform", "last"]


class Loss(nn.Module, ABC):
    """A term of the objective. Subclass it, name the signals in `pairs`, and compare one pair in `compare`:

        class LogitL1(Loss):
            def pairs(self):
                return [(LOGITS, LOGITS)]

            def compare(self, student, teacher, batch):
                difference = batch.align(student) - batch.align(teacher)
                return batch.mean(difference.abs().mean(-1), over="predictions")

    The constructor stores its arguments under their own names and does nothing else: `config` and `repr` come from it.
    Modules that train (projections) are made in `setup`. A loss that needs more than one pair at a time overrides
    `forward`.

    Args:
        weight: what the term is multiplied by in the total: a number, or a schedule of training progress
            (`schedules.linear`, `cosine`, `warmup`, or any function of the share of the training that is done).
    """

    citation: str = ""
    needs_labels: ClassVar[bool] = False
    relational: ClassVar[bool] = False  # whether its value belongs to a batch: 4 x 2 accumulated is not 8 at once
    other_classes: ClassVar[bool] = False  # whether the two models' logits may have different numbers of classes

    teacher: int | None = None
    """Which member of an ensemble it looks at, counted from 0; None: the ensemble's own answer. See `of`."""

    def __init__(self, weight: Weight = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def of(self, teacher: int) -> Self:
        """Makes it a loss on one member of an `EnsembleTeacher`: `HiddenMSE("last").of(1)`.

        Args:
            teacher: which, counted from 0.

        Returns:
            The loss itself.

        Raises:
            ValueError: it is no such number.
        """
        if not isinstance(teacher, int) or isinstance(teacher, bool) or teacher < 0:
            raise ValueError(f"{type(self).__name__}.of({teacher!r}): an ensemble's teachers are counted 0, 1, 2, ...")
        self.teacher = teacher
        return self

    @property
    def name(self) -> str:
        """Under which the term is logged: the class in snake case (RKDAngle -> rkd_angle), and whose it is."""
        own = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", type(self).__name__).lower()
        return own if self.teacher is None else f"{own}_of_{self.teacher}"

    @property
    def config(self) -> dict[str, Any]:
        """The constructor's arguments but the weight, as they were given, and the teacher where `of` named one."""
        names = inspect.signature(type(self).__init__).parameters
        found = {name: getattr(self, name) for name in names if name not in ("self", "weight")}
        return found if self.teacher is None else {**found, "teacher": self.teacher}

    @property
    def asks_teacher(self) -> bool:
        """Whether it looks at the teacher."""
        return any(theirs is not None for _, theirs in self.pairs())

    @property
    def takes_top_k(self) -> bool:
        """Whether it may see the teacher's largest logits with the rest as one class, where others need them all."""
        return False

    @property
    def heads_compared(self) -> int | None:
        """Of how many groups of the teacher's attention heads the averages are enough for it; None: it needs each."""
        return None

    @property
    def relations_compared(self) -> int | None:
        """In how many heads it looks at relations of the teacher's queries, keys and values, and at nothing else of
        them; it then takes `Relations` in their place. None: it needs the states."""
        return None

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in {**self.config, "weight": self.weight}.items())

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """Called once before step 1: refuses what cannot work, resolves layers, builds projections.

        Args:
            student: what the student is.
            teacher: what the teacher is, None if it is not a model.
            task: what both solve.

        Raises:
            ValueError: the message names what was found and the call that cures it.
        """

    @abstractmethod
    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        """The signals compared: (student's, teacher's); None where the teacher is not asked."""

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        """One pair's share of the mean over the step, a scalar; `batch.mean` makes it from unreduced values.

        Args:
            student: the student's side after `project`; 0 where it belongs to padding.
            teacher: the teacher's side, likewise; None where `pairs` says None.
            batch: knows what counts; `batch.align` puts logits beside their labels.
        """

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight: the sum over its pairs."""
        terms = []
        for index, (mine, theirs) in enumerate(self.pairs()):
            ours = self.project(index, batch.clean(mine, student[mine]))
            other = None if theirs is None else batch.clean(theirs, teacher[theirs])
            if other is not None:
                ours, other = self.classes_compared(ours, other) if mine == LOGITS else (ours, other)
                self.check_rows(mine, ours, other)
            terms.append(self.compare(ours, other, batch))  # type: ignore[arg-type]
        if not terms:
            raise ValueError(f"{type(self).__name__} compares nothing; call its setup first.")
        return sum(terms[1:], start=terms[0])

    def check_rows(self, signal: Signal, student: Tensor, teacher: Tensor) -> None:
        """Refuses what would be broadcast: a `Teacher` of one's own may answer anything."""
        compared = slice(1)
        if signal == LOGITS:
            compared = slice(-1) if self.other_classes else slice(None)
        if student.shape[compared] != teacher.shape[compared]:
            raise ValueError(
                f"{type(self).__name__}: the student's {signal} is {tuple(student.shape)}, the teacher's "
                f"{tuple(teacher.shape)}. A Teacher's observe must give a row for each example and prediction."
            )

    def project(self, index: int, student: Tensor) -> Tensor:
        """Brings the student's side of pair `index` into the teacher's space; as it is unless overridden."""
        return student

    def classes_compared(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides' logits, (..., classes), of the classes that are compared; all of them unless overridden."""
        return student, teacher


def compares_as(loss: Loss, kind: type[Loss]) -> bool:
    """Whether a loss goes its class's own way to its value: a subclass may look at more."""
    return all(getattr(type(loss), name) is getattr(kind, name) for name in ("compare", "forward"))


AROUND_VALUES = ("compare", "forward", "project", "by_prediction", "chunked")  # none is called behind a fused head


class PositionLoss(Loss):
    """A loss on logits that gives one value a position, from the logits of that position alone.

    Before a vocabulary such losses are not given all logits: `values` is called with those of some counted positions
    at a time, and nothing else of the loss is. A subclass that overrides another way to its value (`AROUND_VALUES`)
    gets all logits, unless it states `positionwise = True` itself.
    """

    positionwise: ClassVar[bool] = True
    over: ClassVar[Literal["predictions", "targets"]] = "predictions"
    chunk_size: int | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "positionwise" in vars(cls) or not cls.positionwise:
            return
        stated = next(base for base in cls.__mro__[1:] if "positionwise" in vars(base))
        if any(getattr(cls, name, None) is not getattr(stated, name, None) for name in AROUND_VALUES):
            cls.positionwise = False

    @abstractmethod
    def values(self, student: Tensor, teacher: Tensor, *more: Any) -> Tensor:
        """One value a position: (..., classes) twice -> (...); the teacher's is None where `pairs` says so."""

    def beside(self, batch: Batch) -> tuple[Tensor, ...]:
        """What else `values` is given, one entry a prediction, such as the labels; nothing unless overridden.

        Raises:
            ValueError: the batch does not hold it.
        """
        return ()


class LayerLoss(Loss):
    """A loss that matches layers of the student with layers of the teacher; terms of the layers are added.

    Args:
        layers: {student layer: teacher layer}, counted from 0 or from the end, `"embeddings"` for what enters block 0
            where the loss allows it; `"uniform"` spreads the student's layers over the teacher's, last on last
            (TinyBERT's i -> (i + 1) k - 1, rounded up); `"last"` matches the last layer with the last.
        weight: what the term is multiplied by in the total.
    """

    allows_embeddings: ClassVar[bool] = False

    def __init__(self, layers: LayerMap = "uniform", weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.layers = layers
        self.matched: dict[Layer, Layer] = {}

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the teacher is no model, a layer does not exist, or the attention of one cannot be recorded.
        """
        who = type(self).__name__
        if teacher is None:
            raise ValueError(f"{who} needs the layers of a teacher model, and this teacher is not one. Leave it out.")
        self.matched = match_layers(self.layers, student, teacher, who, self.allows_embeddings)
        blind = next((shape.name for shape in (student, teacher) if not shape.heads), None)
        if blind is not None and any(signal.kind in ATTENTION_KINDS for signal, _ in self.pairs()):
            raise ValueError(
                f"{who}: the attention of {blind} does not go through transformers' attention interface, so it cannot "
                "be recorded. Use HiddenMSE or HiddenCosine."
            )

    @abstractmethod
    def signal(self, layer: Layer) -> Signal:
        """The signal of one layer."""

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(self.signal(mine), self.signal(theirs)) for mine, theirs in self.matched.items()]


def match_layers(
    layers: LayerMap, student: ModelShape, teacher: ModelShape, who: str = "layers", embeddings: bool = True
) -> dict[Layer, Layer]:
    """Resolves a layer map to {student layer: teacher layer}, counted from 0.

    Args:
        layers: {student layer: teacher layer}, or ``"uniform"`` over the depth, or ``"last"`` on last; see
            `LayerLoss`.
        student: its depth is used.
        teacher: its depth is used.
        who: whom messages name.
        embeddings: whether `"embeddings"` may stand in the map.

    Raises:
        ValueError: a layer does not exist or stands twice, a map is empty, or the word is not known.
    """
    for shape in (student, teacher):
        if not shape.layers:
            raise ValueError(f"{who}: no layers were found in {shape.name}. Use a loss on logits.")
    if layers == "last":
        return {student.layers - 1: teacher.layers - 1}
    if layers == "uniform":
        return {mine: ceil((mine + 1) * teacher.layers / student.layers) - 1 for mine in range(student.layers)}
    if not isinstance(layers, Mapping):
        raise ValueError(f'{who}: layers={layers!r} is not known; use {{student: teacher}}, "uniform" or "last".')
    if not layers:
        raise ValueError(f'{who}: layers={{}} matches nothing; use {{student: teacher}}, "uniform" or "last".')
    matched: dict[Layer, Layer] = {}
    for mine, theirs in layers.items():
        layer = _resolve(mine, student, "student", who, embeddings)
        if layer in matched:
            raise ValueError(f"{who}: student layer {layer} stands twice in layers={dict(layers)}. Leave one out.")
        matched[layer] = _resolve(theirs, teacher, "teacher", who, embeddings)
    return matched


def _resolve(layer: Layer, shape: ModelShape, side: str, who: str, embeddings: bool) -> Layer:
    if layer == EMBEDDINGS and embeddings:
        return layer
    if not isinstance(layer, int) or isinstance(layer, bool):
        words = ' or "embeddings"' if embeddings else ""
        raise ValueError(f"{who}: {side} layer {layer!r} is no layer; use 0 to {shape.layers - 1}{words}.")
    if not -shape.layers <= layer < shape.layers:
        raise ValueError(
            f"{who}: {side} layer {layer} does not exist: {shape.name} has {shape.layers} layers, "
            f"0 to {shape.layers - 1}. Change layers={{student: teacher}}."
        )
    return layer % shape.layers
