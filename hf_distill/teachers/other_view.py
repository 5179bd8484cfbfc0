"""A teacher that reads other columns of an example than the student: another modality, language or tokenizer."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import datasets
import torch
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    default_data_collator,
)

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import ATTENTION_KINDS, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache.keys import LABELS
from hf_distill.teachers.given import everybody
from hf_distill.teachers.wrapper import Wrapper

PREFIX = "teacher_"
_BY_POSITION = ("hidden", "input_gradient", *ATTENTION_KINDS)


class OtherView(Wrapper):
    """Gives the teacher inside the columns that begin with a prefix, without it, in the place of the student's:

        rows = add_view(rows, lambda rows: teacher_tokenizer(rows["translation"], truncation=True))
        trainer = DistillationTrainer(
            student, OtherView(teacher), losses, args, train_dataset=rows,
            data_collator=PairedCollator(tokenizer, teacher_tokenizer),
        )

    Here a row has `input_ids` for the student and `teacher_input_ids` for the teacher. The view may be of another
    modality, in another language, of another augmentation or of another tokenizer: vocabularies are not compared, all
    else is (task, labels and their order, lengths, ids that are not known). What both say of the example is compared:
    logits, and vectors of whole examples (`pooled`). Positions do not belong together, and losses on layers are
    refused, but between two models that read no tokens.

    A `CachedTeacher` inside is filled by `fill`, and finds an example by the teacher's view of it.

    Args:
        teacher: a model in eval mode, its id, or a `Teacher`.
        prefix: of its columns.
        tokenizer: that made its ids; a cache inside asks for the same one.

    Raises:
        ValueError: the prefix is empty.
    """

    def __init__(self, teacher: nn.Module | Teacher | str, prefix: str = PREFIX, tokenizer: Any = None) -> None:
        super().__init__(teacher)
        if not prefix:
            raise ValueError(f'OtherView: prefix is empty; it is what the teacher\'s columns begin with: "{PREFIX}".')
        self.prefix, self.tokenizer = prefix, tokenizer
        self.teacher.view = prefix

    @property
    def input_names(self) -> Iterable[str]:  # type: ignore[override]
        return [self.prefix + name for name in self.teacher.input_names]

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: as the teacher inside; the losses compare positions, which do not belong together.
        """
        task = find_task(anatomy.unwrap(student))
        if task.per_token or task is Task.SPAN:
            raise ValueError(
                f"OtherView: in {task} each token has a prediction, and the tokens of two views do not belong "
                "together. Use it where an example has one."
            )
        both = [each for each in (student, self.model) if each is not None]
        by_position = sorted(str(signal) for signal in wanted if signal.kind in _BY_POSITION)
        if by_position and any(anatomy.vocabulary(each) is not None for each in both):
            raise ValueError(
                f"OtherView: the losses compare {', '.join(by_position)} token by token, and the tokens of two views "
                "do not belong together. Use losses on logits, or on whole examples such as RKDDistance."
            )
        self.teacher.prepare(student, wanted, device, self.tokenizer)

    def check_evaluation(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        """See `Teacher.check_evaluation`."""
        parts = dataset if isinstance(dataset, Mapping) else {"": dataset}
        if isinstance(collate, PairedCollator) and all(isinstance(each, datasets.Dataset) for each in parts.values()):
            viewed = {name: view_of(each, self.prefix) for name, each in parts.items()}
            self.teacher.check_evaluation(viewed, collate.teacher)

    def fill(self, parts: Any, collate: "PairedCollator", report: Callable[[int, int], None] | None = None) -> None:
        """Fills the cache inside; see `CachedTeacher.fill`.

        Args:
            parts: a `datasets.Dataset`, several, or splits by name, with the teacher's columns.
            collate: the trainer's `data_collator`.
            report: called with how many examples are done, of how many.

        Raises:
            ValueError: as `CachedTeacher.fill`; no cache is inside.
        """
        cached: Any = self.teacher
        if not hasattr(cached, "fill"):
            raise ValueError("OtherView.fill fills a cache. Make it OtherView(CachedTeacher(folder, model)).")
        several = [parts] if isinstance(parts, datasets.Dataset) else parts
        several = several.values() if isinstance(several, Mapping) else several
        cached.fill([view_of(each, self.prefix) for each in several], collate.teacher, report)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`.

        Raises:
            ValueError: the batch holds no columns of the teacher's.
        """
        return self.teacher.observe(self._seen(batch))

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`."""
        return self.teacher.respond(self._seen(batch), student)

    def _seen(self, batch: Batch) -> Batch:
        """The batch as the teacher sees it: its own columns, and the labels."""
        own = {
            name.removeprefix(self.prefix): value
            for name, value in batch.inputs.items()
            if name.startswith(self.prefix)
        }
        if not own:
            raise ValueError(
                f"the batch holds no {self.prefix}..., which the teacher reads, only {', '.join(batch.inputs)}. Pass "
                "data_collator=PairedCollator(tokenizer, teacher_tokenizer), and encode its columns by add_view."
            )
        labels = {name: value for name, value in batch.inputs.items() if name in LABELS}
        return replace(batch, inputs={**labels, **own})


def check_outside(teacher: Teacher) -> None:
    """Refuses another view inside of a teacher that knows an example by what is read where the student's tokens are.

    Args:
        teacher: the one outside.

    Raises:
        ValueError: something inside is an `OtherView`.
    """
    if any(isinstance(each, OtherView) for each in everybody(teacher)):
        own = type(teacher).__name__
        raise ValueError(
            f"{own} draws for each example by the tokens that the student reads, and inside of it OtherView reads "
            f"others. Put it inside of OtherView: OtherView({own}(teacher))."
        )


class PairedCollator:
    """Makes a batch of rows with two views, each padded in its own way.

    Args:
        student: pads the student's columns, labels among them: a tokenizer, a feature extractor, or a collator; None
            for columns of one length, such as images.
        teacher: likewise for those that begin with the prefix, which it does not see.
        prefix: as in `OtherView`.
    """

    def __init__(self, student: Any = None, teacher: Any = None, prefix: str = PREFIX) -> None:
        self.student, self.teacher, self.prefix = _collator(student), _collator(teacher), prefix

    def __call__(self, rows: list[Mapping[str, Any]]) -> dict[str, Any]:
        """One batch.

        Raises:
            ValueError: no column begins with the prefix.
        """
        mine: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for row in rows:
            mine.append({name: value for name, value in row.items() if not name.startswith(self.prefix)})
            theirs.append({n.removeprefix(self.prefix): v for n, v in row.items() if n.startswith(self.prefix)})
        if not theirs[0]:
            raise ValueError(f"no column begins with {self.prefix}, only {', '.join(mine[0])}. Call add_view first.")
        seen = {self.prefix + name: value for name, value in self.teacher(theirs).items()}
        return {**self.student(mine), **seen}


def add_view(rows: Any, encode: Callable[[dict[str, Any]], Mapping[str, Any]], prefix: str = PREFIX) -> Any:
    """The same rows with what the teacher reads of them.

    Args:
        rows: a `datasets.Dataset` or `DatasetDict`.
        encode: makes the teacher's columns of some rows at once: a tokenizer or processor on one of their columns.
        prefix: as in `OtherView`.
    """
    return rows.map(
        lambda some: {prefix + name: value for name, value in encode(some).items()}, batched=True, desc="other view"
    )


def view_of(rows: datasets.Dataset, prefix: str = PREFIX) -> datasets.Dataset:
    """The teacher's columns of rows alone, by the names that it knows."""
    own = {name: name.removeprefix(prefix) for name in rows.column_names if name.startswith(prefix)}
    return rows.select_columns(list(own)).rename_columns(own)


def _collator(given: Any) -> Callable[[list[Any]], Mapping[str, Any]]:
    if given is None:
        return default_data_collator
    if isinstance(given, PreTrainedTokenizerBase | SequenceFeatureExtractor):
        return DataCollatorWithPadding(given)  # type: ignore[arg-type]
    if not callable(given):
        raise ValueError(f"PairedCollator takes a tokenizer, a feature extractor or a collator, not {given!r}.")
    return given  # type: ignore[no-any-return]
