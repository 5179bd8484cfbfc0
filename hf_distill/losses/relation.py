"""What losses on relations between examples share: the pooled output of the whole batch, of all processes."""

import logging
from abc import abstractmethod
from typing import ClassVar, get_args

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.losses.schedules import Weight
from hf_distill.signals import ModelShape, Pooling, Signal, pooled
from hf_distill.tasks import Task

logger = logging.getLogger(__name__)
LOOKED_AT = 10  # batches in which duplicates are looked for, because looking waits for the device
SAME = 1e-6  # of the longest row: a distance below this is rounding, and the two rows are duplicates
NO_LENGTH = 1e-18  # a row shorter than this has no direction; its squares are zero in float32


def rounding(rows: Tensor) -> Tensor:
    """The distance below which two of these rows, (batch, dim), are the same but for rounding: a scalar."""
    lengths: Tensor = torch.linalg.vector_norm(rows.detach(), dim=-1)
    return lengths.max() * SAME


def centred(rows: Tensor) -> Tensor:
    """Rows without their mean, in float64 where the device has it.

    |a|^2 + |b|^2 - 2ab loses digits where rows lie close together, and far from 0.
    """
    rows = rows.to(torch.float32 if rows.device.type == "mps" else torch.float64)
    return rows - rows.mean(0)


def distances(rows: Tensor) -> Tensor:
    """Pairwise Euclidean distances, (batch, dim) -> (batch, batch); the gradient of a distance of 0 is 0."""
    rows = centred(rows)
    with torch.autocast(rows.device.type, enabled=False):
        products = rows @ rows.T
    lengths = products.diagonal()
    squares = lengths[:, None] + lengths - 2 * products
    apart = (squares > 0) & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return torch.where(apart, torch.where(apart, squares, 1.0).sqrt(), 0.0).float()


def relative_distances(rows: Tensor) -> Tensor:
    """Pairwise distances over the mean of those that are not zero, (batch, dim) -> (batch, batch).

    Duplicates, also those that differ by rounding alone, are 0 apart and not counted in the mean.
    """
    found = distances(rows)
    apart = found > rounding(rows)
    found = torch.where(apart, found, 0.0)
    mean: Tensor = found.sum() / apart.sum().clamp(min=1)
    return found / mean.clamp(min=1e-12)


def unit(rows: Tensor) -> Tensor:
    """Rows over their lengths, (..., dim) -> (..., dim); one of zeros has no direction: it stays, with gradient 0."""
    directed = torch.linalg.vector_norm(rows.detach(), dim=-1, keepdim=True) > NO_LENGTH
    lengths = torch.linalg.vector_norm(torch.where(directed, rows, 1.0), dim=-1, keepdim=True)
    found: Tensor = torch.where(directed, rows, 0.0) / lengths
    return found


class RelationLoss(Loss):
    """A loss on how the examples of a batch lie to one another, of any widths.

    On several processes all their rows are one batch; an accumulated micro-batch sees only its own relations, so that
    4 x 2 accumulated differs from 8 at once.

    Args:
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    relational: ClassVar[bool] = True
    fewest: ClassVar[int] = 2  # examples that have a relation to learn

    def __init__(self, pooling: Pooling = "first", weight: Weight = 1.0) -> None:
        super().__init__(weight)
        self.pooling = pooling
        self._looked_at = 0

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: the pooling is not known, or takes a first token that sees nothing of the example.
        """
        if self.pooling not in get_args(Pooling):
            raise ValueError(f'{type(self).__name__}: pooling={self.pooling!r} is not "first", "last" or "mean".')
        causal = next((shape for shape in (student, teacher) if shape is not None and shape.causal), None)
        if self.pooling == "first" and causal is not None:
            raise ValueError(
                f"{type(self).__name__}: the first token of {causal.name} sees no other, so it says nothing of the "
                'example. Pass pooling="last" or "mean".'
            )

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(pooled(self.pooling), pooled(self.pooling))]

    @abstractmethod
    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The whole batch's value: (rows, width) twice -> scalar."""

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student, teacher = batch.gather(student), batch.gather(teacher)
        self._say_if_nothing_is_related(teacher)
        return batch.mean(self.relate(student, teacher), over="batch")

    def _say_if_nothing_is_related(self, teacher: Tensor) -> None:
        if self._looked_at >= LOOKED_AT:
            return
        self._looked_at += 1
        found = f"of {len(teacher)}" if len(teacher) < self.fewest else ""
        if not found and bool((teacher == teacher[:1]).all()):
            found = "that holds one example several times"
        if found:
            self._looked_at = LOOKED_AT
            logger.warning(
                "%s: a batch %s has no relations to learn. It takes %d different examples or more.",
                self.name,
                found,
                self.fewest,
            )
