"""A recipe, carried out: data, teacher, student, training, figures, card."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, set_seed

from hf_distill import anatomy, attachment, checkpoints, checks, evaluation, hub, progress, report, teachers
from hf_distill import recipe as recipes
from hf_distill.batch import Batch
from hf_distill.card import CardFacts
from hf_distill.config import DistillationConfig
from hf_distill.losses import TaskLoss
from hf_distill.profiling import Profile
from hf_distill.report import ALONE, DISTILLED, TEACHER, ModelFacts
from hf_distill.run.cached import answers, fill
from hf_distill.run.models import check_adapters, merged
from hf_distill.run.prepared import Ready, make_trainer, prepare
from hf_distill.schemes.folders import MARK
from hf_distill.tasks import Task
from hf_distill.trainer import DistillationTrainer
from hf_distill.training_facts import adapters_of

BASELINE_FOLDER = "student_alone"


@dataclass
class Result:
    """What a run leaves behind.

    Args:
        folder: the saved student, with README.md, recipe.yaml and results.json.
        facts: the rows of the table; none on other processes than the first.
        url: the commit on the Hub, if it was pushed.
        trainer: the one that trained the distilled student.
    """

    folder: Path
    facts: list[ModelFacts]
    url: str | None
    trainer: DistillationTrainer = field(repr=False)


def train(
    recipe: recipes.Recipe,
    console: Console | None = None,
    allow_custom_code: bool = False,
    resume: bool = False,
    command: str | None = None,
    profile: bool = False,
) -> Result:
    """Carries a recipe out and prints the table of teacher, student alone and distilled student.

    Args:
        recipe: from `recipe.load`.
        console: where progress and table go.
        allow_custom_code: whether losses, and a function that teaches, may be dotted paths.
        resume: go on from the newest checkpoint in the output folder, if there is one.
        command: what started the run, for the card.
        profile: measure where some steps' time goes, and write it to `profile/` in the output folder.

    Returns:
        Where the student is, and the figures.

    Raises:
        ValueError, OSError: as `prepare`; also what the trainer refuses before step 1, and a push that fails.
        FloatingPointError: the teacher or the loss is not finite.
    """
    if profile and recipe.scheme is not None:
        raise ValueError("a profile is of one training, and a scheme has several. Leave --profile or scheme out.")
    ready = prepare(recipe, allow_custom_code)
    console = Console(quiet=True) if ready.args.process_index else console or Console()
    folder = Path(ready.args.output_dir)
    _claim(folder, resume, console)
    console.print(_introduction(ready), highlight=False, markup=False)
    start = copy.deepcopy(ready.student) if recipe.baseline else None
    trainer = ready.trainer()  # before the baseline trains: what it refuses is refused at once
    _rehearse(ready, trainer, resume)
    if recipe.push and not ready.args.push_to_hub:
        trainer.init_hf_repo()
    if profile:
        trainer.add_callback(Profile(folder / "profile", console=console))
    fill(ready, trainer, console)
    _ask_function(trainer)
    worth = _teachers_worth(ready, ready.asked)
    console.print(worth, highlight=False, markup=False, soft_wrap=True, end="")
    if start is not None:
        console.rule(f"{ALONE}: same start, same steps, no teacher")
        own = _changed(ready.args, output_dir=str(folder / BASELINE_FOLDER), push_to_hub=False)
        start = _save(fine_tune(start, ready.dataset, ready.tokenizer, own, resume))
    console.rule(DISTILLED)
    facts = _distil(ready, trainer, console, resume)
    if not trainer.is_world_process_zero():
        return Result(folder, [], None, trainer)
    teaches = ready.asked.model is not None and (ready.heard or recipe.scheme is not None)
    models = {TEACHER: ready.asked.model} if teaches else {}  # without weights if it was never loaded
    if start is not None:
        models[ALONE] = _saved(start, folder / BASELINE_FOLDER)
    models[DISTILLED] = _saved(ready.student, folder)
    figures = _write(ready, trainer, models, facts, command)
    if figures.facts:
        console.print(report.table(figures.facts, width=console.width))
    console.print(f"student: {folder}\ncard:    {folder / 'README.md'}", highlight=False, markup=False, soft_wrap=True)
    return Result(folder, figures.facts, _push(ready, console), trainer)


def check(recipe: recipes.Recipe, allow_custom_code: bool = False) -> Ready:
    """`prepare`, and everything that is refused before step 1; trains nothing and leaves nothing behind.

    A teacher that is a function is asked about the rows of one batch.

    Raises:
        ValueError, OSError: as `prepare` and the trainer.
    """
    ready = prepare(recipe, allow_custom_code)
    with tempfile.TemporaryDirectory() as folder:
        ready.args = _changed(ready.args, output_dir=folder, push_to_hub=False)
        trainer = ready.trainer()
        _rehearse(ready, trainer)
        _ask_function(trainer)
    return ready


def fine_tune(
    model: PreTrainedModel,
    dataset: Mapping[str, Dataset],
    tokenizer: Any,
    args: DistillationConfig,
    resume: bool = False,
) -> DistillationTrainer:
    """Trains a model on its labels alone; what makes a teacher, and a baseline.

    Returns:
        The trainer, after training.
    """
    trainer = make_trainer(model, teachers.Nobody(), [TaskLoss()], args, dataset, tokenizer)
    _run(trainer, resume)
    return trainer


def _changed(args: DistillationConfig, **changes: Any) -> DistillationConfig:
    args = copy.copy(args)
    for name, value in changes.items():
        setattr(args, name, value)
    return args


def _claim(folder: Path, resume: bool, console: Console) -> None:
    """The output folder, made and tried before hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"train.output_dir '{folder}': nothing can be written there: {error.strerror}") from error
    former = checkpoints.newest(folder) or next(map(str, folder.glob(f"*/{MARK}")), None)
    if resume and former is None:
        console.print(f"no checkpoint in {folder}: starting from the beginning", highlight=False, markup=False)
    if former is not None and not resume:
        text = f"{folder} holds parts of a former run; this one starts anew. --resume would go on from them."
        console.print(text, highlight=False, markup=False)


def _run(trainer: DistillationTrainer, resume: bool) -> None:
    set_seed(trainer.args.seed)
    newest = checkpoints.newest(Path(trainer.args.output_dir)) if resume else None
    if newest is not None:
        check_adapters(trainer.model, Path(newest))
    trainer.train(resume_from_checkpoint=newest)


def _save(trainer: DistillationTrainer) -> Any:
    """Puts the student into its folder, any adapters merged, and gives it; `train` pushes at the end, once."""
    student = merged(trainer.model)
    if student is trainer.model:
        trainer.save_model(_internal_call=True)
    elif trainer.args.should_save:
        for name in (peft.utils.CONFIG_NAME, peft.utils.SAFETENSORS_WEIGHTS_NAME):  # of another run, if at all
            (Path(trainer.args.output_dir) / name).unlink(missing_ok=True)
        for each in (student, trainer.processing_class):
            each.save_pretrained(trainer.args.output_dir)
    return student


def _distil(ready: Ready, trainer: DistillationTrainer, console: Console, resume: bool) -> CardFacts:
    """One training, or the recipe's scheme; the student is then in the output folder. Gives what a card can say."""
    found = recipes.build_scheme(ready.recipe)
    if found is None:
        _run(trainer, resume)
        facts = trainer.own_facts()
        ready.student = _save(trainer)
        return facts
    scheme, knobs = found
    attachment.release(ready.student)
    plan = ready.plan(trainer.teacher, console, resume)
    ready.student = scheme(plan, **knobs)
    assert plan.card_facts is not None, "a scheme has at least one stage"
    ready.heard = ready.heard and plan.heard(ready.asked)
    return plan.card_facts


def _ask_function(trainer: DistillationTrainer) -> None:
    """A teacher that is a function is asked about some rows before anything is trained."""
    if isinstance(trainer.teacher, teachers.CallableTeacher):
        rows, device = trainer.train_dataset, trainer.args.device
        some = [rows[number] for number in range(min(len(rows), trainer.args.per_device_train_batch_size))]
        inputs = {name: each.to(device) for name, each in trainer.data_collator(some).items()}
        trainer.teacher.observe(Batch(inputs, trainer.task))


def _rehearse(ready: Ready, trainer: DistillationTrainer, resume: bool = False) -> None:
    """What a stage of the recipe's scheme would refuse is refused now."""
    found = recipes.build_scheme(ready.recipe)
    if found is not None:
        scheme, knobs = found
        with attachment.detached(ready.student):
            scheme.rehearse(ready.plan(trainer.teacher, Console(quiet=True), resume), **knobs)  # type: ignore


def _saved(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """What people will load: measured instead of the model in memory, which may be spread over processes."""
    return type(model).from_pretrained(folder).to(model.device)


def _write(
    ready: Ready,
    trainer: DistillationTrainer,
    models: Mapping[str, PreTrainedModel],
    facts: CardFacts,
    command: str | None,
) -> evaluation.Figures:
    """Measures, and puts figures, thresholds, recipe and card beside the weights."""
    folder = Path(ready.args.output_dir)
    teacher = ready.teacher
    order = None if teacher is None else checks.label_order(ready.student, teacher, ready.args.label_map)
    known = _known_answers(ready, ready.asked)
    views = {} if ready.view is None else {TEACHER: ready.seen_by_teacher}
    data = (ready.dataset, ready.task, ready.tokenizer)
    figures = evaluation.measure(models, *data, order, ready.metrics, known, views)
    if figures.thresholds:
        models[DISTILLED].config.thresholds = figures.thresholds[DISTILLED].tolist()
        models[DISTILLED].config.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(recipes.dump(ready.recipe), encoding="utf-8")
    report.save(figures.facts, folder / "results.json")
    trainer.card_facts = _card_facts(ready, facts, figures, command)
    trainer.create_model_card()
    return figures


def _push(ready: Ready, console: Console) -> str | None:
    """One commit, after everything is on the disk: a push that fails can be made again with `hf-distill push`."""
    args = ready.args
    if ready.recipe.push is None and not args.push_to_hub:
        return None
    url = hub.push(
        args.output_dir,
        args.hub_model_id or Path(args.output_dir).absolute().name,
        private=args.hub_private_repo,
        token=args.hub_token,
        revision=args.hub_revision,
    )
    console.print(f"on the Hub: {url}", highlight=False, markup=False, soft_wrap=True)
    return url


def _introduction(ready: Ready) -> str:
    """What goes in."""
    rows = ", ".join(f"{len(part):,} {split}" for split, part in ready.dataset.items())
    labels = "" if ready.task is Task.REGRESSION else f", {ready.student.config.num_labels} labels"
    lines = [f"task:    {ready.task}{labels}", f"rows:    {rows}"]
    copied = getattr(ready.student, "copied", None)
    lines.append(f"student: {copied or type(anatomy.unwrap(ready.student)).__name__}")
    return "\n".join([*lines, *(f"  {said}" for said in [adapters_of(ready.student)] if said)])


def _known_answers(ready: Ready, teacher: teachers.Teacher) -> dict[str, Callable[[Dataset], np.ndarray]]:
    """Whose logits are read and not computed: those of a teacher that was asked about every row before."""
    if not isinstance(teacher, teachers.CachedTeacher):
        return {}
    return {TEACHER: lambda rows: answers(teacher, rows, ready.task, ready.tokenizer)}


def _teachers_worth(ready: Ready, teacher: teachers.Teacher) -> str:
    """A line with the teacher's own figures on validation, said before hours of learning from it; "" if unknown."""
    rows = ready.dataset.get("validation")
    model = ready.teacher
    if (
        model is None
        or not ready.heard
        or ready.args.process_index
        or rows is None
        or (labels := evaluation.labels_of(rows)) is None
    ):
        return ""
    known = _known_answers(ready, teacher)
    if known:
        logits, order = known[TEACHER](rows), None
    else:
        logits = evaluation.predict(model, *ready.seen_by_teacher(rows), description="measuring the teacher")
        order = checks.label_order(ready.student, model, ready.args.label_map)
    if not np.isfinite(logits).all():
        raise FloatingPointError(
            "the teacher's logits are not finite on the validation split. Load it in float32, or check its weights."
        )
    found = evaluation.quality(ready.task, logits if order is None else logits[:, order], labels)
    return f"teacher: validation: {progress.figures(found)}\n"


def _card_facts(ready: Ready, facts: CardFacts, figures: evaluation.Figures, command: str | None) -> CardFacts:
    recipe = ready.recipe
    pushed = recipe.push is not None or ready.args.push_to_hub
    facts.repo_id = ready.args.hub_model_id if pushed else None
    facts.name = (facts.repo_id or Path(ready.args.output_dir).absolute().name).split("/")[-1]
    facts.teacher = [recipe.teacher.model, *(recipe.teacher.also or [])] if ready.heard else None
    facts.student_from = recipe.student.model or recipe.teacher.model
    facts.base_model = recipe.model_path("student" if recipe.student.model else "teacher")  # a folder is no Hub id
    beside_recipe = recipe.folder / recipe.dataset.path
    facts.dataset = recipe.dataset.id or (str(beside_recipe) if beside_recipe.exists() else recipe.dataset.path)
    facts.dataset_name = _dataset_name(facts.dataset)
    facts.dataset_config = recipe.dataset.name
    facts.max_length = recipe.dataset.max_length
    facts.recipe = recipes.dump(recipe)
    facts.command = command
    facts.models = figures.facts
    facts.evaluation_split = figures.split
    facts.selection_split = "validation" if ready.args.load_best_model_at_end else None
    if figures.split is not None:
        facts.evaluation_rows = len(ready.dataset[figures.split])
        labels = evaluation.labels_of(ready.dataset[figures.split])
        if ready.task is Task.MULTI_LABEL and labels is not None:
            facts.label_support = {name: int(n) for name, n in zip(facts.labels, labels.sum(0), strict=True)}
    if figures.thresholds:
        facts.thresholds = figures.thresholds[DISTILLED].tolist()
        facts.thresholds_split = figures.thresholds_split
        facts.thresholds_cross_fitted = figures.thresholds_split == figures.split
    copied = getattr(ready.student, "copied", None)
    if copied is not None:
        blocks = ", ".join(map(str, copied.layers))
        facts.copied = [f"{len(copied.copied)} tensors", f"blocks {blocks} of {copied.of}"]
        facts.not_copied = list(copied.fresh)
    return facts


def _dataset_name(name: str) -> str:
    """The folder where the name is a pattern in it, else the last part without its ending."""
    path = Path(name)
    return path.parent.name if any(sign in path.name for sign in "*?") and path.parent.name else path.stem
