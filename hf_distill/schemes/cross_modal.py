"""A student of one modality learns from a teacher of another, over pairs that nobody labelled."""

from transformers import PreTrainedModel

from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.unlabelled import losses_without_labels, without_labels
from hf_distill.teachers import OtherView
from hf_distill.teachers.other_view import PREFIX


@scheme
def cross_modal(plan: Plan, prefix: str = PREFIX) -> PreTrainedModel:
    """Trains on pairs: the teacher reads one side, the student the other, and the label is never seen.

    After Gupta, Hoffman, Malik 2015, Cross Modal Distillation for Supervision Transfer, arXiv:1507.00448.

    Differs from the paper: it matches features of a layer in the middle by their squared distance; here the default is
    the teacher's answers (soft targets), and any loss on logits or on whole examples (`RKDDistance`) may be named.

    Args:
        plan: its teacher, which may be an `OtherView` already, reads the columns that begin with the prefix, its
            student the others; its data_collator is a `PairedCollator`. Labels in train_dataset are taken out before
            anything reads it, those of eval_dataset stay, to measure by. Where it names no losses,
            `SoftTargets(temperature=2.0)`.
        prefix: of the teacher's columns; an `OtherView` has its own.

    Returns:
        The student.

    Raises:
        ValueError: no teacher, no collator of pairs, a loss that needs labels, or no columns of the teacher's.
    """
    if plan.trainer_kwargs.get("data_collator") is None:
        raise ValueError(
            "cross_modal: each side of a pair is padded in its own way. Pass "
            "data_collator=teachers.PairedCollator(tokenizer, teacher_tokenizer) to the Plan."
        )
    given = plan.need_teacher()
    teacher = given if isinstance(given, OtherView) else OtherView(given, prefix)
    losses = losses_without_labels(plan.losses, "cross_modal")
    rows = without_labels(plan.train_dataset)
    return plan.stage("student", plan.fresh(), teacher, losses, train_dataset=rows)
