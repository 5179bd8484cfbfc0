"""Several teachers: their averaged soft targets, and triplets that they vote on (You et al. 2017)."""

from transformers import PreTrainedModel

from hf_distill.losses import Loss, RelativeSimilarity, SoftTargets, TaskLoss
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.temperatures import shared
from hf_distill.signals import Pooling
from hf_distill.teachers import EnsembleTeacher


@scheme
def multi_teacher_triplet(
    plan: Plan,
    temperature: float | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    margin: float = 0.1,
    pooling: Pooling = "first",
) -> PreTrainedModel:
    """Teaches the student by the labels, the mean of its teachers' softened answers, and the order of distances.

    Each teacher votes, by its own representations, on which of two examples is nearer to a third; where most say so,
    it is to be nearer in the student too.

    Args:
        plan: its teacher is an `EnsembleTeacher`, whose weights and places are kept. Where the plan names losses, they
            stand for the labels and soft targets, and the triplets are added.
        temperature: at which the teachers' probabilities are averaged, and softened in the soft targets; None: that of
            the plan's losses, and 2 where they have none.
        alpha: weight of the soft targets.
        beta: weight of the triplets.
        margin: how much nearer, as a share of the student's mean distance.
        pooling: the vector of an example, see `RelativeSimilarity`.

    Returns:
        The student. The teachers together are measured where the plan has `eval_dataset` and `compute_metrics`: the
        row `teachers`.

    Raises:
        ValueError: the plan's teacher is no ensemble; a temperature that is not that of the plan's losses; a knob that
            a loss or the ensemble refuses.

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
    softness = shared(plan.losses, temperature, 2.0, "multi_teacher_triplet")
    teachers = EnsembleTeacher(
        given.members, "probabilities", given.weights, given.one_at_a_time, given.devices, softness
    )
    both = [TaskLoss(), SoftTargets(softness, weight=alpha)]
    losses: list[Loss] = [*(both if plan.losses is None else plan.losses)]
    if not any(isinstance(loss, RelativeSimilarity) for loss in losses):
        losses.append(RelativeSimilarity(margin, pooling, weight=beta))
    plan.judge("teachers", teachers, plan.fresh())
    return plan.stage("student", plan.fresh(), teachers, losses)
