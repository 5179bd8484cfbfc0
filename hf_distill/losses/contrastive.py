"""Contrastive representation distillation: a student's example is known among all by its teacher's vector."""

from typing import cast

import torch
from torch import Tensor, nn

from hf_distill.losses.relation import RelationLoss, distances, rounding, unit
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Pooling
from hf_distill.tasks import Task

_NO_PART = -1e30  # a score that takes no part in a softmax


def contrastive_representation(
    student: Tensor, teacher: Tensor, negatives: Tensor | None = None, temperature: float = 0.07
) -> Tensor:
    """InfoNCE in both directions: the student's row finds the teacher's of the same example, and that one it.

    Args:
        student: projected embeddings, shape (batch, dim); their lengths do not matter.
        teacher: projected embeddings, shape (batch, dim). It is *not* detached, because the teacher's projection
            learns too: detach what enters that one.
        negatives: more of the teacher's rows for the student's to be told from, shape (queue, dim). Detached.
        temperature: divides the cosines.

    Returns:
        A scalar, float32, in nats: mean over both directions and the examples. Above 0 also where both sides are
        equal, because cosines are bounded. 0, with gradient 0, for one row without negatives, also if it stands there
        several times: a duplicate of an example in the batch is no negative of it. An example of zeros on either side,
        and a negative of zeros, take no part.

    Reference: Tian et al. 2020 (CRD), arXiv:1910.10699, equation 18.
    Differs from the paper: a softmax over the batch and `negatives` (InfoNCE, arXiv:1807.03748) in the place of a
    binary NCE against thousands of rows of a memory bank, which needs one slot for every example, its index, and the
    size of the data set for the noise probability.
    """
    student, teacher = unit(student.float()), unit(teacher.float())
    there = (student != 0).any(-1) & (teacher != 0).any(-1)
    with torch.autocast(student.device.type, enabled=False):
        scores = student @ teacher.T / temperature
        scores = scores.masked_fill(~(there[:, None] & there) | _twice(teacher.detach()), _NO_PART)
        choices = scores
        if negatives is not None:
            negatives = unit(negatives.detach().float())
            more = student @ negatives.T / temperature
            choices = torch.cat([scores, more.masked_fill(~(negatives != 0).any(-1), _NO_PART)], dim=1)
    nats = (choices.logsumexp(1) + scores.logsumexp(0)) / 2 - scores.diagonal()
    return torch.where(there, nats, 0.0).sum() / there.sum().clamp(min=1)


def _twice(rows: Tensor) -> Tensor:
    """Which pairs of rows are one and the same, but for rounding: (batch, dim) -> bool (batch, batch), no diagonal."""
    same = distances(rows) <= rounding(rows)
    return same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)


class ContrastiveRepresentation(RelationLoss):
    """Each example's vector, told from those of the other examples in a space that both sides project into.

    Take it where what tells examples apart is to be learned, and batches are large or there is a queue;
    `SimilarityPreserving` or `RKDDistance` need no projection and say how alike examples are, and `HiddenMSE` compares
    an example with itself alone. Any widths.

    The projections of both sides train with the student; the teacher stays as it is. The queue holds the teacher's
    last projected rows, as they were then; all processes hold the same. It is saved with a checkpoint and not used up
    by evaluation.

    Args:
        dim: width of the shared space.
        temperature: divides the cosines.
        queue: how many of the teacher's earlier rows are negatives too. Keep it well under the examples of an epoch,
            or an example meets itself. 0 takes the batch alone.
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Tian et al. 2020, Contrastive Representation Distillation, arXiv:1910.10699"
    memory: Tensor  # (queue, dim), a ring; slots not filled yet are zero and take no part
    enqueued: Tensor  # rows ever put in: the next one goes to this place modulo the queue's size

    def __init__(
        self,
        dim: int = 128,
        temperature: float = 0.07,
        queue: int = 0,
        pooling: Pooling = "first",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(pooling, weight)
        self.dim = dim
        self.temperature = temperature
        self.queue = queue

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`. Builds the projections and an empty queue.

        Raises:
            ValueError: the teacher is no model, or an argument is out of range.
        """
        super().setup(student, teacher, task)
        who = type(self).__name__
        if teacher is None:
            raise ValueError(f"{who} needs the width of a teacher model, and this teacher is not one. Leave it out.")
        if self.dim < 1:
            raise ValueError(f"{who}: dim is {self.dim}; it must be at least 1.")
        if self.temperature <= 0:
            raise ValueError(f"{who}: temperature is {self.temperature}; it must be above 0.")
        if self.queue < 0:
            raise ValueError(f"{who}: queue is {self.queue}; it must be at least 0.")
        self.student_head = nn.Linear(student.width, self.dim)
        self.teacher_head = nn.Linear(teacher.width, self.dim)
        if self.queue:
            self.register_buffer("memory", torch.zeros(self.queue, self.dim))
            self.register_buffer("enqueued", torch.zeros((), dtype=torch.long))

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = _project(student, self.student_head), _project(teacher.detach(), self.teacher_head)
        negatives = self.memory if self.queue else None
        value = contrastive_representation(student, teacher, negatives, self.temperature)
        if self.queue and self.training:
            self._enqueue(teacher.detach())
        return value

    @torch.no_grad()
    def _enqueue(self, rows: Tensor) -> None:
        rows = unit(rows.float())[-self.queue :].to(self.memory)
        places = (self.enqueued + torch.arange(len(rows), device=rows.device)) % self.queue
        self.memory.index_copy_(0, places, rows)
        self.enqueued.add_(len(rows))

    def _say_if_nothing_is_related(self, teacher: Tensor) -> None:
        if not self.queue:  # with one, a single example has negatives
            super()._say_if_nothing_is_related(teacher)


def _project(rows: Tensor, head: nn.Linear) -> Tensor:
    """Rows in the shared space; one of zeros (no attended token) stays zero, whatever the bias."""
    projected = cast(Tensor, head(rows.to(head.weight.dtype)))
    return torch.where((rows != 0).any(-1, keepdim=True), projected, 0.0)
