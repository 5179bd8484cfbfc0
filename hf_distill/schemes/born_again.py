"""Born-again networks: every generation is taught by the one before it (Furlanello et al. 2018, arXiv:1805.04770)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

from transformers import PreTrainedModel

from hf_distill import anatomy
from hf_distill.losses import CWTM, Loss, SoftTargets, TaskLoss
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.tasks import Task, find_task
from hf_distill.teachers import EnsembleTeacher, OtherView, PermutedTeacher, Teacher
from hf_distill.teachers.learner import weight_like_labels

Weighting = Literal["none", "cwtm", "dkpp"]


@scheme
def born_again(
    plan: Plan, generations: int = 3, weighting: Weighting = "none", ensemble: bool = False
) -> PreTrainedModel:
    """Trains generation after generation of one architecture, each from a fresh start and taught by the one before.

    A generation that sees the same rows in the same order from the same start as the one before is nearly the same
    model, and learns nothing from it. So each has a seed of its own, one above the former's; pass the plan a function
    that makes students, and each has a head of its own too.

    Args:
        plan: its teacher teaches the first generation; where there is none, the first learns from the labels alone.
            Where it names no losses, they are the paper's: `[TaskLoss(), SoftTargets(temperature=1.0)]`, which count
            alike; of embeddings the default of a `DistillationTrainer`.
        generations: how many.
        weighting: what else a generation could have of its teacher, to find out what helps: ``"cwtm"`` weighs the
            labels of an example by the teacher's largest probability (in place of each `TaskLoss`; where the plan
            names no losses, alone), ``"dkpp"`` shuffles its probabilities but the largest; ``"none"`` neither.
        ensemble: whether all generations together teach one more student, which is then returned. They are measured
            together too, where the plan has `eval_dataset` and `compute_metrics`: the row `ensemble`.

    Returns:
        The last generation, or the student of them all. Every generation is in the folder of its stage:
        `EnsembleTeacher([folder / "generation_1", ...])` puts them together again.

    Raises:
        ValueError: fewer than one generation, or of an ensemble than two; a weighting that is not known, or weighs
            labels where the plan's losses look at none.

    Reference: Furlanello et al. 2018, arXiv:1805.04770.
    Differs from the paper: its ensemble is only measured; the student of it is added.
    """
    _check(generations, weighting, ensemble)
    teacher, born = plan.teacher, []
    for number in range(1, generations + 1):
        heard = _permuted(teacher) if weighting == "dkpp" and teacher is not None else teacher
        teacher = _generation(plan, f"generation_{number}", len(born), heard, weighting)
        born.append(teacher)
    if not ensemble:
        return teacher
    together = EnsembleTeacher(born)
    plan.judge("ensemble", together, plan.fresh())
    return _generation(plan, "student_of_ensemble", len(born), together)


def _generation(plan: Plan, name: str, before: int, teacher: Any, weighting: Weighting = "none") -> PreTrainedModel:
    """One more student; `before` were born before it."""
    student, losses = plan.fresh(), plan.losses
    if weighting == "cwtm":
        losses = _weighted(losses)
    elif losses is None and find_task(anatomy.unwrap(student)) is not Task.EMBEDDING:
        losses = [TaskLoss(), SoftTargets(temperature=1.0, weight=weight_like_labels(student))]
    return plan.stage(
        name, student, teacher, None if teacher is None else losses, args={"seed": plan.args.seed + before}
    )


def _check(generations: int, weighting: str, ensemble: bool) -> None:
    if not isinstance(generations, int) or generations < 1:
        raise ValueError(f"born_again: generations is {generations}; it must be a whole number, at least 1.")
    if ensemble and generations < 2:
        raise ValueError("born_again: one generation is no ensemble. Pass generations=2 or more, or ensemble=False.")
    if weighting not in get_args(Weighting):
        raise ValueError(f'born_again: weighting={weighting!r} is not known; use "none", "cwtm" or "dkpp".')


def _permuted(teacher: Any) -> Teacher:
    """Its lots are drawn by what the teacher itself reads, which need not be what the student reads."""
    if isinstance(teacher, OtherView):
        return OtherView(PermutedTeacher(teacher.teacher), teacher.prefix, teacher.tokenizer)
    return PermutedTeacher(teacher)


def _weighted(losses: Sequence[Loss] | None) -> list[Loss]:
    """The same, with the labels weighted by the teacher."""
    if losses is None:
        return [CWTM()]
    if not any(isinstance(loss, TaskLoss) for loss in losses):
        raise ValueError('born_again: weighting="cwtm" weighs the labels, and the losses look at none. Add TaskLoss.')
    if any(isinstance(loss, TaskLoss) and loss.config != TaskLoss().config for loss in losses):
        raise ValueError('born_again: weighting="cwtm" takes the place of TaskLoss, whose own settings it has not.')
    return [CWTM(weight=loss.weight) if isinstance(loss, TaskLoss) else loss for loss in losses]
