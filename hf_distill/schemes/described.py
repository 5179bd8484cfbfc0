"""A stage in words and figures: what it is, who teaches, and how good it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_distill import anatomy
from hf_distill.report.stages import StageFacts
from hf_distill.teachers import ModelTeacher, Nobody, Teacher
from hf_distill.trainer import DistillationTrainer

UNSAID = ("loss", "runtime", "preparation_time", "_per_second", "epoch")  # no quality: other stages have other losses


def stage(name: str, trainer: DistillationTrainer, teacher: str | None) -> StageFacts:
    """What a stage is, before it is trained."""
    args, rows = trainer.args, trainer.train_dataset
    settings = {
        "epochs": args.num_train_epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "seed": args.seed,
        "rows": len(rows) if hasattr(rows, "__len__") else None,
    }
    losses = [f"{type(loss).__name__}({loss.extra_repr()})" for loss in trainer.objective]
    return StageFacts(name, teacher, str(trainer.own_facts().student), losses, settings)


def quality(trainer: DistillationTrainer) -> dict[str, float]:
    """Its evaluation, without losses and times; nothing where there is nothing to evaluate on."""
    found = trainer.evaluate() if trainer.eval_dataset is not None else {}
    terms = {f"eval_{name}" for name in trainer.objective.losses}
    return {name[5:]: value for name, value in found.items() if name not in terms and not name.endswith(UNSAID)}


def teacher(given: Any, names: Mapping[int, str]) -> str | None:
    """A teacher in words: the stage that made it, or where its weights are from; None for nobody.

    Args:
        given: a model, its id, or a `Teacher`.
        names: {id of a model: the stage that made it}.
    """
    if given is None or isinstance(given, Nobody):
        return None
    if isinstance(given, str):
        return given
    if id(given) in names:
        return names[id(given)]
    if not isinstance(given, Teacher):
        model = anatomy.unwrap(given)
        return Path(model.name_or_path).name or type(model).__name__
    inner = [teacher(each, names) for each in given.members]
    if not inner and given.model is not None:
        inner = [teacher(given.model, names)]
    plain = type(given) is ModelTeacher and inner
    return str(inner[0]) if plain else f"{type(given).__name__}({', '.join(map(str, inner))})"
