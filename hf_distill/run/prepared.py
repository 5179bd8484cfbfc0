"""All that a recipe names, loaded and checked, nothing trained."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets, disable_progress_bars
from rich.console import Console
from transformers import AutoTokenizer, PreTrainedModel, set_seed

from hf_distill import anatomy, data, evaluation, metrics, progress, schemes, teachers
from hf_distill import recipe as recipes
from hf_distill.config import DistillationConfig
from hf_distill.losses import Loss, SoftTargets, TaskLoss
from hf_distill.run import models
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.model import named
from hf_distill.trainer import DistillationTrainer

ASK_NOBODY = ("augmented_self", "mutual", "progressive_self")  # schemes that hear no teacher, even where there is one
# schemes that ask a teacher for more than its answers to the training rows
LOOKS_INSIDE = ("adversarial", "chain", "data_free", "hints", "iterated", "online", "specialists", "two_stage")


@dataclass
class Ready:
    """Everything that a recipe names, loaded and checked, nothing trained.

    The teacher is None where no model teaches. It has no weights where its answers are cached: it is loaded only if
    some of them turn out to be missing.
    """

    recipe: recipes.Recipe
    args: DistillationConfig
    losses: list[Loss] | None
    metrics: list[Any]
    teacher: PreTrainedModel | None
    student: Any
    """A model, or a PeftModel where the recipe gives it adapters."""
    tokenizer: Any
    dataset: DatasetDict
    task: Task
    kind: tuple[Callable[..., Any], str] | None = None
    """The kind of teacher, and what it is made of."""
    view: Any = None
    """The tokenizer of the teacher's own texts, where it reads others than the student."""
    asked: teachers.Teacher | None = None
    """The recipe's teacher itself, inside of the kind that it names; there once `trainer` was called."""
    heard: bool = True
    """Whether its model taught: not where the kind is made of something else, or a scheme does without."""

    def trainer(self) -> DistillationTrainer:
        """The one that distils, after all that it refuses."""
        losses, teacher, kwargs = self.losses, self.taught_by(), self._collator()
        if self.recipe.scheme is not None and isinstance(teacher, teachers.Nobody):
            losses = [TaskLoss()]  # who hears whom is the scheme's to say
        elif self.recipe.scheme is not None and losses is None:
            losses = [SoftTargets()]  # its stages have their own, and may do without labels
        return make_trainer(self.student, teacher, losses, self.args, self.dataset, self.tokenizer, **kwargs)

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
            None if isinstance(teacher, teachers.Nobody) else teacher,
            self.losses,
            args,
            resume=resume,
            console=console,
            watch=watched,
            **_trainer_kwargs(self.student, self.dataset, self.tokenizer),
            **self._collator(),
        )

    def taught_by(self) -> teachers.Teacher:
        """The teacher as the recipe says: live or from its answers, and of the kind that it names; or nobody."""
        spec, label_map = self.recipe.teacher, self.args.label_map
        teacher: teachers.Teacher = teachers.Nobody()
        if self.teacher is not None and spec.cache is None:
            teacher = teachers.ModelTeacher(self.teacher, label_map)
        elif self.teacher is not None and spec.cache is not None:
            model = (lambda: models.load_teacher(self.recipe)) if models.has_no_weights(self.teacher) else self.teacher
            teacher = teachers.CachedTeacher(
                spec.cache, model, dtype=spec.cache_dtype, top_k=spec.cache_top_k, label_map=label_map
            )
            teacher.model.name_or_path = self.recipe.model_path("teacher")  # also where it is made of the cache
        self.asked = teacher
        if self.kind is not None:
            teacher = self._of_kind(teacher, *self.kind)
        return teacher if self.view is None else teachers.OtherView(teacher, tokenizer=self.view)

    def _of_kind(self, teacher: teachers.Teacher, kind: Callable[..., Any], of: str) -> teachers.Teacher:
        spec, label_map = self.recipe.teacher, self.args.label_map
        also = [models.load_teacher(self.recipe, index) for index in range(len(spec.also or []))]
        further = [teachers.ModelTeacher(each, label_map) for each in also]
        of_what = {"teacher": [teacher], "teachers": [[teacher, *further]], "student": [self.student], "": []}
        return kind(*of_what[of])  # type: ignore[no-any-return]


def prepare(recipe: recipes.Recipe, allow_custom_code: bool = False) -> Ready:
    """Loads all that a recipe names, the quick things first, and refuses what cannot work.

    Args:
        recipe: from `recipe.load`.
        allow_custom_code: whether losses, and a function that teaches, may be dotted paths.

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
    kind = recipes.build_teacher_kind(recipe, allow_custom_code)
    _check_teacher(recipe, None if kind is None else kind[1])
    if "validation" not in rows and "eval_strategy" not in recipe.train:
        args.eval_strategy = "no"
        if args.load_best_model_at_end:
            raise ValueError("load_best_model_at_end needs a validation split. Set dataset.eval_fraction above 0.")
    names = data.read_label_names(recipe.dataset.label_names, recipe.folder)
    if args.process_index:
        disable_progress_bars()
    set_seed(args.seed)
    teacher = None if recipe.teacher.model is None else models.teacher_of(recipe)
    like = models.untaught(recipe, rows, names) if teacher is None else teacher
    student, fresh, source = models.student_of(recipe, like)
    task = find_task(like)
    if teacher is not None and recipe.teacher.quantize is not None:  # after the student took its weights
        teachers.quantize(teacher.to(args.device), recipe.teacher.quantize)
    with named("tokenizer of", source):
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
        id2label=anatomy.named_labels(student) or anatomy.named_labels(like),
        max_length=recipe.dataset.max_length or models.longest(tokenizer, student, *([] if own_text else [like])),
    )
    view = None
    if own_text:
        dataset, view = _with_view(recipe, rows, dataset, like)
    if recipe.student.lora is not None:
        if _is_adapter_off(recipe) and fresh:
            raise ValueError(
                f"teacher.kind AdapterOffTeacher: {', '.join(fresh)} of the student are new, and what it says without "
                "its adapters means nothing. Take a student whose head was trained."
            )
        student = models.with_adapters(student, recipe.student.lora, fresh)
    spec = recipe.student
    itself = (
        _is_adapter_off(recipe) and spec.model is spec.architecture is spec.layers is None
    )  # a copy of the teacher
    heard = itself or kind is None or kind[1] in ("teacher", "teachers")
    return Ready(recipe, args, losses, more, teacher, student, tokenizer, dataset, task, kind, view, heard=heard)


def _is_adapter_off(recipe: recipes.Recipe) -> bool:
    return recipe.teacher.kind is not None and recipe.teacher.kind.name == "AdapterOffTeacher"


def _check_teacher(recipe: recipes.Recipe, made_of: str | None) -> None:
    """Refuses what the recipe wants of its teacher, and cannot be had together.

    Args:
        recipe: from `recipe.load`.
        made_of: what the kind of teacher is made of; None without one.
    """
    spec, scheme, lora = recipe.teacher, recipe.scheme, recipe.student.lora
    if scheme is not None and lora is not None:
        raise ValueError(f"scheme {scheme.name} trains whole students in a recipe. Leave student.lora out.")
    if scheme is not None and _is_adapter_off(recipe):
        raise ValueError(
            f"scheme {scheme.name} makes several students, and AdapterOffTeacher is of one. Leave teacher.kind out."
        )
    if scheme is not None and spec.kind is not None and scheme.name in ASK_NOBODY:
        raise ValueError(f"scheme {scheme.name} asks no teacher. Leave teacher.kind out.")
    if _is_adapter_off(recipe) and lora is None:
        raise ValueError("teacher.kind AdapterOffTeacher: the student has no adapters. Add student.lora={r: 8}.")
    if spec.kind is not None and made_of not in ("teacher", "teachers"):
        for name in ("quantize", "cache"):
            if getattr(spec, name) is not None:
                raise ValueError(
                    f"teacher.kind {spec.kind.name} does not ask teacher.model. Leave teacher.{name} out."
                )
    if spec.model is None and spec.kind is None and recipe.dataset.labels is None:
        raise ValueError("there is no teacher, and dataset.labels is null: nothing to learn from. Name their column.")
    inside = scheme is not None and scheme.name in LOOKS_INSIDE
    if scheme is not None and inside and spec.cache is not None:
        raise ValueError(
            f"scheme {scheme.name} needs the teacher itself, and teacher.cache holds its answers. "
            "Leave teacher.cache out."
        )
    if spec.also and made_of != "teachers":
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
    if spec.kind is not None and made_of not in ("teacher", "teachers"):
        raise ValueError(f"teacher.text: {spec.kind.name} reads what the student reads. Leave teacher.text out.")


def _with_view(
    recipe: recipes.Recipe, rows: DatasetDict, dataset: DatasetDict, teacher: PreTrainedModel
) -> tuple[DatasetDict, Any]:
    """The encoded rows with what the teacher reads of them, and its tokenizer."""
    text, source = str(recipe.teacher.text), recipe.model_path("teacher")
    for split, part in rows.items():
        if text not in part.column_names:
            raise ValueError(f"teacher.text: {split} has no column '{text}', only {', '.join(part.column_names)}.")
        if part.features[text].dtype != "string" or None in part[text][:]:
            raise ValueError(f"teacher.text: the column '{text}' of {split} is not all texts.")
    with named("tokenizer of", source):
        tokenizer = AutoTokenizer.from_pretrained(source)
    limit = recipe.dataset.max_length or models.longest(tokenizer, teacher)

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
