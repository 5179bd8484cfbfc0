"""How good a model is at its task, beside the true labels: one `evaluate.Metric` for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from hf_distill.metrics.label_counts import Counts
from hf_distill.metrics.matrices import Array, matrix, only_zero_and_one
from hf_distill.metrics.module import MetricModule, column_names
from hf_distill.metrics.thresholds import reached


class MultiLabelQuality(MetricModule):
    """Quality of multi-label predictions. A label is given where its probability reaches its threshold.

    `compute(predictions=, references=, thresholds=None, per_label=False, label_names=None)`

    Args:
        predictions: logits, shape (examples, labels); the sigmoid is applied inside.
        references: 0 or 1, shape (examples, labels).
        thresholds: probabilities: one number, or one a label, shape (labels,). None is 0.5.
        per_label: also return "per_label".
        label_names: names for "per_label", in the order of the columns; their numbers when left out.

    Returns:
        mean_average_precision: average precision (area under the stepwise precision-recall curve), mean over the
            labels that have at least one positive reference; the others have none. 0.0 where no label has one.
        macro_f1: F1, mean over all labels; 0.0 for a label that is neither predicted nor there.
        micro_f1: F1 of all (example, label) decisions together.
        per_label: {name: {average_precision (None without positives), f1, precision, recall, support}}.

    Raises:
        ValueError: values that are not finite, references other than 0 and 1, shapes that do not fit.
    """

    summary = "Mean average precision, macro F1 and micro F1 of multi-label logits."

    def _targets(self, references: Any, logits: Array) -> Array:
        targets = super()._targets(references, logits)
        only_zero_and_one(targets)
        return targets

    def _compute(
        self,
        predictions: Any,
        references: Any,
        thresholds: ArrayLike | None = None,
        per_label: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        logits, labels = matrix(predictions, "predictions"), matrix(references, "references")
        given = reached(logits, thresholds)
        precisions = _average_precisions(logits, labels)
        counts = Counts(given, labels.astype(bool))
        known = [value for value in precisions if value is not None]
        result: dict[str, Any] = {
            "mean_average_precision": float(np.mean(known)) if known else 0.0,
            "macro_f1": float(counts.f1().mean()),
            "micro_f1": float(counts.total().f1()),
        }
        if per_label:
            names = column_names(label_names, logits.shape[1])
            result["per_label"] = {
                name: {"average_precision": precisions[i], **counts.of(i)} for i, name in enumerate(names)
            }
        return result


class SingleLabelQuality(MetricModule):
    """Quality of predictions of one class an example. The class with the largest logit is predicted.

    `compute(predictions=, references=, per_label=False, label_names=None)`

    Args:
        predictions: logits, shape (examples, classes). No softmax is needed: it does not change the order.
        references: class numbers, shape (examples,) or (examples, 1).
        per_label: also return "per_label".
        label_names: names for "per_label", in the order of the classes; their numbers when left out.

    Returns:
        accuracy: share of examples whose class is right.
        macro_f1: F1, mean over the classes that occur among references or predictions.
        per_label: {name: {f1, precision, recall, support}}.

    Raises:
        ValueError: values that are not finite, references that are no class numbers, shapes that do not fit.
    """

    summary = "Accuracy and macro F1 of single-label logits."

    def _targets(self, references: Any, logits: Array) -> Array:
        targets = matrix(references, "references")
        if targets.shape != (len(logits), 1):
            raise ValueError(
                f"shape mismatch: predictions are {logits.shape}, references {targets.shape}; expected one class "
                f"number an example, shape ({len(logits)},)."
            )
        classes = logits.shape[1]
        wrong = (targets < 0) | (targets >= classes) | (targets != np.floor(targets))
        if wrong.any():
            row = int(np.argmax(wrong[:, 0]))
            raise ValueError(
                f"references[{row}] is {targets[row, 0]:g}; expected a class number from 0 to {classes - 1}, since "
                f"predictions have {classes} columns."
            )
        return targets

    def _compute(
        self,
        predictions: Any,
        references: Any,
        per_label: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        logits = matrix(predictions, "predictions")
        labels = matrix(references, "references")[:, 0].astype(np.int64)
        chosen = logits.argmax(axis=1)
        result: dict[str, Any] = {
            "accuracy": float(accuracy_score(labels, chosen)),
            "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0.0)),
        }
        if per_label:
            names = column_names(label_names, logits.shape[1])
            classes = np.arange(logits.shape[1])
            counts = Counts(chosen[:, None] == classes, labels[:, None] == classes)
            result["per_label"] = {name: counts.of(i) for i, name in enumerate(names)}
        return result


class RegressionQuality(MetricModule):
    """Quality of predicted numbers.

    `compute(predictions=, references=, per_label=False, label_names=None)`

    Args:
        predictions: shape (examples,) or (examples, targets). Used as they are.
        references: the same shape.
        per_label: also return "per_label", one entry a target.
        label_names: names for "per_label", in the order of the columns; their numbers when left out.

    Returns:
        mse: mean squared error, in squared units of the target.
        pearson, spearman: linear and rank correlation, mean over targets. 0.0 for a target whose predictions or
            references are constant (one example, say): nothing is explained, and the best checkpoint can still be
            chosen by it, which a NaN would prevent.
        per_label: {name: {mse, pearson, spearman}}.

    Raises:
        ValueError: values that are not finite, shapes that do not fit.
    """

    summary = "Mean squared error, Pearson and Spearman correlation of predicted numbers."

    def _compute(
        self,
        predictions: Any,
        references: Any,
        per_label: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        values, targets = matrix(predictions, "predictions"), matrix(references, "references")
        columns = [
            {
                "mse": float(np.mean((value - target) ** 2)),
                "pearson": _correlation(value, target),
                "spearman": _correlation(rankdata(value), rankdata(target)),
            }
            for value, target in zip(values.T, targets.T, strict=True)
        ]
        result: dict[str, Any] = {key: float(np.mean([column[key] for column in columns])) for key in columns[0]}
        if per_label:
            result["per_label"] = dict(zip(column_names(label_names, values.shape[1]), columns, strict=True))
        return result


def _average_precisions(logits: Array, labels: Array) -> list[float | None]:
    # On logits, not probabilities: the sigmoid saturates and would make ties of confident scores.
    return [
        float(average_precision_score(labels[:, i], logits[:, i])) if labels[:, i].any() else None
        for i in range(logits.shape[1])
    ]


def _correlation(left: Array, right: Array) -> float:
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    # Norms separately: the product of two sums of squares overflows or vanishes long before they do.
    return float(np.clip((left / np.linalg.norm(left)) @ (right / np.linalg.norm(right)), -1.0, 1.0))
