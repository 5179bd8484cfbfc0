"""A student of one modality learns from a teacher of another, over pairs that nobody labelled."""

from transformers import PreTrainedModel

from hf_distill.schemes.idle import refuse_idle
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.unlabelled import losses_without_labels, without_labels
from hf_distill.teachers import OtherView
from hf_distill.teachers.given import everybody
from hf_distill.teachers.other_view import PREFIX


@scheme
def cross_modal(plan: Plan, prefix: str | None = None) -> PreTrainedModel:
    """Trains on pairs: the teacher reads one side, the student the other, and the label is never seen.

    After Gupta, Hoffman, Malik 2015, Cross Modal Distillation for Supervision Transfer, arXiv:1507.00448.

    Differs from the paper: it matches features of a layer in the middle by their squared distance; here the default is
    the teacher's answers (soft targets), and any loss on logits or on whole examples (`RKDDistance`) may be named.

    Args:
        plan: its teacher, which may be or hold an `OtherView` already, reads the columns that begin with the prefix,
            its student the others; its data_collator is a `PairedCollator`. Labels in train_dataset are taken out
            before anything reads it, those of eval_dataset stay, to measure by. Where it names no losses,
            `SoftTargets(temperature=2.0)`.
        prefix: of the teacher's columns, ``"teacher_"`` where it is None; an `OtherView` has its own.

    Returns:
        The student.

    Raises:
        ValueError: no teacher, no collator of pairs, a loss that needs labels, no columns of the teacher's, or a
            prefix beside that of an `OtherView`.
    """
    if plan.trainer_kwargs.get("data_collator") is None:
        raise ValueError(
            "cross_modal: each side of a pair is padded in its own way. Pass "
            "data_collator=teachers.PairedCollator(tokenizer, teacher_tokenizer) to the Plan."
        )
    teacher = plan.need_teacher()
    if any(isinstance(each, OtherView) for each in everybody(teacher)):
        refuse_idle("cross_modal", "the teacher's OtherView has its own", prefix=prefix)
    else:
        teacher = OtherView(teacher, PREFIX if prefix is None else prefix)
    losses = losses_without_labels(plan.losses, "cross_modal")
    rows = without_labels(plan.train_dataset)
    return plan.stage("student", plan.fresh(), teacher, losses, train_dataset=rows)
