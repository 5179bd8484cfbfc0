"""Several teachers: their averaged soft targets, and triplets that they vote on (You et al. 2017)."""

from typing import Any

from transformers import PreTrainedModel

from hf_distill.losses import Loss, RelativeSimilarity, SoftTargets, TaskLoss
from hf_distill.schemes.idle import refuse_idle
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.temperatures import shared
from hf_distill.signals import Pooling
from hf_distill.teachers import EnsembleTeacher


@scheme
def multi_teacher_triplet(
    plan: Plan,
    temperature: float | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    margin: float | None = None,
    pooling: Pooling | None = None,
) -> PreTrainedModel:
    """Teaches the student by the labels, the mean of its teachers' softened answers, and the order of distances.

    Each teacher votes, by its own representations, on which of two examples is nearer to a third; where most say so,
    it is to be nearer in the student too.

    Args:
        plan: its teacher is an `EnsembleTeacher`, whose weights and places are kept; probabilities are averaged. Where
            the plan names losses, they stand for the labels and soft targets, and the triplets are added unless they
            are among them.
        temperature: at which the teachers' probabilities are averaged, and softened in the soft targets; None: that of
            the ensemble or of the plan's losses, and 2 where they have none.
        alpha: weight of the soft targets; None: 1.
        beta: weight of the triplets; None: 1.
        margin: how much nearer, as a share of the student's mean distance; None: 0.1.
        pooling: the vector of an example, see `RelativeSimilarity`; None: ``"first"``.

    Returns:
        The student. The teachers together are measured where the plan has `eval_dataset` and `compute_metrics`: the
        row `teachers`.

    Raises:
        ValueError: the plan's teacher is no ensemble, or one of logits; a temperature that is not that of the ensemble
            or of the plan's losses; a knob that a loss refuses, or of a loss that the plan names itself.

    Reference: You, Xu, Xu, Tao 2017, Learning from Multiple Teacher Networks, doi:10.1145/3097983.3098135.
    Differs from the paper: its weights, temperature and margin could not be confirmed; the representations are those
    of the last block, of all triplets in a batch, with distances over their mean (see `relative_similarity`).
    """
    given = plan.need_teacher()
    if not isinstance(given, EnsembleTeacher):
        raise ValueError(
            f"multi_teacher_triplet needs several teachers, and the plan's is {type(given).__name__}. Pass "
            "teacher=EnsembleTeacher([...])."
        )
    softness = shared(plan.losses, _given(given, temperature), 2.0, "multi_teacher_triplet")
    teachers = EnsembleTeacher(
        given.members, "probabilities", given.weights, given.one_at_a_time, given.devices, softness
    )
    losses = _losses(plan, softness, alpha, {"beta": beta, "margin": margin, "pooling": pooling})
    plan.judge("teachers", teachers, plan.fresh())
    return plan.stage("student", plan.fresh(), teachers, losses)


def _given(teacher: EnsembleTeacher, temperature: float | None) -> float | None:
    """The temperature that the scheme or the ensemble was given."""
    if teacher.mean == "logits":
        raise ValueError(
            'multi_teacher_triplet averages probabilities, and the ensemble says mean="logits". Leave mean out.'
        )
    if None not in (temperature, teacher.temperature) and temperature != teacher.temperature:
        raise ValueError(
            f"multi_teacher_triplet: temperature is {temperature}, and the ensemble's {teacher.temperature}. Leave "
            "one of the two out."
        )
    return teacher.temperature if temperature is None else temperature


def _losses(plan: Plan, softness: float, alpha: float | None, triplets: dict[str, Any]) -> list[Loss]:
    """Those of the plan, or labels and soft targets; and the triplets."""
    who, named = "multi_teacher_triplet", plan.losses
    if named is not None:
        refuse_idle(who, "the plan's losses stand for the soft targets", alpha=alpha)
    if any(isinstance(loss, RelativeSimilarity) for loss in named or ()):
        refuse_idle(who, "RelativeSimilarity is among the plan's losses", **triplets)
        return [*(named or ())]
    both = [TaskLoss(), SoftTargets(softness, weight=1.0 if alpha is None else alpha)]
    given = {"weight" if name == "beta" else name: value for name, value in triplets.items() if value is not None}
    return [*(both if named is None else named), RelativeSimilarity(**given)]
