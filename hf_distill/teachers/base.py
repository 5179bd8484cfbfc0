"""What every teacher is: somebody who says what is known about a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from hf_distill.batch import Batch
from hf_distill.signals import ModelShape, Signal, Signals


class Teacher(ABC):
    """Says what is known about a batch, without gradient. Subclass it and answer `observe`:

    class Rules(Teacher):
        def observe(self, batch):
            return {LOGITS: my_rules(batch.inputs["input_ids"])}
    """

    shape: ModelShape | None = None
    """What the teacher is, if it is a model; losses that match layers need it."""

    input_names: Iterable[str] = ()
    """Columns that it reads; the student's own are always there."""

    model: nn.Module | None = None
    """The model inside, if there is one."""

    members: Sequence["Teacher"] = ()
    """The teachers inside, for one that puts several together or changes what one says."""

    top_k: int | None = None
    """How many logits of each position it gives, as a `TopK`; None: all."""

    compared_heads: Mapping[Signal, int] = {}
    """Attention maps of which averages over so many groups of heads are enough, and queries, keys and values of which
    relations in so many heads are; the trainer says so beforehand. A teacher may give these, or all."""

    known_as: str = ""
    """What a model card calls it, where it is no model that was there before the student."""

    view: str = ""
    """Prefix of the columns that it reads, where they are not the student's: said by an `OtherView` around it."""

    answers_late: bool = False
    """Whether it says in `respond` what it is asked for, when nobody around it can change that any more."""

    says_trust: bool = False
    """Whether it says with `TRUST` how much each of its answers counts."""

    compared_at: float | None = None
    """The only temperature at which losses may soften its logits, where they stand for a mean at that; None: any."""

    how_it_runs: frozenset[str] = frozenset()
    """Arguments of its own that change nothing of what it says: a scheme may be resumed with others."""

    needs_labels: str = ""
    """What of it compares its answers with the labels of training rows, as messages call it."""

    only_evaluated: frozenset[Signal] = frozenset()
    """Wanted signals that no loss looks at: the trainer says so before `prepare`, and `batch.training` when."""

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """Called once before step 1, and again if the student is made anew: refuses what cannot work.

        Args:
            student: what will learn.
            wanted: the signals that `observe` will be asked for.
            device: where the answers must be.
            tokenizer: what made the inputs, or None.

        Raises:
            ValueError: the message names what was found and the call that cures it.
        """

    def check_training(self, args: TrainingArguments) -> None:
        """Called before `prepare`: refuses settings that it cannot be trained with.

        Args:
            args: the settings of the training.

        Raises:
            ValueError: the message names what was found and what to take instead.
        """
        for member in self.members:
            member.check_training(args)

    def check_evaluation(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        """Called before the first step of a training: refuses rows that it would not know hours later.

        Args:
            dataset: what is evaluated while the student trains, one data set or several by name; None: nothing is.
            collate: makes a batch of its rows.

        Raises:
            ValueError: the message names what was found and the call that cures it.
        """

    def begin(self, args: TrainingArguments, steps: int) -> None:
        """Called before the first step of every training, for teachers that are trained beside the student.

        Args:
            args: the settings of the training.
            steps: optimizer steps of the whole training, those before a resume included.
        """
        for member in self.members:
            member.begin(args, steps)

    @property
    def models(self) -> list[nn.Module]:
        """The models that answer as this teacher, those of its `members` left out."""
        return [] if self.model is None or self.members else [self.model]

    @abstractmethod
    def observe(self, batch: Batch) -> Signals:
        """What is known about a batch: {signal: tensor without gradient}, the wanted signals among them.

        Where `batch.counted_only`, logits of positions that do not count are not looked at, and may be 0: those of a
        `ModelTeacher` are (`heads.HeadLogits`, not computed before somebody touches them).
        """

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """What is said once the student has spoken, beside what `observe` said; nothing unless overridden.

        For teachers that learn from the student, remember it or let it teach itself. In an evaluation it is called
        without gradients (`torch.is_grad_enabled()` says so), and nothing is to be learned.

        Args:
            batch: that the student has seen.
            student: what the losses look at in it; detach what is kept.
        """
        return {}

    def step(self) -> None:
        """Called after every optimizer step, for teachers that change while the student trains."""

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold so that a resumed run goes on as it would have: {name: tensor}.

        Called on the first process alone, so that what differs between processes must be put together in `step`.
        """
        return {}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes over what `state` gave, after `prepare`.

        Raises:
            ValueError: it is not of this teacher.
        """
        if state:
            raise ValueError(
                f"the checkpoint holds what a teacher learned ({next(iter(state))}), and {type(self).__name__} keeps "
                "nothing. Resume with the teacher that wrote it, or start anew."
            )
