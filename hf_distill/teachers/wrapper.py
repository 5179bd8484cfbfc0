"""The base of teachers around one other, which change, hide or weigh what it says."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from hf_distill.batch import Batch
from hf_distill.signals import ModelShape, Signal, Signals
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.given import as_teacher


class Wrapper(Teacher):
    """Says what the teacher inside says, and is told what that one is told. Subclass it and override what differs:

        class Doubtful(Wrapper):
            def observe(self, batch):
                seen = self.teacher.observe(batch)
                return {**seen, LOGITS: seen[LOGITS] / 2}

    What the teacher inside is, and what it is asked for, is looked up in it and never copied: it may become known
    late, as that of a cache.

    Args:
        teacher: a model in eval mode, its id, or a `Teacher`.
    """

    def __init__(self, teacher: nn.Module | Teacher | str) -> None:
        self.teacher = as_teacher(teacher)
        self.members = (self.teacher,)

    @property
    def shape(self) -> ModelShape | None:  # type: ignore[override]
        return self.teacher.shape

    @property
    def input_names(self) -> Iterable[str]:  # type: ignore[override]
        return self.teacher.input_names

    @property
    def model(self) -> nn.Module | None:  # type: ignore[override]
        return self.teacher.model

    @property
    def top_k(self) -> int | None:  # type: ignore[override]
        return self.teacher.top_k

    @property
    def compared_heads(self) -> Mapping[Signal, int]:  # type: ignore[override]
        return self.teacher.compared_heads

    @compared_heads.setter
    def compared_heads(self, groups: Mapping[Signal, int]) -> None:
        self.teacher.compared_heads = groups

    @property
    def known_as(self) -> str:  # type: ignore[override]
        return self.teacher.known_as

    @property
    def view(self) -> str:  # type: ignore[override]
        return self.teacher.view

    @view.setter
    def view(self, prefix: str) -> None:
        for member in self.members:
            member.view = prefix

    @property
    def needs_labels(self) -> str:  # type: ignore[override]
        return next((each.needs_labels for each in self.members if each.needs_labels), "")

    @property
    def compared_at(self) -> float | None:  # type: ignore[override]
        return self.teacher.compared_at

    @property
    def says_trust(self) -> bool:  # type: ignore[override]
        return self.teacher.says_trust

    @property
    def only_evaluated(self) -> frozenset[Signal]:  # type: ignore[override]
        return self.teacher.only_evaluated

    @only_evaluated.setter
    def only_evaluated(self, signals: frozenset[Signal]) -> None:
        self.teacher.only_evaluated = signals

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: the teacher inside answers only once the student has spoken.
        """
        self.check_in_time()
        self.teacher.prepare(student, wanted, device, tokenizer)

    def check_in_time(self) -> None:
        """Refuses a teacher inside whose answers come when this one cannot change them any more."""
        if self.teacher.answers_late:
            inside, own = type(self.teacher).__name__, type(self).__name__
            raise ValueError(
                f"{inside} answers once the student has spoken, and {own} could change nothing of it. Leave {own} out."
            )

    @property
    def answers_late(self) -> bool:  # type: ignore[override]
        return self.teacher.answers_late

    def check_training(self, args: TrainingArguments) -> None:
        """See `Teacher.check_training`."""
        self.teacher.check_training(args)

    def check_evaluation(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        """See `Teacher.check_evaluation`."""
        self.teacher.check_evaluation(dataset, collate)

    def begin(self, args: TrainingArguments, steps: int) -> None:
        """See `Teacher.begin`."""
        self.teacher.begin(args, steps)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`."""
        return self.teacher.observe(batch)

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`."""
        return self.teacher.respond(batch, student)

    def step(self) -> None:
        """See `Teacher.step`."""
        self.teacher.step()

    def state(self) -> dict[str, torch.Tensor]:
        """See `Teacher.state`."""
        return self.teacher.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """See `Teacher.load_state`."""
        self.teacher.load_state(state)
