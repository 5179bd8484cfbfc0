"""Stages and who taught in them, in words, as the card tells it."""

import inspect
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import nn

from hf_distill.recipe.portable import without_folders
from hf_distill.report.stages import StageFacts
from hf_distill.teachers import CachedTeacher, ModelTeacher, Nobody, Teacher
from hf_distill.teachers.given import everybody, name_of
from hf_distill.teachers.specialist import Specialist
from hf_distill.trainer import DistillationTrainer
from hf_distill.weights import digest

# what is not compared in a rehearsal: what is trained or made before comes first
NOT_YET_KNOWN = ("start", "teacher", "teachers", "knobs", "rows", "content_of_rows")
_ALSO = ("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16", "balance")
_ALSO += ("train_sampling_strategy", "load_best_model_at_end", "metric_for_best_model", "adam_beta1", "adam_beta2")
_ALSO += ("adam_epsilon", "optim_args", "lr_scheduler_kwargs", "data_seed", "dataloader_drop_last")
_ALSO += ("neftune_noise_alpha",)
_TOLD, _LENGTH = 3, 40  # of the teachers inside, how many are told; and of a knob, how many letters
_SOME, _BYTES = 64, 2**20  # rows by which data sets are told apart, and of how much at most


def in_words(teacher: Any, names: Mapping[nn.Module, str]) -> str | None:
    """A teacher in words: the stage that made it, or where its weights are from; None: nobody.

    Args:
        teacher: a model, its id, a `Teacher`, or None.
        names: of the stages that made a model.
    """
    if teacher is None or isinstance(teacher, Nobody):
        return None
    if isinstance(teacher, str):
        return teacher
    if not isinstance(teacher, Teacher):
        if teacher in names:
            return names[teacher]
        return Path(name_of(teacher)).name
    inside = list(teacher.members) or teacher.models
    inner = [str(in_words(each, names)) for each in inside]
    if type(teacher) in (ModelTeacher, Specialist):
        return inner[0]
    if len(inner) > _TOLD:
        inner = [*inner[: _TOLD - 1], f"... {len(inner)} in all"]
    told = [knob for knob in _changed(teacher) if len(knob) <= _LENGTH]
    return f"{type(teacher).__name__}({', '.join([*inner, *told])})"


def _changed(teacher: Teacher) -> list[str]:
    """What of a teacher's knobs is not as by default, as it is written but for folders; models are no knobs."""
    parameters = inspect.signature(type(teacher).__init__).parameters
    given = [each for name, each in parameters.items() if name not in ("self", "teacher", "teachers", "model")]
    knobs = {each.name: getattr(teacher, each.name, each.default) for each in given}
    changed = {each.name: knobs[each.name] for each in given if knobs[each.name] != each.default}
    plain = without_folders({name: value for name, value in changed.items() if _is_plain(value)})
    return [f"{name}={value!r}" for name, value in plain.items()]


def stage_of(name: str, trainer: DistillationTrainer, teacher: str | None, scheme: str) -> StageFacts:
    """What a stage is, before it is trained: all that a resumed run must have in common with it."""
    args, rows = trainer.args, trainer.train_dataset
    settings = {
        "epochs": args.num_train_epochs,
        "max_steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "seed": args.seed,
        "rows": len(rows) if hasattr(rows, "__len__") else None,
        "content_of_rows": _content(rows),
        "scheme": scheme,
        **{name: _plain(getattr(args, name)) for name in _ALSO},
        "start": digest(trainer.model, leave_out="objective."),
        "teachers": _weights(trainer.teacher),
        "knobs": [_changed(each) for each in everybody(trainer.teacher)],
    }
    facts = trainer.own_facts()
    losses = [f"{each['name']}({_knobs(each['config'])}), weight {each['weight']}" for each in facts.losses]
    return StageFacts(name, teacher, str(facts.student), losses, settings)


def making_of(plan: Any) -> dict[str, Any]:
    """What data that a `Plan` makes is made of: all that a resumed run must have in common with it."""
    rows, teacher = plan.trainer_kwargs.get("train_dataset"), plan.teacher
    return {
        "scheme": plan.scheme,
        "rows": len(rows) if hasattr(rows, "__len__") else None,
        "content_of_rows": _content(rows),
        "teachers": None if teacher is None else _weights(teacher),
    }


def _weights(teacher: Teacher) -> list[str | None]:
    """A hash of the weights of each model inside."""
    inside = [each for each in everybody(teacher) if not each.members]
    cached = [each.weights for each in inside if isinstance(each, CachedTeacher)]
    live = [model for each in inside if not isinstance(each, CachedTeacher) for model in each.models]
    return cached + [digest(model, leave_out="objective.") for model in live]


def _content(rows: Any) -> str | None:
    """A hash of some rows, as they are stored and wherever their files lie; None where that is not known."""
    if not isinstance(rows, Dataset) or not len(rows):
        return None
    stored, content, seen = rows.with_format("arrow"), blake2b(digest_size=16), 0
    for index in sorted({round(number * (len(rows) - 1) / (_SOME - 1)) for number in range(_SOME)}):
        row = stored[[index]]
        for name in sorted(row.column_names):
            value = row[name].to_pylist()[0]
            value = {**value, "path": None} if isinstance(value, dict) and "path" in value else value
            content.update(repr((name, value)).encode())
        seen += row.nbytes
        if seen > _BYTES:
            break
    return content.hexdigest()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float) or (isinstance(value, list) and all(map(_is_plain, value)))


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)  # of an enum


def _knobs(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config.items())
