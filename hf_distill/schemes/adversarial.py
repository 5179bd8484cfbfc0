"""Boundary samples: the student also learns what the teacher says where its decision changes (Heo et al. 2018)."""

from transformers import PreTrainedModel

from hf_distill.augment.boundary import BoundaryTeacher
from hf_distill.losses import BoundaryTargets, SoftTargets, TaskLoss, linear
from hf_distill.schemes.given import one_alone
from hf_distill.schemes.idle import refuse_idle
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme


@scheme
def adversarial(
    plan: Plan,
    temperature: float = 3.0,
    soft: float | None = None,
    boundary: float = 2.0,
    most: int = 64,
    iterations: int = 10,
    stride: float = 0.01,
) -> PreTrainedModel:
    """Trains on labels, soft targets, and soft targets at samples that are moved to the teacher's decision boundary.

    In every step, of the examples that both models get right, those on which they differ most are moved in embedding
    space, along the teacher's gradient, towards a class drawn in proportion to the teacher's probability without the
    label, until the decision changes. The weight of the soft targets falls from `soft` + 1 to 1, that of the samples
    from `boundary` to 0, which it reaches after three quarters of the training. No token id is changed, so that the
    samples are no texts: see `augment.boundary`.

    Reference: Heo et al. 2018, arXiv:1805.05532; defaults of the authors' code, whose images are 80 epochs long in it.
    Differs from it: embeddings instead of pixels, a stride that is a share of their norm, and the student's own
    embeddings moved as the teacher's are; weights fall step by step instead of epoch by epoch; the boundary term is
    averaged over all examples; for several labels the boundary of one label, drawn in proportion to the probability
    that the teacher gives to the other decision.

    Args:
        plan: its teacher teaches; its losses, where it names some, take the place of labels and soft targets.
        temperature: of soft targets, at examples and samples alike.
        soft: what the weight of the soft targets loses; None: 3.
        boundary: the first weight of the boundary samples.
        most: samples of a batch at most.
        iterations: moves of a sample at most.
        stride: of a move, as a share of an example's norm for each unit of the margin between two scores. The paper
            has no value for embeddings; this one crosses within ten moves in most cases.

    Returns:
        The student.

    Raises:
        ValueError: an argument is out of range or changes nothing; no teacher model; what `BoundaryTeacher` refuses.
    """
    if plan.losses:
        refuse_idle("adversarial", "the plan's losses take the place of the soft targets", soft=soft)
    soft = 3.0 if soft is None else soft
    if not temperature > 0:
        raise ValueError(f"adversarial: temperature is {temperature}; it must be above 0.")
    if min(soft, boundary) < 0:
        raise ValueError(f"adversarial: soft is {soft} and boundary {boundary}; weights must be at least 0.")
    teacher = BoundaryTeacher(one_alone(plan.need_teacher(), "adversarial"), most, iterations, stride)
    unsquared = temperature**-2  # the paper's soft targets are not multiplied by the temperature's square, ours are
    losses = [
        *(plan.losses or [TaskLoss(), SoftTargets(temperature, weight=linear((soft + 1) * unsquared, unsquared))])
    ]
    losses.append(BoundaryTargets(temperature, weight=linear(boundary * unsquared, 0.0, over=0.75)))
    return plan.stage("student", plan.fresh(), teacher, losses)
