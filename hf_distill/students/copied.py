"""Weights that come over from a teacher to a student, and the account of them: `student.copied`."""

import copy
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Copied:
    """What came over from a teacher to a student; `print` it. Plain data: it survives copy and pickle, not saving.

    Args:
        teacher: class of the teacher.
        student: class of the student.
        layers: the teacher's blocks that became the student's blocks 0, 1, ..., counted from 0.
        of: how many blocks the teacher has.
        copied: {student tensor: teacher tensor}.
        fresh: student tensors that are newly initialised.
        left: teacher tensors that nothing of the student comes from.
        notes: what is not a plain copy, and where the student computes something else.
    """

    teacher: str
    student: str
    layers: tuple[int, ...]
    of: int
    copied: Mapping[str, str]
    fresh: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def since(self, before: "Copied") -> "Copied":
        """What came over in two steps: this is the second, and its teacher was the student of the first.

        Args:
            before: the account of that first step; blocks and tensors are then named as its teacher names them.
        """
        came = {mine: before.copied[source] for mine, source in self.copied.items() if source in before.copied}
        lost = tuple(before.copied[name] for name in self.left if name in before.copied)
        return Copied(
            teacher=before.teacher,
            student=self.student,
            layers=tuple(before.layers[block] for block in self.layers),
            of=before.of,
            copied=came,
            fresh=(*self.fresh, *(mine for mine, source in self.copied.items() if source in before.fresh)),
            left=(*before.left, *lost),
            notes=(*before.notes, *(note for note in self.notes if note not in before.notes)),
        )

    def __str__(self) -> str:
        blocks = ", ".join(map(str, self.layers))
        lines = [
            f"{self.student} from {self.teacher}: blocks {blocks} of {self.of}, {len(self.copied)} tensors copied",
            f"  fresh: {_summary(self.fresh)}",
            f"  left behind: {_summary(self.left)}",
        ]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@torch.no_grad()
def copy_weights(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    sources: Mapping[str, str],
    chosen: Sequence[int],
    of: int,
    notes: Sequence[str],
) -> PreTrainedModel:
    """Copies the tensors, and tells what happened.

    Args:
        student: is changed.
        teacher: is not.
        sources: {student tensor: teacher tensor}.
        chosen: the teacher's blocks, in the student's order.
        of: how many blocks the teacher has.
        notes: what is not a plain copy.

    Returns:
        The student in eval mode, on the teacher's device, with `student.copied`.

    Raises:
        ValueError: two tensors differ in shape.
    """
    mine, theirs = student.state_dict(), teacher.state_dict()
    for name, source in sources.items():
        if mine[name].shape != theirs[source].shape:
            raise ValueError(
                f"{source} of the teacher is {tuple(theirs[source].shape)} and {name} of the student is "
                f"{tuple(mine[name].shape)}: it depends on the number of blocks, so it cannot be copied."
            )
        mine[name].copy_(theirs[source])
    if teacher.device.type != "meta":
        student.to(teacher.device)
    if teacher.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    student.copied = Copied(  # type: ignore[assignment]
        teacher=type(teacher).__name__,
        student=type(student).__name__,
        layers=tuple(chosen),
        of=of,
        copied=dict(sources),
        fresh=_others(mine, sources.keys()),
        left=_others(theirs, set(sources.values())),
        notes=tuple(notes),
    )
    return student.eval()


def _others(tensors: Mapping[str, Tensor], named: Iterable[str]) -> tuple[str, ...]:
    """The tensors that are not named, and not tied to one that is."""
    held = {tensors[name].data_ptr() for name in named}
    return tuple(name for name, tensor in tensors.items() if name not in named and tensor.data_ptr() not in held)


def _summary(names: Sequence[str]) -> str:
    """Tensor names, those of one block as one."""
    groups = Counter(re.sub(r"(\.\d+)\..*", r"\1.*", name) for name in names)
    return ", ".join(name if count == 1 else f"{name} ({count})" for name, count in groups.items()) or "nothing"
