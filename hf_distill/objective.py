"""The losses as one module: what they want to see, and their weighted terms.

It is attached to the student while it trains, so that projections are optimised, clipped, synchronised and resumed as
any weight of the student is, and split off again when the student is saved.
"""

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.signals import LOGITS, TASK_LOSS, ModelShape, Signal, Signals
from hf_distill.tasks import Task


class Objective(nn.Module):
    """Several losses, each under a name of its own.

    Args:
        losses: at least one; two of one name become `hidden_mse` and `hidden_mse_2`.

    Raises:
        ValueError: there is none, one is no loss, or one stands twice.
    """

    def __init__(self, losses: Iterable[Loss]) -> None:
        super().__init__()
        named: dict[str, Loss] = {}
        for loss in losses:
            if not isinstance(loss, Loss):
                raise ValueError(f"losses holds {loss!r}, which is no loss; pass instances, such as SoftTargets().")
            if any(loss is other for other in named.values()):
                raise ValueError(f"losses holds one and the same {type(loss).__name__} twice; make two of them.")
            name, number = loss.name, 2
            while name in named:
                name, number = f"{loss.name}_{number}", number + 1
            named[name] = loss
        if not named:
            raise ValueError("losses is empty; pass at least one, or None for the task's default.")
        self.losses = nn.ModuleDict(named)

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """Sets up every loss; what cannot work is refused here, before step 1."""
        for loss in self:
            loss.setup(student, teacher, task)

    def __iter__(self) -> Iterator[Loss]:
        return iter(self.losses.values())  # type: ignore[arg-type]

    @property
    def wanted_of_student(self) -> frozenset[Signal]:
        """What is looked at in the student."""
        return frozenset(mine for loss in self for mine, _ in loss.pairs())

    @property
    def wanted_of_teacher(self) -> frozenset[Signal]:
        """What is asked of the teacher."""
        return frozenset(theirs for loss in self for _, theirs in loss.pairs() if theirs is not None)

    @property
    def uses_head(self) -> bool:
        """Whether some loss reaches the student's head; if none does, DDP must look for unused parameters."""
        return any(mine in (LOGITS, TASK_LOSS) for loss in self for mine, _ in loss.pairs())

    @property
    def needs_labels(self) -> bool:
        """Whether some loss asks for labels."""
        return any(loss.needs_labels for loss in self)

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms, which add up to the total: {name: scalar}."""
        return {name: loss.weight * loss(student, teacher, batch) for name, loss in self.losses.items()}
