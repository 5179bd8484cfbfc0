"""Distil, prune layers, distil again, until the student is as small as it shall be."""

from typing import Any, Literal

from transformers import PreTrainedModel

from hf_distill import anatomy, students
from hf_distill.schemes.chain import model_of
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme


@scheme
def iterated(
    plan: Plan, drop: int = 1, order: list[int] | None = None, taught_by: Literal["teacher", "previous"] = "teacher"
) -> PreTrainedModel:
    """A few blocks are taken out of the teacher's copy, what is left is distilled, and so on to the student's depth.

    Weights go on from round to round, so that the blocks that are left make up for a few lost ones at a time, where
    `chain` starts each model anew. Pruning and distilling in turns is older than any one paper; for language models
    see Muralidharan et al. 2024 (Minitron), arXiv:2407.14679, who prune by measured importance. Here blocks go at
    equal distances, or in the order that is given.

    Args:
        plan: its student says how deep the last one is, and of which architecture; its weights are not used. Each
            round trains for all epochs or steps of the plan. Name no layers by number in its losses: take
            ``"uniform"`` or ``"last"``.
        drop: how many blocks go in a round, fewer in the last one where that is enough.
        order: blocks of the teacher, counted from 0, in the order in which they go, as many as go in all; None leaves
            what `students.spread` would keep at once, and takes the others out at equal distances.
        taught_by: ``"teacher"`` in every round, or ``"previous"``: the model that the round before left.

    Returns:
        What is left after the last round; its `copied` names blocks and tensors of the teacher.

    Raises:
        ValueError: no teacher with blocks, a student that is no smaller or cannot be cut out of it, or knobs that do
            not fit.
    """
    if taught_by not in ("teacher", "previous"):
        raise ValueError(f'iterated: taught_by={taught_by!r} is not known; use "teacher" or "previous".')
    teacher: Any = plan.need_teacher()
    whole, student = model_of(plan, "iterated"), plan.fresh()
    depth = len(anatomy.find_blocks(student))
    current = students.from_teacher(whole, student.config.model_type)
    _check_cut(student, current)
    left = list(range(len(anatomy.find_blocks(whole))))
    sizes = _sizes(len(left), depth, drop)
    goes = _evenly(students.spread(whole, depth), len(left), drop) if order is None else order
    _check_order(goes, len(left), depth)
    for size in sizes:
        kept = [block for block in left if block not in goes[: len(goes) + depth - size]]
        smaller = students.keep_layers(current, [left.index(block) for block in kept])
        smaller.copied = smaller.copied.since(current.copied)  # type: ignore[operator, union-attr, assignment]
        current = plan.stage(f"blocks_{size}", smaller, teacher)
        left, teacher = kept, current if taught_by == "previous" else teacher
    return current


def _check_cut(student: PreTrainedModel, current: PreTrainedModel) -> None:
    mine, theirs = anatomy.describe(student), anatomy.describe(current)
    if (mine.name, mine.width) != (theirs.name, theirs.width):
        raise ValueError(
            f"iterated cuts the student out of the teacher, which gives a {theirs.name} of width {theirs.width}, and "
            f"the plan's student is a {mine.name} of width {mine.width}. Make it by students.from_teacher, or use "
            "chain."
        )


def _sizes(largest: int, smallest: int, drop: int) -> list[int]:
    """How many blocks each round leaves."""
    if drop < 1:
        raise ValueError(f"iterated: drop is {drop}; it must be at least 1.")
    if smallest >= largest:
        raise ValueError(
            f"iterated: the student has {smallest} blocks and the teacher {largest}: there is nothing to take out. "
            "Pass a student with fewer."
        )
    return [*range(largest - drop, smallest, -drop), smallest]


def _evenly(kept: list[int], largest: int, drop: int) -> list[int]:
    """The blocks that are not kept in the end, those of a round at equal distances."""
    going, order = [block for block in range(largest) if block not in kept], []
    while going:
        now = min(drop, len(going))
        chosen = [going[int((number + 0.5) * len(going) / now)] for number in range(now)]
        order += chosen
        going = [block for block in going if block not in chosen]
    return order


def _check_order(order: list[int], largest: int, smallest: int) -> None:
    if len(order) != largest - smallest or set(order) - set(range(largest)) or len(set(order)) < len(order):
        raise ValueError(
            f"iterated: order={list(order)} must name {largest - smallest} different blocks of the teacher's 0 to "
            f"{largest - 1}: it has {largest}, and the student {smallest}."
        )
