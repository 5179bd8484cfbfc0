"""What losses share that treat the target class apart from the others: labels, and the logits without the target."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.logits import LogitLoss
from hf_distill.signals import ModelShape
from hf_distill.tasks import Task


def split_target(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The logit of the target and those of all other classes.

    Args:
        logits: shape (..., classes).
        labels: class ids, shape (...). A negative one is none: its logits are read as 0, with no gradient.

    Returns:
        The target's, shape (...), and the others' in their order, shape (..., classes - 1); float32.
    """
    known = (labels >= 0)[..., None]
    logits, target = torch.where(known, logits.float(), 0.0), torch.where(known, labels[..., None], 0)
    others = torch.arange(logits.shape[-1] - 1, device=logits.device).expand(*labels.shape, -1)
    return logits.gather(-1, target).squeeze(-1), logits.gather(-1, others + (others >= target))


def target_odds(target: Tensor, others: Tensor) -> Tensor:
    """The logit of "the target" against "another class": its sigmoid is the softmax's probability of the target.

    Args:
        target: its logit, shape (...).
        others: the other classes' logits, shape (..., classes - 1).

    Returns:
        Shape (...).
    """
    return target - torch.logsumexp(others, dim=-1)


class TargetClassLoss(LogitLoss):
    """A loss on logits that needs the class id of every position, and three classes or more."""

    needs_labels: ClassVar[bool] = True
    over: ClassVar[Literal["predictions", "targets"]] = "targets"
    refused: ClassVar[dict[Task, str]] = {
        Task.MULTI_LABEL: "It needs one class id an example. Use SoftTargets or LabelEmbeddings.",
        Task.REGRESSION: "It needs classes. Use SoftTargets or LogitMSE.",
        Task.SPAN: "Its classes are positions, of another number in every example. Use SoftTargets.",
    }

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: there are no logits, fewer than three classes, no class ids in this task, or an argument is
                out of range.
        """
        super().setup(student, teacher, task)
        if student.classes < 3:
            raise ValueError(
                f"{type(self).__name__} needs three classes or more, and {student.name} has {student.classes}: "
                "without the target nothing is left to compare. Use SoftTargets."
            )

    def beside(self, batch: Batch) -> tuple[Tensor, ...]:
        who, labels = type(self).__name__, batch.labels
        if labels is None:
            raise ValueError(f"{who} needs a labels column, and the batch has none. Add it, or use SoftTargets.")
        if labels.is_floating_point() or labels.shape != batch.predictions.shape:
            kind = str(labels.dtype).removeprefix("torch.")
            raise ValueError(
                f"{who} needs one class id for each of {tuple(batch.predictions.shape)} predictions, and the labels "
                f"are {kind} of shape {tuple(labels.shape)}. Pass class ids, or use SoftTargets, which needs none."
            )
        return (labels,)
