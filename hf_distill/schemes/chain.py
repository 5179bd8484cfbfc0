"""Teacher assistants: models of a size between teacher and student pass on what the teacher knows."""

from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel

from hf_distill import anatomy, students
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.selection import by_best


@scheme
def chain(plan: Plan, sizes: list[int] | int = 1) -> PreTrainedModel:
    """The teacher teaches an assistant, the assistant a smaller one, and the last of them the student.

    Where a student is much smaller than its teacher, one in between may bridge the gap (Mirzadeh et al. 2019, Improved
    Knowledge Distillation via Teacher Assistant, arXiv:1902.03393). Every hop starts from the best checkpoint of the
    hop before it where there is an `eval_dataset`: the best by `metric_for_best_model`, or by the loss, of the
    first of several.

    Differs from the paper: assistants are cut out of the teacher (`students.keep_layers`, blocks at equal distances)
    where the paper's start from random weights; the losses of every hop are those of the plan. Name no layers by
    number in them: the models differ from hop to hop, so take ``"uniform"`` or ``"last"``.

    Args:
        plan: each hop trains for all of its epochs or steps.
        sizes: blocks of the assistants, from the largest to the smallest; or how many assistants, whose sizes are then
            chosen at equal distances between the teacher's and the student's.

    Returns:
        The plan's student, taught by the last assistant.

    Raises:
        ValueError: no teacher with blocks to make assistants of, or sizes that are not between its own and the
            student's, each smaller than the one before.
    """
    teacher: Any = plan.need_teacher()
    student, whole, best = plan.fresh(), model_of(plan, "chain"), by_best(plan)
    for size in _sizes(sizes, len(anatomy.find_blocks(whole)), len(anatomy.find_blocks(student))):
        assistant = students.keep_layers(whole, students.spread(whole, size))
        teacher = plan.stage(f"assistant_{size}", assistant, teacher, args=best)
    return plan.stage("student", student, teacher, args=best)


def model_of(plan: Plan, who: str) -> PreTrainedModel:
    """The model inside the plan's teacher, of which others are made.

    Args:
        plan: names the teacher.
        who: whom messages name.

    Raises:
        ValueError: there is none, or it has adapters, beside which its own weights have other names.
    """
    teacher = plan.need_teacher()
    if teacher.model is None:
        raise ValueError(
            f"{who} makes models of the teacher's blocks, and a {type(teacher).__name__} holds no model. "
            "Name the model itself as the teacher."
        )
    if hasattr(teacher.model, "get_base_model"):
        name = type(teacher.model).__name__
        raise ValueError(
            f"{who}: the teacher is a {name}, whose blocks are not copied. Pass model.merge_and_unload()."
        )
    return anatomy.unwrap(teacher.model)


def _sizes(sizes: list[int] | int, largest: int, smallest: int) -> list[int]:
    """The assistants' numbers of blocks, from the largest to the smallest."""
    if isinstance(sizes, int):
        between = max(0, largest - smallest - 1)
        if not 0 < sizes <= between:
            raise ValueError(
                f"chain: {sizes} assistants do not fit: between the teacher's {largest} blocks and the student's "
                f"{smallest} there is room for {between}. Pass sizes=1 or more, or a smaller student."
            )
        step = (largest - smallest) / (sizes + 1)
        return [round(largest - step * number) for number in range(1, sizes + 1)]
    ends = [largest, *sizes, smallest]
    if not sizes or any(mine <= after for mine, after in pairwise(ends)):
        raise ValueError(
            f"chain: sizes={list(sizes)} must go down from the teacher's {largest} blocks to the student's {smallest}"
            ", each smaller than the one before and both ends left out. Pass such a list, or how many."
        )
    return list(sizes)
