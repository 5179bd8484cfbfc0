"""FitNets: a hint from the middle of the teacher comes first, and the losses afterwards."""

from typing import Literal

from transformers import PreTrainedModel

from hf_distill import anatomy
from hf_distill.losses import HiddenMSE, match_layers
from hf_distill.schemes.given import one_alone
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.selection import by_last


@scheme
def hints(
    plan: Plan,
    guided: int | None = None,
    hint: int | None = None,
    share: float = 0.5,
    projection: Literal["auto", "linear"] = "auto",
) -> PreTrainedModel:
    """The student's lower half first learns what the teacher's holds, and then the whole student learns the losses.

    In the first stage one block of the student, through a projection that is trained with it, is compared with one of
    the teacher by squared error. Blocks above it and the head are not reached and stay as they are. The second stage
    trains everything by the plan's losses from there (Romero et al. 2014, FitNets: Hints for Thin Deep Nets,
    arXiv:1412.6550).

    Differs from the paper: its regressor is a convolution, here it is a linear map of each token; the weight of the
    soft targets does not decay in the second stage unless the plan's losses say so (`weight=losses.linear(...)`). How
    the paper divides its steps between the stages could not be confirmed.

    Args:
        plan: its epochs or steps are shared out between the stages.
        guided: the student's block, counted from 0; None: the one in the middle, the lower one of two.
        hint: the teacher's block; None: the one as far up as the student's.
        share: of the steps, for the first stage.
        projection: ``"auto"`` has one where the widths differ, ``"linear"`` always.

    Returns:
        The student.

    Raises:
        ValueError: no teacher that is a model, blocks that do not exist, or a share that leaves a stage nothing.
    """
    if not 0 < share < 1:
        raise ValueError(f"hints: share is {share}; it must be above 0 and below 1.")
    teacher, student = one_alone(plan.need_teacher(), "hints"), plan.fresh()
    if teacher.shape is None:
        raise ValueError(f"hints are hidden states, and a {type(teacher).__name__} has none. Pass a model as teacher.")
    mine = anatomy.describe(student)
    lower = (mine.layers - 1) // 2 if guided is None else guided
    upper = match_layers("uniform", mine, teacher.shape)[lower % mine.layers] if hint is None else hint
    loss = HiddenMSE({lower: upper}, projection)
    # the head is not trained yet: its quality says nothing about which checkpoint is best
    student = plan.stage("hint", student, teacher, [loss], share=(0.0, share), args=by_last(plan))
    return plan.stage("student", student, teacher, share=(share, 1.0))
