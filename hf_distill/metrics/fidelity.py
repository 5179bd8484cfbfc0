"""How close a student is to its teacher on the same examples, as an `evaluate.Metric`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_distill.metrics.matrices import Array, matrix
from hf_distill.metrics.module import MetricModule, column_names, known_task
from hf_distill.metrics.probabilities import log_sigmoid, log_softmax
from hf_distill.metrics.thresholds import reached

PerLabel = dict[str, dict[str, float | int | None]]


class Fidelity(MetricModule):
    """How close a student is to its teacher on the same examples. The true labels play no part.

    `Fidelity(task).compute(predictions=, references=, thresholds=None, teacher_thresholds=None, per_label=False,
    label_names=None)`

    Args:
        task: "multi_label", "single_label" or "regression".
        predictions: the student's logits, shape (examples, labels).
        references: the teacher's logits, the same shape and order of labels.
        thresholds: multi-label only: probabilities at which a label is given, one number or shape (labels,). None is
            0.5.
        teacher_thresholds: the teacher's own, where they differ; None takes `thresholds` for both.
        per_label: also return "per_label".
        label_names: names for "per_label", in the order of the columns; their numbers when left out.

    Returns:
        agreement: multi-label: share of (example, label) decisions that are equal; many labels that nobody gives
            make it high, so read it beside `exact_agreement`. Single label: share of examples with the same class.
        exact_agreement: multi-label: share of examples whose labels are all equal.
        kl: KL(teacher || student) in nats, mean over examples. Multi-label: Bernoulli KL, summed over labels. Single
            label: of the softmax distributions. Temperature 1.
        mse: regression, in place of the above: mean squared difference.
        per_label: multi-label {name: {agreement, kl}}; single label {name: {agreement, kl, support}} over the
            `support` examples that the teacher gives that class (None where there are none); regression {name: {mse}}.

    Raises:
        ValueError: an unknown task, values that are not finite, shapes that differ.
    """

    summary = "Agreement and KL divergence between a student's and a teacher's logits."

    def __init__(self, task: str, **kwargs: Any) -> None:
        self.task = known_task(task)
        super().__init__(self.task, **kwargs)

    def _targets(self, references: Any, logits: Array) -> Array:
        teacher = matrix(references, "references")
        if teacher.shape != logits.shape:
            raise ValueError(
                f"shape mismatch: the student's logits (predictions) are {logits.shape}, the teacher's (references) "
                f"{teacher.shape}."
            )
        return teacher

    def _compute(
        self,
        predictions: Any,
        references: Any,
        thresholds: ArrayLike | None = None,
        teacher_thresholds: ArrayLike | None = None,
        per_label: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        student, teacher = matrix(predictions, "predictions"), matrix(references, "references")
        names = column_names(label_names, student.shape[1])
        if self.task != "multi_label" and not (thresholds is None and teacher_thresholds is None):
            raise ValueError(f"thresholds belong to multi-label tasks; this Fidelity compares {self.task!r}.")
        if self.task == "multi_label":
            own = thresholds if teacher_thresholds is None else teacher_thresholds
            result, labels = _multi_label(student, teacher, names, thresholds, own)
        elif self.task == "single_label":
            result, labels = _single_label(student, teacher, names)
        else:
            squares = (student - teacher) ** 2
            result = {"mse": float(squares.mean())}
            labels = {name: {"mse": float(squares[:, i].mean())} for i, name in enumerate(names)}
        return {**result, "per_label": labels} if per_label else dict(result)


def _multi_label(
    student: Array,
    teacher: Array,
    names: list[str],
    thresholds: ArrayLike | None,
    teacher_thresholds: ArrayLike | None,
) -> tuple[dict[str, float], PerLabel]:
    equal = reached(student, thresholds) == reached(teacher, teacher_thresholds)
    # log sigmoid(-x) is log(1 - sigmoid(x)) without the cancellation that makes confident labels infinite.
    given = np.exp(log_sigmoid(teacher)) * (log_sigmoid(teacher) - log_sigmoid(student))
    withheld = np.exp(log_sigmoid(-teacher)) * (log_sigmoid(-teacher) - log_sigmoid(-student))
    divergence = np.maximum(given + withheld, 0.0)  # a divergence is not negative; its rounding error may be
    result = {
        "agreement": float(equal.mean()),
        "exact_agreement": float(equal.all(axis=1).mean()),
        "kl": float(divergence.sum(axis=1).mean()),
    }
    labels: PerLabel = {
        name: {"agreement": float(equal[:, i].mean()), "kl": float(divergence[:, i].mean())}
        for i, name in enumerate(names)
    }
    return result, labels


def _single_label(student: Array, teacher: Array, names: list[str]) -> tuple[dict[str, float], PerLabel]:
    chosen = teacher.argmax(axis=1)
    equal = student.argmax(axis=1) == chosen
    log_student, log_teacher = log_softmax(student), log_softmax(teacher)
    divergence = np.maximum((np.exp(log_teacher) * (log_teacher - log_student)).sum(axis=1), 0.0)
    labels: PerLabel = {}
    for i, name in enumerate(names):
        rows = chosen == i
        there = bool(rows.any())
        labels[name] = {
            "agreement": float(equal[rows].mean()) if there else None,
            "kl": float(divergence[rows].mean()) if there else None,
            "support": int(rows.sum()),
        }
    return {"agreement": float(equal.mean()), "kl": float(divergence.mean())}, labels
