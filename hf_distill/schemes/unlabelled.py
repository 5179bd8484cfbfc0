"""A transfer set without labels: the student learns from what the teacher says of it."""

from collections.abc import Sequence
from typing import Any, Literal

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel

from hf_distill import checks
from hf_distill.batch import IGNORED
from hf_distill.losses import Loss, SoftTargets
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.teachers import SelectiveTeacher

LABELS = (*checks.LABELS, "end_positions")


@scheme
def unlabelled(
    plan: Plan, confidence: list[float] | None = None, labels: Literal["never", "where known"] = "never"
) -> PreTrainedModel:
    """Trains on the teacher's soft targets of a transfer set (Hinton et al. 2015, arXiv:1503.02531, section 2).

    With `confidence` there are several passes, each of which goes on with the student of the one before: at first it
    hears only what the teacher is sure of, later more. The optimizer begins anew in each.

    Differs from the paper: the passes and their thresholds are offered beside it.

    Args:
        plan: its train_dataset is the transfer set. Where it names no losses, `SoftTargets(temperature=2.0)`, or with
            ``"where known"`` the default of the task.
        confidence: for each pass the probability below which a prediction is not listened to
            (`SelectiveTeacher`), ``[0.9, 0.0]`` for example. The plan's epochs are shared out among them. None is one
            pass that hears all.
        labels: ``"never"`` reads none, also where the rows have some; ``"where known"`` learns from them too, from
            rows that `combine` made of labelled and unlabelled ones for example.

    Returns:
        The student of the last pass.

    Raises:
        ValueError: no teacher; a loss that needs labels where none are read; a threshold that is no probability.
    """
    teacher, rows, losses = plan.need_teacher(), plan.train_dataset, plan.losses
    passes = [0.0] if confidence is None else confidence
    if not isinstance(passes, list) or not passes or not all(0 <= each < 1 for each in passes):
        raise ValueError(f"unlabelled(confidence={confidence}): name a probability below 1 for each pass, [0.9, 0.0].")
    if labels not in ("never", "where known"):
        raise ValueError(f'unlabelled(labels={labels!r}) is not known; use "never" or "where known".')
    if labels == "never":
        rows, losses = without_labels(rows), losses_without_labels(losses, "unlabelled")
    student = plan.fresh()
    for number, threshold in enumerate(passes, 1):
        heard = SelectiveTeacher(teacher, wrong=1.0, min_confidence=threshold) if threshold else teacher
        name = f"pass_{number}_above_{threshold:g}"  # another threshold is another stage
        part = ((number - 1) / len(passes), number / len(passes))
        student = plan.stage(name, student, heard, losses, share=part, train_dataset=rows)
    return student


def losses_without_labels(losses: Sequence[Loss] | None, who: str) -> Sequence[Loss]:
    """Soft targets where none are named.

    Raises:
        ValueError: one of them needs labels.
    """
    found = [SoftTargets(temperature=2.0)] if losses is None else losses
    needs = next((type(loss).__name__ for loss in found if loss.needs_labels), None)
    if needs is not None:
        raise ValueError(f"{who} reads no labels, and {needs} needs them. Leave it out of the losses.")
    return found


def without_labels(rows: Any) -> Dataset:
    """The same rows, their labels taken out so that nothing can read them.

    Raises:
        ValueError: it is no `datasets.Dataset`.
    """
    if not isinstance(rows, Dataset):
        raise ValueError(
            f"labels can be taken out of a datasets.Dataset, and train_dataset is a {type(rows).__name__}."
        )
    return rows.remove_columns([name for name in LABELS if name in rows.column_names])


def combine(labelled: Dataset, others: Dataset) -> Dataset:
    """Rows with and without labels as one data set: those without have the label that every loss ignores.

    Args:
        labelled: encoded, with `labels`: class ids, 0/1 for each label, or one for each token.
        others: encoded likewise; labels that it has are dropped.

    Returns:
        The labelled rows, then the others, with the columns that both have.

    Raises:
        ValueError: `labelled` has no labels.
    """
    if "labels" not in labelled.column_names:
        raise ValueError(f"the labelled rows have no labels, only {', '.join(labelled.column_names)}.")
    first = labelled[0]["labels"]
    by_token = isinstance(first, list) and all(len(r["labels"]) == len(r["input_ids"]) for r in labelled)
    none = [IGNORED] * len(first) if isinstance(first, list) else IGNORED
    shared = [name for name in labelled.column_names if name in others.column_names and name not in LABELS]
    rest = others.select_columns(shared).map(
        lambda row: {"labels": [IGNORED] * len(row["input_ids"]) if by_token else none}, desc="no labels"
    )
    kept = labelled.select_columns([*shared, "labels"])
    return concatenate_datasets([kept, rest.cast(kept.features)])
