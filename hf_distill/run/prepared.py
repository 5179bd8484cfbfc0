"""All that a recipe names, loaded and checked, nothing trained."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict, concatenate_datasets, disable_progress_bars
from rich.console import Console
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from hf_distill import anatomy, data, evaluation, metrics, progress, schemes, students, teachers
from hf_distill import recipe as recipes
from hf_distill.config import DistillationConfig
from hf_distill.losses import Loss, SoftTargets
from hf_distill.tasks import PROBLEM_TYPES, Task, find_task
from hf_distill.teachers.cache import source as sources
from hf_distill.teachers.cache.manifest import Manifest, skeleton
from hf_distill.trainer import DistillationTrainer

# schemes that ask a teacher for more than its answers to the training rows
LOOKS_INSIDE = ("adversarial", "chain", "data_free", "hints", "iterated", "online", "specialists", "two_stage")


@dataclass
class Ready:
    """Everything that a recipe names, loaded and checked, nothing trained.

    The teacher has no weights where its answers are cached: it is loaded only if some of them turn out to be missing.
    """

    recipe: recipes.Recipe
    args: DistillationConfig
    losses: list[Loss] | None
    metrics: list[Any]
    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: Any
    dataset: DatasetDict
    task: Task
    view: Any = None
    """The tokenizer of the teacher's own texts, where it reads others than the student."""
    asked: teachers.Teacher | None = None
    """The recipe's teacher itself, inside of the kind that it names; there once `trainer` was called."""
    heard: bool = True
    """Whether it taught; it does not in schemes in which students teach themselves or one another."""

    def trainer(self) -> DistillationTrainer:
        """The one that distils, after all that it refuses."""
        losses = self.losses
        if self.recipe.scheme is not None and losses is None:
            losses = [SoftTargets()]  # the scheme's stages have their own, and may do without labels
        kwargs = self._collator()
        return make_trainer(self.student, self.taught_by(), losses, self.args, self.dataset, self.tokenizer, **kwargs)

    def _collator(self) -> dict[str, Any]:
        return {} if self.view is None else {"data_collator": teachers.PairedCollator(self.tokenizer, self.view)}

    def seen_by_teacher(self, rows: Dataset) -> tuple[Dataset, Any]:
        """Rows as the teacher reads them, and the tokenizer that pads them."""
        return (rows, self.tokenizer) if self.view is None else (teachers.view_of(rows), self.view)

    def plan(self, teacher: teachers.Teacher, console: Console, resume: bool) -> schemes.Plan:
        """What the recipe's scheme works with.

        Args:
            teacher: from `taught_by`.
            console: where stages are announced.
            resume: whether a former run goes on.
        """
        args = copy.copy(self.args)
        args.push_to_hub = False  # once, at the end, with the figures
        return schemes.Plan(
            self.student,
            teacher,
            self.losses,
            args,
            resume=resume,
            console=console,
            watch=watched,
            **_trainer_kwargs(self.student, self.dataset, self.tokenizer),
            **self._collator(),
        )

    def taught_by(self) -> teachers.Teacher:
        """The teacher as the recipe says: live or from its answers, and of the kind that it names."""
        spec, label_map = self.recipe.teacher, self.args.label_map
        teacher: teachers.Teacher
        if spec.cache is None:
            teacher = teachers.ModelTeacher(self.teacher, label_map)
        else:
            model = (lambda: _load_teacher(self.recipe)) if has_no_weights(self.teacher) else self.teacher
            teacher = teachers.CachedTeacher(
                spec.cache, model, dtype=spec.cache_dtype, top_k=spec.cache_top_k, label_map=label_map
            )
        self.asked, found = teacher, recipes.build_teacher_kind(self.recipe)
        if found is not None:
            teacher = self._of_kind(teacher, *found)
        return teacher if self.view is None else teachers.OtherView(teacher, tokenizer=self.view)

    def _of_kind(self, teacher: teachers.Teacher, kind: Callable[..., Any], of: str) -> teachers.Teacher:
        spec, label_map = self.recipe.teacher, self.args.label_map
        also = [_load_teacher(self.recipe, index) for index in range(len(spec.also or []))]
        further = [teachers.ModelTeacher(model, label_map) for model in also]
        of_what = {"teacher": [teacher], "teachers": [[teacher, *further]], "student": [self.student], "": []}
        return kind(*of_what[of])  # type: ignore[no-any-return]


def prepare(recipe: recipes.Recipe, allow_custom_code: bool = False) -> Ready:
    """Loads all that a recipe names, the quick things first, and refuses what cannot work.

    Args:
        recipe: from `recipe.load`.
        allow_custom_code: whether losses may be dotted paths.

    Raises:
        ValueError: data, models or losses that do not fit; the message names the cure.
        OSError: a metric that is not there.
    """
    args = recipes.build_config(recipe, eval_strategy=recipe.train.get("eval_strategy", "epoch"))
    if recipe.push is not None:
        args.hub_model_id, args.hub_private_repo = recipe.push.repo_id, recipe.push.private
    args.label_map = recipe.teacher.label_map or args.label_map
    losses = recipes.build_losses(recipe, allow_custom_code)
    more = [metrics.load(name) for name in recipe.metrics]
    rows = data.load(recipe.dataset, recipe.folder)
    _check_teacher(recipe)
    if "validation" not in rows and "eval_strategy" not in recipe.train:
        args.eval_strategy = "no"
        if args.load_best_model_at_end:
            raise ValueError("load_best_model_at_end needs a validation split. Set dataset.eval_fraction above 0.")
    names = data.read_label_names(recipe.dataset.label_names, recipe.folder)
    if args.process_index:
        disable_progress_bars()
    set_seed(args.seed)
    teacher, task = _teacher(recipe)
    student, source = _student(recipe, teacher)
    if recipe.teacher.quantize is not None:  # after the student took its weights
        teachers.quantize(teacher.to(args.device), recipe.teacher.quantize)
    with _named("tokenizer of", source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    own_text = recipe.teacher.text is not None
    dataset = data.encode(
        rows,
        tokenizer,
        task=task,
        text=recipe.dataset.text,
        text_pair=recipe.dataset.text_pair,
        labels=recipe.dataset.labels,
        label_names=names,
        id2label=anatomy.named_labels(student) or anatomy.named_labels(teacher),
        max_length=recipe.dataset.max_length or _longest(tokenizer, student, *([] if own_text else [teacher])),
    )
    view = None
    if own_text:
        dataset, view = _with_view(recipe, rows, dataset, teacher, task)
    return Ready(recipe, args, losses, more, teacher, student, tokenizer, dataset, task, view)


def _check_teacher(recipe: recipes.Recipe) -> None:
    """Refuses what the recipe wants of its teacher, and cannot be had together."""
    spec, scheme = recipe.teacher, recipe.scheme
    inside = scheme is not None and scheme.name in LOOKS_INSIDE
    if scheme is not None and inside and spec.cache is not None:
        raise ValueError(
            f"scheme {scheme.name} needs the teacher itself, and teacher.cache holds its answers. "
            "Leave teacher.cache out."
        )
    found = recipes.build_teacher_kind(recipe)
    if spec.also and (found is None or found[1] != "teachers"):
        raise ValueError(
            "teacher.also names further models, and teacher.kind does not say what they are for. "
            "Add teacher.kind={name: EnsembleTeacher}."
        )
    if spec.text is None:
        if scheme is not None and scheme.name == "cross_modal":
            raise ValueError("scheme cross_modal: the teacher reads another column. Name it as teacher.text.")
        return
    if scheme is not None and inside:
        raise ValueError(
            f"scheme {scheme.name} shows the teacher what the student reads, and teacher.text names another column. "
            "Leave teacher.text out."
        )
    if spec.cache is not None:
        raise ValueError("teacher.text: a recipe caches no answers to other texts. Leave teacher.cache out.")
    if spec.also:
        raise ValueError(
            "teacher.text is encoded by the tokenizer of teacher.model, and those of teacher.also may have others. "
            "Leave one of the two out, or use Python."
        )
    if spec.kind is not None and found is not None and found[1] not in ("teacher", "teachers"):
        raise ValueError(f"teacher.text: {spec.kind.name} reads what the student reads. Leave teacher.text out.")


def _with_view(
    recipe: recipes.Recipe, rows: DatasetDict, dataset: DatasetDict, teacher: PreTrainedModel, task: Task
) -> tuple[DatasetDict, Any]:
    """The encoded rows with what the teacher reads of them, and its tokenizer."""
    text, source = str(recipe.teacher.text), recipe.model_path("teacher")
    for split, part in rows.items():
        if text not in part.column_names:
            raise ValueError(f"teacher.text: {split} has no column '{text}', only {', '.join(part.column_names)}.")
        if part.features[text].dtype != "string" or None in part[text][:]:
            raise ValueError(f"teacher.text: the column '{text}' of {split} is not all texts.")
    with _named("tokenizer of", source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    limit = recipe.dataset.max_length or _longest(tokenizer, teacher)

    def both(split: str) -> Dataset:
        theirs = teachers.add_view(
            rows[split].select_columns([text]),
            lambda some: tokenizer(some[text], truncation=limit is not None, max_length=limit),
        )
        return concatenate_datasets([dataset[split], theirs.remove_columns(text)], axis=1)

    return DatasetDict({split: both(split) for split in dataset}), tokenizer


def make_trainer(
    student: PreTrainedModel,
    teacher: teachers.Teacher,
    losses: list[Loss] | None,
    args: DistillationConfig,
    dataset: Mapping[str, Dataset],
    tokenizer: Any,
    **more: Any,
) -> DistillationTrainer:
    """A trainer that says its progress in lines."""
    kwargs = {**_trainer_kwargs(student, dataset, tokenizer), **more}
    trainer = DistillationTrainer(student, teacher, losses, args, **kwargs)
    watched(trainer)
    return trainer


def watched(trainer: DistillationTrainer) -> None:
    """Lets a trainer say its progress in lines."""
    progress.show(trainer, list(trainer.objective.losses))


def _trainer_kwargs(student: PreTrainedModel, dataset: Mapping[str, Dataset], tokenizer: Any) -> dict[str, Any]:
    return {
        "train_dataset": dataset["train"],
        "eval_dataset": dataset.get("validation"),
        "processing_class": tokenizer,
        "compute_metrics": evaluation.compute_metrics(find_task(student)),
    }


def has_no_weights(model: nn.Module) -> bool:
    """Whether a model is only known by its config, as a teacher whose answers are cached."""
    return any(parameter.is_meta for parameter in model.parameters())


def _teacher(recipe: recipes.Recipe) -> tuple[PreTrainedModel, Task]:
    """Without its weights where a cache is known to be its own."""
    spec, source = recipe.teacher, recipe.model_path("teacher")
    plain = spec.quantize is None  # the files do not say so
    if spec.cache is not None and plain and sources.is_same(Path(spec.cache), source, spec.dtype, recipe.task):
        manifest = Manifest.read(Path(spec.cache))
        assert manifest is not None, "the cache is finished"
        teacher = skeleton(manifest.fingerprint)
        return teacher, find_task(teacher)
    try:
        teacher = _load_teacher(recipe)
    except ValueError as error:
        if spec.cache is None or Manifest.read(Path(spec.cache)) is None or sources.files_of(source):
            raise
        raise ValueError(
            f"teacher.model '{source}' is not on this machine. {spec.cache} holds a teacher's answers, and by its "
            f"config.json it is known whose: put that file in {source}; its weights may be gone."
        ) from error
    return teacher, find_task(teacher)


def _load_teacher(recipe: recipes.Recipe, index: int | None = None) -> PreTrainedModel:
    """The recipe's teacher, or one of its `also`."""
    dtype = recipe.teacher.dtype
    source = recipe.model_path("teacher", index)
    with _named("teacher.model" if index is None else f"teacher.also[{index}]", source):
        teacher = teachers.load(source, "auto" if dtype == "auto" else getattr(torch, dtype))
    task = find_task(teacher)
    if recipe.task is not None and task.per_example:
        task = Task(recipe.task)
        teacher.config.problem_type = PROBLEM_TYPES[task]
    if not task.per_example:
        raise ValueError(f"recipes are for classifiers and regression, and the teacher solves {task}: use Python.")
    return teacher


def _student(recipe: recipes.Recipe, teacher: PreTrainedModel) -> tuple[PreTrainedModel, str]:
    """The student, and where its tokenizer is."""
    spec = recipe.student
    if spec.model is None:
        if has_no_weights(teacher):
            teacher = _load_teacher(recipe)  # to be copied from, and not kept
        layers = students.spread(teacher, spec.layers) if isinstance(spec.layers, int) else spec.layers
        return students.from_teacher(teacher, spec.architecture, layers), recipe.model_path("teacher")
    source = recipe.model_path("student")
    with _named("student.model", source):
        return students.load(source, like=teacher), source


@contextmanager
def _named(what: str, source: str) -> Iterator[None]:
    """What transformers raises for a folder or a Hub id, in one line that says which one it was."""
    try:
        yield
    except Exception as error:  # it raises what it likes; the user needs the name and the reason
        raise ValueError(f"{what} '{source}': {' '.join(str(error).split()) or type(error).__name__}") from error


def _longest(tokenizer: Any, *models: nn.Module) -> int | None:
    """How many tokens the tokenizer and all models take; None leaves it to the tokenizer."""
    positions = [number for number in map(anatomy.max_positions, models) if number is not None]
    return min([tokenizer.model_max_length, *positions]) if positions else None
