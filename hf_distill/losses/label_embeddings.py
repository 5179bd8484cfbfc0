"""Label-wise embeddings: what a multi-label model sees of an example for each label, compared by distances."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch, host
from hf_distill.losses.base import Loss
from hf_distill.losses.relation import relative_distances
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Signal
from hf_distill.signals import label_embeddings as label_embeddings_signal
from hf_distill.tasks import Task


def label_embeddings(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Huber loss between the relative distances of positive labels' embeddings, within labels and within examples.

    A group is all positives of one label (class-aware), or of one example (instance-aware). Its distances are divided
    by their mean on either side; their Huber losses are added and divided by the number of its positives, and the
    groups are added. One positive adds 0, and so do two: they are their mean distance apart on both sides, unless one
    side alone holds them equal.

    Args:
        student: embeddings of every label in every example, shape (batch, labels, width).
        teacher: likewise, shape (batch, labels, width of its own).
        labels: 1 where a label is positive, shape (batch, labels); 0 and negative (ignored) are not.

    Returns:
        Two scalars, float32: the class-aware and the instance-aware part.

    Reference: Yang et al. 2023 (L2D), arXiv:2308.06453, the label-wise embedding distillation.
    Differs from the paper: the division by the group's number of positives is the authors' code's; duplicates are 0
    apart, with gradient 0, and not counted in the mean.
    """
    student, teacher, positive = student.float(), teacher.detach().float(), labels.detach().cpu() > 0.5
    return (
        _within_groups(student.transpose(0, 1), teacher.transpose(0, 1), positive.T),
        _within_groups(student, teacher, positive),
    )


def _within_groups(student: Tensor, teacher: Tensor, positive: Tensor) -> Tensor:
    """(groups, members, width) twice and bool (groups, members) -> scalar."""
    total = student[:0].sum()  # 0, with a graph: a batch without positives has a gradient too
    found = [members.nonzero().squeeze(1) for members in positive]
    places = torch.split(host.sent(torch.cat(found), student.device), [len(each) for each in found])
    for mine, theirs, index in zip(student, teacher, places, strict=True):
        if len(index) > 1:
            sides = relative_distances(mine[index]), relative_distances(theirs[index])
            total = total + F.smooth_l1_loss(*sides, reduction="sum") / len(index)
    return total


class LabelEmbeddings(Loss):
    """How label-wise embeddings lie to one another, within each label and within each example. Any widths.

    Take it beside `SoftTargets` in multi-label classification, for what the logits no longer show; the paper weighs
    that one 10 and leaves `TaskLoss` at 1. It grows with the number of labels and examples that have three positives
    or more. On several processes all their rows are one batch; an accumulated micro-batch sees only its own, so that
    4 x 2 accumulated differs from 8 at once. Its groups are of any size: where labels are gathered from several
    processes it waits for an accelerator in every step, which no other loss does.

    Args:
        class_aware: weight of the part within labels, between examples.
        instance_aware: weight of the part within examples, between labels.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Yang et al. 2023, Multi-Label Knowledge Distillation (L2D), arXiv:2308.06453"
    needs_labels: ClassVar[bool] = True
    relational: ClassVar[bool] = True

    def __init__(self, class_aware: float = 100.0, instance_aware: float = 1000.0, weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.class_aware = class_aware
        self.instance_aware = instance_aware

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the task is not multi-label, or the teacher is no model.
        """
        if task is not Task.MULTI_LABEL:
            raise ValueError(
                f"LabelEmbeddings is for multi_label, and the task is {task}. Use RKDDistance, or load both models "
                'with problem_type="multi_label_classification".'
            )
        if teacher is None:
            raise ValueError(
                "LabelEmbeddings needs the head of a teacher model, and this teacher is not one. Leave it out."
            )

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(label_embeddings_signal(), label_embeddings_signal())]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        labels = batch.labels
        if labels is None:
            raise ValueError(
                "LabelEmbeddings needs a labels column, and the batch has none. Add it, or leave LabelEmbeddings out."
            )
        if labels.shape != student.shape[:2] or labels.shape != teacher.shape[:2]:
            raise ValueError(
                f"LabelEmbeddings: the labels are of shape {tuple(labels.shape)}, the student's label embeddings of "
                f"{tuple(student.shape)}, the teacher's of {tuple(teacher.shape)}. Give all (batch, labels) in front."
            )
        if batch.processes > 1:
            student, teacher, labels = (batch.gather(each) for each in (student, teacher, labels))
        else:
            labels = batch.on_host.labels
            assert labels is not None
        by_class, by_instance = label_embeddings(student, teacher, labels)
        return batch.mean(self.class_aware * by_class + self.instance_aware * by_instance, over="batch")
