"""What losses on logits share: one comparison a position, in chunks where a vocabulary is large."""

from collections.abc import Callable
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_distill.batch import Batch
from hf_distill.losses.base import PositionLoss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import LOGITS, ModelShape, Signal, Signals
from hf_distill.tasks import Task
from hf_distill.top_k import TopK, rest_of

CHUNK_ELEMENTS = 2**22  # logits of one side in a chunk: 16 MiB in float32


def bernoulli(logits: Tensor) -> Tensor:
    """The two logits of every label's own yes and no: (..., labels) -> (..., labels, 2).

    A softmax over them at any temperature is the softened Bernoulli of the label, so that every divergence between
    distributions is one between multi-label answers too, label by label.
    """
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


def in_chunks(
    function: Callable[..., Tensor], student: Tensor, teacher: Tensor, *more: Tensor, chunk_size: int | None = None
) -> Tensor:
    """`function(student, teacher, *more)` over some positions at a time, computed again in backward.

    What a function holds per class (log-softmaxes in float32, mixtures) then exists for one chunk only.

    Args:
        function: of one value a position, (..., classes) twice -> (...).
        student: shape (..., classes).
        teacher: shape (..., classes of its own).
        more: one entry a position, shape (...).
        chunk_size: positions in a chunk; None takes as many as `CHUNK_ELEMENTS` logits hold.

    Returns:
        Shape (...), as the function gives at once.
    """
    shape, classes = student.shape[:-1], max(student.shape[-1], teacher.shape[-1])
    size = chunk_size or max(1, CHUNK_ELEMENTS // classes)
    if shape.numel() <= size:
        return function(student, teacher, *more)
    sides = [torch.split(side.reshape(-1, side.shape[-1]), size) for side in (student, teacher)]
    rest = [torch.split(each.reshape(-1), size) for each in more]
    parts = [
        cast(Tensor, checkpoint(function, *chunk, use_reentrant=False, preserve_rng_state=False))
        for chunk in zip(*sides, *rest, strict=True)
    ]
    return torch.cat(parts).view(shape)


class LogitLoss(PositionLoss):
    """A loss that compares logits position by position: examples, or the tokens that count.

    Multi-label answers are compared label by label, each as a distribution over yes and no, and summed over labels.

    Args:
        chunk_size: positions that are compared at once, so that a vocabulary's softmax never exists for all positions;
            None chooses. Where the student's head is fused (see `fused`), its logits do not either; else more than one
            chunk is compared again in backward.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    positionwise: ClassVar[bool] = True
    refused: ClassVar[dict[Task, str]] = {}  # task -> what to take instead

    def __init__(self, chunk_size: int | None = None, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.chunk_size = chunk_size
        self._padded = False  # whether one side's vocabulary has more rows of padding

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: there are no logits, the loss is not for this task, or an argument is out of range.
        """
        who = type(self).__name__
        if task is Task.EMBEDDING:
            raise ValueError(f"{who} needs logits: an embedding model has none. Use HiddenMSE or RKDDistance.")
        if task in self.refused:
            raise ValueError(f"{who} is not for {task}. {self.refused[task]}")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"{who}: chunk_size is {self.chunk_size}; it must be at least 1.")
        temperature = getattr(self, "temperature", 1.0)
        if temperature <= 0:
            raise ValueError(f"{who}: temperature is {temperature}; it must be above 0.")
        # `check_vocabulary` refuses what is not one tokenizer's
        self._padded = task.of_vocabulary and teacher is not None and student.classes != teacher.classes

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, LOGITS)]

    def classes_compared(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """See `Loss.classes_compared`. Of one tokenizer's vocabulary, padded to two sizes, the words of both."""
        if isinstance(teacher, TopK):
            return teacher.beside(student), teacher.logits
        if self.other_classes or not self._padded:
            return student, teacher
        words = min(student.shape[-1], teacher.shape[-1])
        return student[..., :words], teacher[..., :words]

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight. Of a teacher that kept its largest logits, both sides are those and the rest."""
        theirs: Tensor | TopK | None = teacher.get(LOGITS)
        if isinstance(theirs, TopK):
            mine = self._beside(theirs, student[LOGITS], batch)
            student, teacher = {**student, LOGITS: mine}, {**teacher, LOGITS: theirs.logits}
        return super().forward(student, teacher, batch)

    def _beside(self, theirs: TopK, student: Tensor, batch: Batch) -> Tensor:
        """The student's logits of the classes that the teacher kept, and of the rest: (..., k + 1)."""
        if (*student.shape[:-1], theirs.of) != (*theirs.logits.shape[:-1], student.shape[-1]):
            raise ValueError(
                f"{type(self).__name__}: the student's logits are {tuple(student.shape)}, the teacher kept the "
                f"largest of {(*theirs.logits.shape[:-1], theirs.of)}. Give both as many classes and positions."
            )
        kept = batch.counted_positions(student)
        more = [] if kept is None else [kept]
        rest = in_chunks(rest_of, student, theirs.classes, *more, chunk_size=self.chunk_size)
        return theirs.beside(student, rest)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        if batch.task is Task.MULTI_LABEL:
            return batch.mean(self.chunked(bernoulli(student), bernoulli(teacher)), over="predictions")
        return batch.mean(self.by_prediction(student, teacher, batch, *self.beside(batch)), over=self.over)

    def by_prediction(self, student: Tensor, teacher: Tensor, batch: Batch, *more: Tensor) -> Tensor:
        """`values` of every prediction; logits of what does not count are read as 0, whatever they are.

        Args:
            student: logits as the model gives them, (..., classes).
            teacher: likewise.
            batch: knows which positions count.
            more: one entry a prediction.

        Returns:
            The shape of `batch.predictions`.
        """
        kept = batch.counted_positions(student)
        if kept is None or kept.shape != teacher.shape[:-1]:
            return self.chunked(batch.align(student), batch.align(teacher), *more)
        predictions = batch.predictions.shape[-1]
        spread = [F.pad(each, (0, kept.shape[-1] - predictions)) for each in more]

        def values(student: Tensor, teacher: Tensor, kept: Tensor, *more: Tensor) -> Tensor:
            mask = kept[..., None]
            return self.values(torch.where(mask, student, 0.0), torch.where(mask, teacher, 0.0), *more)

        found = in_chunks(values, student, teacher, kept, *spread, chunk_size=self.chunk_size)
        return found[..., :predictions]

    def chunked(self, student: Tensor, teacher: Tensor, *more: Tensor) -> Tensor:
        """`values`, in chunks."""
        return in_chunks(self.values, student, teacher, *more, chunk_size=self.chunk_size)
