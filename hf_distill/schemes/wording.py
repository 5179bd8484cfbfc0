"""Stages and who taught in them, in words, as the card tells it."""

import inspect
from collections.abc import Mapping
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor, nn

from hf_distill.losses import Loss
from hf_distill.recipe.portable import without_folders
from hf_distill.report.stages import StageFacts
from hf_distill.teachers import CachedTeacher, ModelTeacher, Nobody, Teacher
from hf_distill.teachers.given import everybody, name_of
from hf_distill.teachers.specialist import Specialist
from hf_distill.trainer import DistillationTrainer
from hf_distill.training_facts import loss_facts
from hf_distill.weights import digest

# what is not compared in a rehearsal: what is trained or made before comes first
NOT_YET_KNOWN = ("start", "teachers", "knobs", "rows", "content_of_rows")
_ALSO = ("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16", "balance")
_ALSO += ("train_sampling_strategy", "load_best_model_at_end", "metric_for_best_model", "adam_beta1", "adam_beta2")
_ALSO += ("adam_epsilon", "optim_args", "lr_scheduler_kwargs", "data_seed", "dataloader_drop_last")
_ALSO += ("neftune_noise_alpha",)
_TOLD, _LENGTH = 3, 40  # of the teachers inside, how many are told; and of a knob, how many letters
_SOME, _BYTES = 64, 2**20  # rows by which data sets are told apart, and of how much at most


def in_words(teacher: Any, names: Mapping[nn.Module, str]) -> str | None:
    """A teacher in a few words: the stage that made it, or where its weights are from; None: nobody.

    Args:
        teacher: a model, its id, a `Teacher`, or None.
        names: of the stages that made a model.
    """
    if teacher is None or isinstance(teacher, Nobody):
        return None
    if isinstance(teacher, str):
        return str(without_folders(teacher))
    if not isinstance(teacher, Teacher):
        if teacher in names:
            return names[teacher]
        return Path(name_of(teacher)).name
    inner = [str(in_words(each, names)) for each in teacher.members or teacher.models]
    if type(teacher) in (ModelTeacher, Specialist):
        return inner[0]
    if len(inner) > _TOLD:
        inner = [*inner[: _TOLD - 1], f"... {len(inner)} in all"]
    changed = [f"{name}={value!r}" for name, value in _knobs_of(teacher).items() if _is_plain(value)]
    return f"{type(teacher).__name__}({', '.join([*inner, *(knob for knob in changed if len(knob) <= _LENGTH)])})"


def _knobs_of(teacher: Teacher) -> dict[str, Any]:
    """What of a teacher's own arguments is not as by default, without folders, models and how it is run."""
    parameters = inspect.signature(type(teacher).__init__).parameters
    left_out = {"self", "teacher", "teachers", "model"} | teacher.how_it_runs
    given = {name: getattr(teacher, name, each.default) for name, each in parameters.items() if name not in left_out}
    known = {name: _told(value) for name, value in given.items() if value is not parameters[name].default}
    return {name: value for name, value in known.items() if value != _told(parameters[name].default)}


def _told(value: Any) -> Any:
    """As JSON has it, the same in another process."""
    if isinstance(value, Mapping):
        return {str(name): _told(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_told(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_told, value), key=repr)
    if isinstance(value, Enum):
        return _told(value.value)
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return value.tolist()
    if isinstance(value, Loss):
        return _loss(loss_facts(value))
    if value is None or isinstance(value, str | int | float | Path):
        return without_folders(value)
    return getattr(value, "__qualname__", type(value).__qualname__)


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
        "knobs": [[type(each).__name__, _knobs_of(each)] for each in everybody(trainer.teacher)],
    }
    facts = trainer.own_facts()
    return StageFacts(name, teacher, str(facts.student), [_loss(each) for each in facts.losses], settings)


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


def _loss(facts: Mapping[str, Any]) -> str:
    knobs = ", ".join(f"{name}={value!r}" for name, value in facts["config"].items())
    return f"{facts['name']}({knobs}), weight {facts['weight']}"
