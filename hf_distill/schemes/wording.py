"""Stages and who taught in them, in words, as the card tells it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_distill import anatomy
from hf_distill.report.stages import StageFacts
from hf_distill.teachers import ModelTeacher, Nobody, Teacher
from hf_distill.trainer import DistillationTrainer


def in_words(teacher: Any, names: Mapping[int, str]) -> str | None:
    """A teacher in words: the stage that made it, or where its weights are from; None: nobody.

    Args:
        teacher: a model, its id, a `Teacher`, or None.
        names: of the stages that made a model, by the `id` of that object.
    """
    if teacher is None or isinstance(teacher, Nobody):
        return None
    if isinstance(teacher, str):
        return teacher
    if id(teacher) in names:
        return names[id(teacher)]
    if not isinstance(teacher, Teacher):
        model = anatomy.unwrap(teacher)
        return Path(model.name_or_path).name or type(model).__name__
    inside = list(teacher.members) or ([] if teacher.model is None else [teacher.model])
    inner = [in_words(each, names) for each in inside]
    return (
        str(inner[0]) if type(teacher) is ModelTeacher else f"{type(teacher).__name__}({', '.join(map(str, inner))})"
    )


def stage_of(name: str, trainer: DistillationTrainer, teacher: str | None) -> StageFacts:
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
