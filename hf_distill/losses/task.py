"""The supervised loss of the labels, a term like any other."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import PositionLoss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import LOGITS, ModelShape, Signal
from hf_distill.tasks import Task, task_values


class TaskLoss(PositionLoss):
    """The labels' own loss on the student's logits: cross entropy, per-label binary cross entropy or squared error.

    Take it whenever there are labels; leave it out to distil on unlabelled text. Averages over labelled examples
    (tokens for token tasks; a negative label is none), as the model's own loss does on one batch, and unlike that one
    it is right under gradient accumulation and on several processes, and counts no padding: neither labels that stand
    on it, nor as a place where a span's answer could be.

    Args:
        label_smoothing: share of the target spread over all classes, 0 to 1; cross entropy only.
        pos_weight: one weight a label for its positives, multi-label only.
        weight: what the term is multiplied by in the total.
    """

    citation: str = ""
    needs_labels: ClassVar[bool] = True
    positionwise: ClassVar[bool] = True
    over: ClassVar[Literal["predictions", "targets"]] = "targets"

    def __init__(
        self, label_smoothing: float = 0.0, pos_weight: list[float] | None = None, weight: Weight = 1.0
    ) -> None:
        super().__init__(weight)
        self.label_smoothing = label_smoothing
        self.pos_weight = pos_weight

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the task has no labels, or an argument does not fit it.
        """
        if task is Task.EMBEDDING:
            raise ValueError("TaskLoss needs a head and labels: an embedding model has none. Leave TaskLoss out.")
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"TaskLoss: label_smoothing is {self.label_smoothing}; it must be between 0 and 1.")
        if self.label_smoothing and task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN):
            raise ValueError(f"TaskLoss(label_smoothing=...) is for class ids, and the task is {task}. Leave it out.")
        if self.pos_weight is not None and task is not Task.MULTI_LABEL:
            raise ValueError(f"TaskLoss(pos_weight=...) is for multi-label, and the task is {task}. Leave it out.")
        if self.pos_weight is not None and len(self.pos_weight) != student.classes:
            raise ValueError(f"TaskLoss: {len(self.pos_weight)} values in pos_weight for {student.classes} labels.")

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, None)]

    def values(self, student: Tensor, teacher: Tensor, *more: Any) -> Tensor:
        """The cross entropy of positions with a class id."""
        (labels,) = more
        return task_values(student, labels, Task.TOKENS, self.label_smoothing)

    def beside(self, batch: Batch) -> tuple[Tensor, ...]:
        if batch.labels is None:
            raise ValueError("TaskLoss needs a labels column, and the batch has none. Add it, or leave TaskLoss out.")
        return (batch.labels,)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        (labels,) = self.beside(batch)
        pos_weight = None if self.pos_weight is None else torch.tensor(self.pos_weight, device=student.device)
        values = task_values(batch.align(student), labels, batch.task, self.label_smoothing, pos_weight)
        return batch.mean(values, over="targets")
