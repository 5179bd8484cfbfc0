"""The losses as one module: what they want to see, and their weighted terms.

It is attached to the student while it trains, so that projections are optimised, clipped, synchronised and resumed as
any weight of the student is, and split off again when the student is saved.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_distill.balance import gradient_norms, multipliers
from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses.base import Loss, PositionLoss
from hf_distill.losses.fused import terms_on_counted
from hf_distill.losses.schedules import check_weight, weight_at
from hf_distill.signals import ATTENTION_KINDS, LOGITS, MAPS, TRUST, ModelShape, Signal, Signals
from hf_distill.tasks import Task
from hf_distill.top_k import TopK

# what a Trainer logs beside the terms, and what a ModuleDict keeps to itself
TAKEN = frozenset(
    {"loss", "grad_norm", "learning_rate", "epoch", "step", "agreement", "items", "keys", "values", "pop", "update"}
)


class Objective(nn.Module):
    """Several losses, each under a name of its own.

    Args:
        losses: at least one; two of one name become `hidden_mse` and `hidden_mse_2`. They are copied, so that one list
            serves several trainers.
        balance: ``"gradient_norm"`` multiplies the terms so that their gradients on the last layer that all of them
            reach have the ratios of their weights, whenever `forward` is given layers to measure on.

    Attributes:
        progress: the share of the training that is done, 0 to 1, for weights that are schedules; the trainer sets it.
        of_vocabulary: whether the classes are the words of a vocabulary; known after `setup`.

    Raises:
        ValueError: there is none, one is no loss, or one stands twice.
    """

    def __init__(self, losses: Iterable[Loss], balance: Literal["gradient_norm"] | None = None) -> None:
        super().__init__()
        if balance not in (None, "gradient_norm"):
            raise ValueError(f'balance={balance!r} is not known; use "gradient_norm" or leave it out.')
        if isinstance(losses, Loss):
            raise ValueError(
                f"losses is one {type(losses).__name__}; pass a list, losses=[{type(losses).__name__}(...)]."
            )
        named: dict[str, Loss] = {}
        for loss in losses:
            if not isinstance(loss, Loss):
                raise ValueError(f"losses holds {loss!r}, which is no loss; pass instances, such as SoftTargets().")
            if any(loss is other for other in named.values()):
                raise ValueError(f"losses holds one and the same {type(loss).__name__} twice; make two of them.")
            name, number = loss.name, 2
            while name in named:
                name, number = f"{loss.name}_{number}", number + 1
            if loss.name in TAKEN:
                raise ValueError(f"a loss is called {loss.name!r}, which has another meaning in the logs. Rename it.")
            named[name] = loss
        if not named:
            raise ValueError("losses is empty; pass at least one, or None for the task's default.")
        self.losses = nn.ModuleDict(copy.deepcopy(named))
        self.progress = 0.0
        self.of_vocabulary = False
        self.multipliers: Tensor | None
        self.register_buffer("multipliers", None if balance is None else torch.ones(len(named)))

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """Sets up every loss; what cannot work is refused here, before step 1."""
        self.of_vocabulary = task.of_vocabulary
        for loss in self:
            check_weight(loss.weight, type(loss).__name__)
            theirs = teacher if loss.teacher is None else _member(loss, loss.teacher, teacher)
            loss.setup(student, theirs, task)
            for ours, other in loss.pairs():
                self._check_width(loss, ours, student)
                self._check_width(loss, other, theirs)
                if teacher is not None and teacher.members and loss.teacher is None:
                    _check_whose(loss, other, teacher)

    def _check_width(self, loss: Loss, signal: Signal | None, shape: ModelShape | None) -> None:
        if signal is not None and shape is not None and signal.kind in ("hidden", "pooled") and not shape.width:
            raise ValueError(
                f"{type(loss).__name__} looks at hidden states of tokens or patches, and {shape.name} has none of one "
                "width. Use losses on logits, such as SoftTargets."
            )

    def __iter__(self) -> Iterator[Loss]:
        return iter(self.losses.values())  # type: ignore[arg-type]

    @property
    def wanted_of_student(self) -> frozenset[Signal]:
        """What is looked at in the student."""
        return frozenset(mine for loss in self for mine, _ in loss.pairs())

    @property
    def wanted_of_teacher(self) -> frozenset[Signal]:
        """What is asked of the teacher."""
        return frozenset(theirs for loss in self for theirs in _of_teacher(loss))

    @property
    def compared_heads(self) -> dict[Signal, int]:
        """Of which attention maps of the teacher averages over heads are enough, and over how many groups of them; of
        which queries, keys and values relations are, and in how many heads."""
        asked: dict[Signal, set[int | None]] = {}
        for loss in self:
            for theirs in _of_teacher(loss):
                if theirs.kind in ATTENTION_KINDS:
                    enough = loss.heads_compared if theirs.kind in MAPS else loss.relations_compared
                    asked.setdefault(theirs, set()).add(enough)
        return {signal: groups for signal, (groups, *more) in asked.items() if groups is not None and not more}

    @property
    def uses_head(self) -> bool:
        """Whether some loss reaches the student's head; if none does, DDP must look for unused parameters."""
        return any(mine == LOGITS for loss in self for mine, _ in loss.pairs())

    @property
    def reads_counted_only(self) -> bool:
        """Whether the classes are a vocabulary, and no loss reads logits of positions that do not count."""
        apart = all(isinstance(loss, PositionLoss) and loss.positionwise for loss in self if _reads_logits(loss))
        return self.of_vocabulary and apart

    def compile_formulas(self, **options: Any) -> None:
        """Compiles the losses that go position by position.

        Args:
            options: of `torch.compile`.
        """
        for loss in self:
            if isinstance(loss, PositionLoss) and loss.positionwise and "values" not in vars(loss):
                loss.values = torch.compile(loss.values, **options)  # type: ignore[method-assign]

    @property
    def needs_labels(self) -> bool:
        """Whether some loss asks for labels."""
        return any(loss.needs_labels for loss in self)

    @property
    def changes_weights(self) -> bool:
        """Whether some weight changes while the student trains."""
        return self.multipliers is not None or any(callable(loss.weight) for loss in self)

    def weights(self) -> dict[str, float]:
        """What each term is multiplied by now: {name: weight}."""
        found = self._scheduled()
        if self.multipliers is None:
            return found
        return {name: weight * by for (name, weight), by in zip(found.items(), self.multipliers.tolist(), strict=True)}

    def forward(
        self,
        student: Signals,
        teacher: Signals,
        batch: Batch,
        layers: Sequence[Iterable[nn.Parameter]] | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms, which add up to the total: {name: scalar}.

        Args:
            student: what was seen of the student.
            teacher: what was seen of the teacher.
            batch: knows what counts.
            layers: with `balance`, the student's parameters by layer, on which the gradients are measured now.
        """
        weights, said = self._scheduled(), self._said(teacher, batch)

        def term_of(loss: Any) -> Tensor:
            theirs, trusted = said[loss.teacher]
            return loss(student, theirs, trusted if loss.asks_teacher else batch)  # type: ignore[no-any-return]

        if layers is not None and self.multipliers is not None:
            raw = {name: term_of(loss) for name, loss in self.losses.items()}
            norms = gradient_norms(raw, layers, batch.mean_over_processes)
            self.multipliers.copy_(multipliers(norms, norms.new_tensor(list(weights.values()))))
            return {name: self._factors(weights)[name] * term for name, term in raw.items()}
        factors, logits = self._factors(weights), student.get(LOGITS)
        apart: dict[str, Tensor] = {}
        if isinstance(logits, HeadLogits) and self.reads_counted_only:
            for number, (theirs, trusted) in said.items():
                mine = {name: loss for name, loss in self.losses.items() if loss.teacher == number}
                behind_head: dict[str, Any] = {name: loss for name, loss in mine.items() if _reads_logits(loss)}
                known = isinstance(theirs.get(LOGITS), Tensor | TopK | None)  # else only the losses know what it is
                if behind_head and known:
                    apart |= terms_on_counted(behind_head, factors, logits, theirs, trusted)
        return {
            name: apart[name] if name in apart else factors[name] * term_of(loss) for name, loss in self.losses.items()
        }

    def _said(self, teacher: Signals, batch: Batch) -> dict[int | None, tuple[Signals, Batch]]:
        """What the teacher and the members of an ensemble that losses look at say, and how far that is trusted."""
        every = {number: _of_member(number, teacher) for number in dict.fromkeys(loss.teacher for loss in self)}
        return {
            number: (theirs, replace(batch, trust=theirs[TRUST]) if TRUST in theirs else batch)
            for number, theirs in every.items()
        }

    def _factors(self, weights: dict[str, float]) -> dict[str, float | Tensor]:
        """What each term is multiplied by."""
        if self.multipliers is None:
            return dict(weights)
        return {
            name: weight * by for (name, weight), by in zip(weights.items(), self.multipliers.clone(), strict=True)
        }

    def _scheduled(self) -> dict[str, float]:
        return {name: weight_at(loss.weight, self.progress) for name, loss in self.losses.items()}  # type: ignore[arg-type]


def _reads_logits(loss: Any) -> bool:
    return any(LOGITS in pair for pair in loss.pairs())


def _of_teacher(loss: Any) -> list[Signal]:
    """What a loss asks the teacher for; where it is a loss on one member of an ensemble, of that one."""
    asked = [theirs for _, theirs in loss.pairs() if theirs is not None]
    return asked if loss.teacher is None else [theirs.of(loss.teacher) for theirs in asked]


def _of_member(number: int | None, teacher: Signals) -> Signals:
    """What a loss is shown: of one member of an ensemble, under the names of a teacher by itself."""
    if number is None:
        return teacher
    return {signal.of(None): seen for signal, seen in teacher.items() if signal.teacher == number}


def _member(loss: Loss, number: int, teacher: ModelShape | None) -> ModelShape | None:
    """What the member is that a loss looks at."""
    members = () if teacher is None else teacher.members
    who = f"{type(loss).__name__}(...).of({number})"
    if not members:
        raise ValueError(f"{who} looks at a member of an ensemble, and there is one teacher. Leave .of({number}) out.")
    if number >= len(members):
        raise ValueError(f"{who}: the ensemble has {len(members)} teachers, 0 to {len(members) - 1}.")
    return members[number]


def _check_whose(loss: Loss, signal: Signal | None, teacher: ModelShape) -> None:
    """Of an ensemble as a whole there is an answer, and nothing inside."""
    if signal is None or signal == LOGITS:
        return
    if signal.teacher is None:
        raise ValueError(
            f"{type(loss).__name__} looks at {signal}, and the teacher is an ensemble of {len(teacher.members)}, each "
            f"with its own. Say whose: {type(loss).__name__}(...).of(0)."
        )
    if signal.teacher >= len(teacher.members):
        raise ValueError(
            f"{type(loss).__name__} looks at {signal}, and the ensemble has {len(teacher.members)} teachers, 0 to "
            f"{len(teacher.members) - 1}."
        )
