"""Student and teacher as they are given to a `Plan`, which makes several trainings of them."""

from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from hf_distill import students
from hf_distill.teachers import AdapterOffTeacher, Nobody, Teacher
from hf_distill.teachers.given import as_teacher, everybody, model_inside
from hf_distill.teachers.model import tokenizer_beside


def teacher_of(given: Teacher | nn.Module | str | None, label_map: Literal["by_name"] | None) -> Teacher | None:
    """The plan's teacher, if there is one.

    Raises:
        ValueError: it is of one student alone.
    """
    if given is None:
        return None
    teacher = as_teacher(given, label_map)
    if any(isinstance(each, AdapterOffTeacher) for each in everybody(teacher)):
        raise ValueError(
            "AdapterOffTeacher is the base of one student, and a scheme makes several. Pass a copy of the base model "
            "as the teacher."
        )
    return teacher


def one_alone(teacher: Teacher, scheme: str) -> Teacher:
    """The teacher, of whose inside a scheme's own losses learn.

    Raises:
        ValueError: it is several, and those losses cannot say whose inside is meant.
    """
    several = next((each for each in everybody(teacher) if len(each.members) > 1), None)
    if several is not None:
        raise ValueError(
            f"{scheme} learns from the inside of its teacher, and {type(several).__name__} is "
            f"{len(several.members)} of them. Give it one of them."
        )
    return teacher


def student_of(
    given: str, teacher: Teacher | None, trainer_kwargs: dict[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A student that is given by its id, with the teacher's head, and the trainer's arguments with its tokenizer.

    Raises:
        ValueError: there is no teacher whose head it could take.
    """
    student = students.load(given, like=model_inside(teacher or Nobody(), given))
    tokenizer = trainer_kwargs.get("processing_class") or tokenizer_beside(student, local_files_only=False)
    return student, {**trainer_kwargs, "processing_class": tokenizer}
