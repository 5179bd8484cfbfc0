"""Online distillation: teacher and student are trained together, in one run."""

import copy

from transformers import PreTrainedModel

from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.teachers import ModelTeacher, PeerTeacher


@scheme
def online(plan: Plan, both_ways: bool = False, learning_rate: float | None = None) -> PreTrainedModel:
    """Trains the teacher on the labels and, from the same batches, the student on the teacher as it is in each step.

    It saves the training of a teacher beforehand: the student sees it grow, and both are ready at the end.

    Args:
        plan: its teacher is a model that is still to be fine-tuned; a copy of it is trained. Its losses are the
            student's.
        both_ways: whether the teacher learns from the student too, and not from the labels alone.
        learning_rate: of the teacher; None for the student's.

    Returns:
        The student. The teacher is measured too, and saved beside it, in `teacher`.

    Raises:
        ValueError: there is no teacher, or it is no plain model; a learning rate that is none.

    Reference: one teacher whose training is part of the student's, as each pair of networks in Zhang et al. 2018, Deep
    Mutual Learning, arXiv:1706.00384.
    Differs from the paper: by default the larger network does not learn from the smaller one.
    """
    given = plan.need_teacher()
    if type(given) is not ModelTeacher:  # a subclass may say something else than its model
        raise ValueError(f"online trains its teacher, and {type(given).__name__} is no plain model. Pass the model.")
    teacher = PeerTeacher(
        copy.deepcopy(given.model), both_ways=both_ways, learning_rate=learning_rate, label_map=given.label_map
    )
    student = plan.stage("student", plan.fresh(), teacher)
    plan.keep("teacher", teacher.models[0])
    plan.judge("teacher", ModelTeacher(teacher.models[0]), plan.fresh())
    return student
