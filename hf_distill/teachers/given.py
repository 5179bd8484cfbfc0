"""The teacher as a user gives it: a model, its id, or a `Teacher`."""

from collections.abc import Iterator
from typing import Any, Literal

from torch import nn

from hf_distill import anatomy
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cached import CachedTeacher
from hf_distill.teachers.model import ModelTeacher, load


def as_teacher(given: Teacher | nn.Module | str | None, label_map: Literal["by_name"] | None = None) -> Teacher:
    """A `Teacher` of what was given.

    Args:
        given: a `Teacher` is left as it is; a model, or its Hub id or folder, becomes a `ModelTeacher`.
        label_map: of that `ModelTeacher`, also of one that was given, or is inside of one, and says none itself.

    Raises:
        ValueError: there is none, or a list.
    """
    if given is None:
        raise ValueError(
            "no teacher. Pass teacher=, a model in eval mode, a model id, or a hf_distill.teachers.Teacher."
        )
    if isinstance(given, list | tuple):
        raise ValueError(f"{len(given)} teachers in a list. Pass teachers.EnsembleTeacher([...]) of them.")
    if isinstance(given, ModelTeacher | CachedTeacher) and given.label_map is None:
        given.label_map = label_map
    if isinstance(given, Teacher):
        for member in given.members:
            as_teacher(member, label_map)
        return given
    return ModelTeacher(load(given) if isinstance(given, str) else given, label_map=label_map)


def model_inside(teacher: Teacher, student: str) -> Any:
    """The teacher's model, whose head a student that is loaded by id takes.

    Raises:
        ValueError: there is none.
    """
    if teacher.model is None:
        raise ValueError(
            f"the student {student!r} cannot be loaded by id: this teacher has no head to copy. Load it first."
        )
    return teacher.model


def everybody(teacher: Teacher) -> Iterator[Teacher]:
    """A teacher and all that are inside of it."""
    yield teacher
    for member in teacher.members:
        yield from everybody(member)


def models_of(teacher: Teacher) -> list[nn.Module]:
    """The models that answer in it, whoever is between, each once."""
    found = [model for each in everybody(teacher) for model in each.models]
    return list({id(model): model for model in found}.values())


def name_of(model: nn.Module) -> str:
    """Where a model's weights are from, or what it is."""
    plain = anatomy.unwrap(model)
    return getattr(plain, "name_or_path", "") or type(plain).__name__
