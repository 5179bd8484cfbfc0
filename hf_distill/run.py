"""A recipe, carried out: data, teacher, student, training, figures, card."""

import copy
import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from rich.console import Console
from rich.progress import track
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedModel, set_seed
from transformers.trainer_utils import get_last_checkpoint

from hf_distill import anatomy, data, metrics, report, students, teachers
from hf_distill import recipe as recipes
from hf_distill.card import CardFacts
from hf_distill.config import DistillationConfig
from hf_distill.losses import Loss, TaskLoss
from hf_distill.report import ModelFacts
from hf_distill.tasks import PROBLEM_TYPES, Task, find_task
from hf_distill.trainer import DistillationTrainer

logger = logging.getLogger(__name__)

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled student"
LATENCY_EXAMPLES = 8


@dataclass
class Result:
    """What a run leaves behind.

    Args:
        folder: the saved student, with README.md, recipe.yaml and results.json.
        facts: the rows of the table.
        url: the commit on the Hub, if it was pushed.
        trainer: the one that trained the distilled student.
    """

    folder: Path
    facts: list[ModelFacts]
    url: str | None
    trainer: DistillationTrainer = field(repr=False)


@dataclass
class Ready:
    """Everything that a recipe names, loaded and checked, nothing trained."""

    recipe: recipes.Recipe
    teacher: PreTrainedModel
    student: PreTrainedModel
    tokenizer: Any
    dataset: DatasetDict
    losses: list[Loss] | None
    args: DistillationConfig
    task: Task

    @property
    def evaluation(self) -> str | None:
        """The split that the figures are measured on: test, or validation where there is none."""
        return next((split for split in ("test", "validation") if split in self.dataset), None)


def prepare(recipe: recipes.Recipe, allow_custom_code: bool = False) -> Ready:
    """Loads all that a recipe names and refuses what cannot work.

    Args:
        recipe: from `recipe.load`.
        allow_custom_code: whether losses may be dotted paths.

    Raises:
        ValueError: data, models or losses that do not fit; the message names the cure.
        OSError: a model or data set that is not there.
    """
    args = recipes.build_config(recipe)
    losses = recipes.build_losses(recipe, allow_custom_code)
    rows = data.load(recipe.dataset, recipe.folder)
    set_seed(args.seed)
    source = recipe.model_path("teacher")
    teacher = teachers.load(source, "auto" if recipe.teacher.dtype == "auto" else getattr(torch, recipe.teacher.dtype))
    task = find_task(teacher)
    if recipe.task is not None and task.per_example and recipe.task != task:
        teacher.config.problem_type = PROBLEM_TYPES[Task(recipe.task)]
        task = find_task(teacher)
    if not task.per_example:
        raise ValueError(f"recipes are for classifiers and regression, and the teacher solves {task}: use Python.")
    if recipe.student.from_:
        layers = recipe.student.layers
        kept = students.spread(teacher, layers) if isinstance(layers, int) else layers
        student = students.from_teacher(teacher, recipe.student.architecture, kept)
    else:
        source = recipe.model_path("student")
        student = students.load(source, like=teacher)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = data.read_label_names(recipe.dataset.label_names, recipe.folder)
    dataset = data.encode(
        rows,
        tokenizer,
        task=task,
        text=recipe.dataset.text,
        text_pair=recipe.dataset.text_pair,
        labels=recipe.dataset.labels,
        label_names=names,
        id2label=anatomy.named_labels(student) or anatomy.named_labels(teacher),
        max_length=recipe.dataset.max_length or _shorter(student, teacher),
    )
    return Ready(recipe, teacher, student, tokenizer, dataset, losses, args, task)


def check(recipe: recipes.Recipe, allow_custom_code: bool = False) -> Ready:
    """`prepare`, and everything that the trainer refuses before step 1; trains nothing and writes nothing.

    Raises:
        ValueError, OSError: as `prepare` and the trainer.
    """
    ready = prepare(recipe, allow_custom_code)
    with tempfile.TemporaryDirectory() as folder:
        teacher = teachers.ModelTeacher(ready.teacher, recipe.teacher.label_map)
        _trainer(ready, ready.student, teacher, ready.losses, output_dir=folder, push_to_hub=False)
    return ready


def train(
    recipe: recipes.Recipe,
    console: Console | None = None,
    allow_custom_code: bool = False,
    resume: bool = False,
    command: str | None = None,
) -> Result:
    """Carries a recipe out and prints the table of teacher, student alone and distilled student.

    Args:
        recipe: from `recipe.load`.
        console: where progress and table go.
        allow_custom_code: whether losses may be dotted paths.
        resume: go on from the newest checkpoint in the output folder, if there is one.
        command: what started the run, for the card.

    Returns:
        Where the student is, and the figures.

    Raises:
        ValueError, OSError: as `prepare`; also what the trainer refuses before step 1.
        FloatingPointError: the teacher or the loss is not finite.
    """
    console = console or Console()
    ready = prepare(recipe, allow_custom_code)
    if hasattr(ready.student, "copied"):
        console.print(str(ready.student.copied), highlight=False, markup=False)
    alone = copy.deepcopy(ready.student) if recipe.baseline else None
    trainer = _trainer(
        ready, ready.student, teachers.ModelTeacher(ready.teacher, recipe.teacher.label_map), ready.losses
    )
    models: dict[str, PreTrainedModel] = {TEACHER: ready.teacher}
    if alone is not None:
        models[ALONE] = _train_alone(ready, alone, console, resume)
    console.rule("distilled student")
    _run(trainer, resume)
    models[DISTILLED] = ready.student
    return _finish(ready, trainer, models, console, command)


def fine_tune(
    model: PreTrainedModel, dataset: Mapping[str, Dataset], tokenizer: Any, args: DistillationConfig
) -> DistillationTrainer:
    """Trains a model on its labels alone; what makes a teacher, and a baseline.

    Returns:
        The trainer, after training.
    """
    trainer = DistillationTrainer(
        model,
        teachers.Nobody(),
        [TaskLoss()],
        args,
        train_dataset=dataset["train"],
        eval_dataset=dataset.get("validation"),
        processing_class=tokenizer,
        compute_metrics=_compute_metrics(find_task(model)),
    )
    trainer.train()
    return trainer


def predict(model: PreTrainedModel, dataset: Dataset, tokenizer: Any, batch_size: int = 64) -> np.ndarray:
    """Logits of a model on encoded rows, in their order: (examples, classes), float32. Shows progress."""
    device, training = model.device, model.training
    order = np.argsort([len(ids) for ids in dataset["input_ids"]], kind="stable")  # little padding
    rows = dataset.select(order).remove_columns([c for c in dataset.column_names if c == "labels"])
    loader = DataLoader(rows, batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
    model.eval()
    found = []
    with torch.inference_mode():
        for inputs in track(loader, description="predicting", transient=True):
            outputs = model(**{name: value.to(device) for name, value in anatomy.accepted(model, inputs).items()})
            found.append(outputs.logits.float().cpu().numpy())
    model.train(training)
    logits = np.concatenate(found)
    back = np.empty_like(logits)
    back[order] = logits
    return back


def quality(
    task: Task, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, float]:
    """The task's metrics; multi-label F1 at tuned thresholds.

    Args:
        task: multi-label, single label or regression.
        logits: (examples, classes).
        labels: as the task has them.
        thresholds: tuned on *other* rows, (classes,); None tunes them on one half of these rows for the other half.

    Returns:
        {metric: value}.
    """
    if task is Task.MULTI_LABEL:
        logits = shifted(logits, labels, thresholds)
    return metrics.for_task(task).compute(predictions=logits, references=labels)


def shifted(logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
    """Multi-label logits moved so that the tuned threshold of each label lies at 0.

    Without thresholds, even rows are decided by those tuned on odd rows, and the reverse.

    Args:
        logits: (examples, labels).
        labels: (examples, labels), 0 or 1.
        thresholds: probabilities, (labels,).
    """
    if thresholds is not None:
        return logits - _logit(thresholds)
    moved = np.empty_like(logits)
    for half, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        moved[half] = logits[half] - _logit(metrics.tune_thresholds(logits[other], labels[other]))
    return moved


def _logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _trainer(ready: Ready, student: PreTrainedModel, teacher: teachers.Teacher, losses: Any, **changes: Any) -> Any:
    args = copy.copy(ready.args)
    for name, value in changes.items():
        setattr(args, name, value)
    if "validation" in ready.dataset and "eval_strategy" not in ready.recipe.train:
        args.eval_strategy = "epoch"
    return DistillationTrainer(
        student,
        teacher,
        losses,
        args,
        train_dataset=ready.dataset["train"],
        eval_dataset=ready.dataset.get("validation"),
        processing_class=ready.tokenizer,
        compute_metrics=_compute_metrics(ready.task),
    )


def _train_alone(ready: Ready, student: PreTrainedModel, console: Console, resume: bool) -> PreTrainedModel:
    console.rule("student alone: same start, same steps, no teacher")
    folder = str(Path(ready.args.output_dir) / "student_alone")
    trainer = _trainer(ready, student, teachers.Nobody(), [TaskLoss()], output_dir=folder, push_to_hub=False)
    _run(trainer, resume)
    trainer.save_model(folder)
    return student


def _run(trainer: DistillationTrainer, resume: bool) -> None:
    set_seed(trainer.args.seed)
    folder = trainer.args.output_dir
    checkpoint = get_last_checkpoint(folder) if resume and os.path.isdir(folder) else None
    trainer.train(resume_from_checkpoint=checkpoint)


def _finish(
    ready: Ready,
    trainer: DistillationTrainer,
    models: dict[str, PreTrainedModel],
    console: Console,
    command: str | None,
) -> Result:
    """Figures, card, table; on the first process only."""
    folder = Path(ready.args.output_dir)
    facts, card = [], _card_facts(ready, trainer, command)
    if trainer.is_world_process_zero():
        if ready.evaluation is not None and "labels" in ready.dataset[ready.evaluation].column_names:
            facts = _measure(ready, models, card)
            ready.student.config.thresholds = card.thresholds
        (folder / "recipe.yaml").write_text(recipes.dump(ready.recipe), encoding="utf-8")
        report.save(facts, folder / "results.json")
    card.models = facts
    trainer.card_facts = card
    url = None
    if ready.recipe.push is not None or ready.args.push_to_hub:
        push = ready.recipe.push
        trainer.args.hub_model_id = push.repo_id if push else trainer.args.hub_model_id
        url = trainer.push_to_hub(private=push.private if push else None)
    else:
        trainer.save_model()
        trainer.create_model_card()
    if facts:
        console.print(report.table(facts))
    console.print(f"student: {folder}\ncard:    {folder / 'README.md'}", highlight=False, soft_wrap=True)
    if url:
        console.print(f"on the Hub: {url}", highlight=False, soft_wrap=True)
    return Result(folder, facts, url, trainer)


def _measure(ready: Ready, models: Mapping[str, PreTrainedModel], card: CardFacts) -> list[ModelFacts]:
    assert ready.evaluation is not None
    rows = ready.dataset[ready.evaluation]
    labels = np.asarray(rows["labels"])
    logits = {name: predict(model, rows, ready.tokenizer) for name, model in models.items()}
    times = report.latencies(models, _timed_inputs(rows, ready.tokenizer))
    thresholds = _thresholds(ready, models, logits, card)
    decided = {name: _decidable(ready.task, logits[name], labels, thresholds.get(name)) for name in models}
    facts = []
    for name, model in models.items():
        found = quality(ready.task, logits[name], labels, thresholds.get(name))
        if ready.task is Task.MULTI_LABEL:
            plain = metrics.for_task(ready.task).compute(predictions=logits[name], references=labels)
            found = {"mean_average_precision": plain["mean_average_precision"], **_f1(found)}
        found |= _extra(ready, decided[name], labels)
        agreement = None
        if name != TEACHER:
            fidelity = metrics.Fidelity(task=str(ready.task))
            agreement = fidelity.compute(predictions=decided[name], references=decided[TEACHER]).get("agreement")
        facts.append(report.measure(name, model, times[name], found, agreement))
    return facts


def _f1(found: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in found.items() if name.endswith("_f1")}


def _decidable(task: Task, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    return shifted(logits, labels, thresholds) if task is Task.MULTI_LABEL else logits


def _extra(ready: Ready, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics by their `evaluate` names, on decisions."""
    if ready.task is Task.MULTI_LABEL:
        predictions: Any = (logits >= 0).astype(int).tolist()
    else:
        predictions = logits.argmax(-1) if ready.task is Task.SINGLE_LABEL else logits.squeeze(-1)
    found: dict[str, float] = {}
    for name in ready.recipe.metrics:
        found |= metrics.load(name).compute(predictions=predictions, references=labels.tolist())
    return found


def _thresholds(
    ready: Ready, models: Mapping[str, PreTrainedModel], logits: Mapping[str, np.ndarray], card: CardFacts
) -> dict[str, np.ndarray]:
    """Thresholds for the figures: tuned on validation if the figures are on test, else none (they are cross-fitted).

    The card and the saved config get those tuned on the whole validation split.
    """
    if ready.task is not Task.MULTI_LABEL:
        return {}
    tuned: dict[str, np.ndarray] = {}
    split = "validation" if "validation" in ready.dataset else ready.evaluation
    rows = ready.dataset[split]
    labels = np.asarray(rows["labels"])
    for name, model in models.items():
        own = logits[name] if split == ready.evaluation else predict(model, rows, ready.tokenizer)
        tuned[name] = metrics.tune_thresholds(own, labels)
    card.thresholds = [float(value) for value in tuned[DISTILLED]]
    card.thresholds_split = split
    card.thresholds_cross_fitted = split == ready.evaluation
    return {} if split == ready.evaluation else tuned


def _timed_inputs(rows: Dataset, tokenizer: Any) -> dict[str, torch.Tensor]:
    """A few examples of middle length, as one padded batch."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    middle = max(0, len(rows) // 2 - LATENCY_EXAMPLES // 2)
    chosen = np.argsort(lengths, kind="stable")[middle : middle + LATENCY_EXAMPLES]
    batch = rows.select(chosen).remove_columns([c for c in rows.column_names if c == "labels"])
    return dict(DataCollatorWithPadding(tokenizer)(list(batch)))


def _compute_metrics(task: Task) -> Any:
    quality_of = metrics.for_task(task)

    def compute(prediction: Any) -> dict[str, float]:
        return quality_of.compute(predictions=prediction.predictions, references=prediction.label_ids)

    return compute


def _shorter(*models: nn.Module) -> int | None:
    """The longest sequence that all models take."""
    known = [positions for positions in map(anatomy.max_positions, models) if positions is not None]
    return min(known, default=None)


def _card_facts(ready: Ready, trainer: DistillationTrainer, command: str | None) -> CardFacts:
    recipe, args = ready.recipe, ready.args
    facts = trainer.own_facts()
    facts.repo_id = recipe.push.repo_id if recipe.push else args.hub_model_id
    facts.teacher = recipe.teacher.model
    facts.student_from = recipe.teacher.model if recipe.student.from_ else recipe.student.model
    facts.base_model = facts.student_from
    facts.dataset = recipe.dataset.id or recipe.dataset.path
    facts.dataset_name = _dataset_name(recipe.dataset)
    facts.dataset_config = recipe.dataset.name
    facts.license = None
    facts.max_length = recipe.dataset.max_length
    facts.recipe = recipes.dump(recipe)
    facts.command = command
    split = ready.evaluation
    facts.evaluation_split = split
    if split is not None:
        rows = ready.dataset[split]
        facts.evaluation_rows = len(rows)
        if ready.task is Task.MULTI_LABEL and "labels" in rows.column_names:
            support = np.asarray(rows["labels"]).sum(0)
            facts.label_support = {name: int(n) for name, n in zip(facts.labels, support, strict=True)}
    copied = getattr(ready.student, "copied", None)
    if copied is not None:
        blocks = ", ".join(map(str, copied.layers))
        facts.copied = [f"{len(copied.copied)} tensors", f"blocks {blocks} of {copied.of}"]
        facts.not_copied = list(copied.fresh)
    return facts


def _dataset_name(spec: Any) -> str:
    name = spec.id or spec.path
    path = Path(name)
    return path.parent.name if any(sign in path.name for sign in "*?") and path.parent.name else path.stem
