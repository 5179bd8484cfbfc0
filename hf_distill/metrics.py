"""How good a model is at its task, and how close a student is to its teacher, as `evaluate.Metric` modules.

Nothing here fetches or writes a file: the modules are classes of this package, and what they compare stays in memory.
Logits go in everywhere; sigmoid and softmax are applied inside, so that the same arrays serve every metric.

| task | quality | fidelity |
| --- | --- | --- |
| `"multi_label"` | `MultiLabelQuality`: mean_average_precision, macro_f1, micro_f1 | agreement, exact_agreement, kl |
| `"single_label"` | `SingleLabelQuality`: accuracy, macro_f1 | agreement, kl |
| `"regression"` | `RegressionQuality`: mse, pearson, spearman | mse |

    quality = metrics.for_task("multi_label")
    thresholds = metrics.tune_thresholds(validation_logits, validation_labels)
    quality.compute(predictions=logits, references=labels, thresholds=thresholds)
    metrics.Fidelity("multi_label").compute(predictions=logits, references=teacher_logits, thresholds=thresholds)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

Array = NDArray[np.float64]
PerLabel = dict[str, dict[str, float | int | None]]


class _Module(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """What all modules here share: input that is checked and brought to (examples, columns) before it is stored."""

    summary: ClassVar[str] = ""

    def __init__(self, config_name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("keep_in_memory", True)
        super().__init__(config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        column = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description=self.__doc__ or "",
            features=datasets.Features({"predictions": column, "references": column}),
        )

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the cache even for modules that never write to it: that fails in a read-only home.
        return str(self._data_dir_root) if self.keep_in_memory else str(super()._build_data_dir())

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Store a batch, after checking it."""
        logits = _matrix(predictions, "predictions")
        targets = self._targets(references, logits)
        super().add_batch(predictions=logits, references=targets, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Store one example, after checking it."""
        self.add_batch(predictions=_array(prediction)[None], references=_array(reference)[None], **kwargs)

    def _targets(self, references: Any, logits: Array) -> Array:
        """References as (examples, columns), or a ValueError that names what does not fit."""
        targets = _matrix(references, "references")
        if targets.shape != logits.shape:
            raise ValueError(
                f"shape mismatch: predictions are {logits.shape}, references {targets.shape} (examples, columns)."
            )
        return targets


class MultiLabelQuality(_Module):
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
        _only_zero_and_one(targets)
        return targets

    def _compute(
        self,
        predictions: Any,
        references: Any,
        thresholds: ArrayLike | None = None,
        per_label: bool = False,
        label_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        logits, labels = _matrix(predictions, "predictions"), _matrix(references, "references")
        given = decide(logits, thresholds)
        precisions = _average_precisions(logits, labels)
        counts = _Counts(given, labels.astype(bool))
        known = [value for value in precisions if value is not None]
        result: dict[str, Any] = {
            "mean_average_precision": float(np.mean(known)) if known else 0.0,
            "macro_f1": float(counts.f1().mean()),
            "micro_f1": float(counts.total().f1()),
        }
        if per_label:
            names = _names(label_names, logits.shape[1])
            result["per_label"] = {
                name: {"average_precision": precisions[i], **counts.of(i)} for i, name in enumerate(names)
            }
        return result


class SingleLabelQuality(_Module):
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
        targets = _matrix(references, "references")
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
        logits = _matrix(predictions, "predictions")
        labels = _matrix(references, "references")[:, 0].astype(np.int64)
        chosen = logits.argmax(axis=1)
        result: dict[str, Any] = {
            "accuracy": float(accuracy_score(labels, chosen)),
            "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0.0)),
        }
        if per_label:
            names = _names(label_names, logits.shape[1])
            classes = np.arange(logits.shape[1])
            counts = _Counts(chosen[:, None] == classes, labels[:, None] == classes)
            result["per_label"] = {name: counts.of(i) for i, name in enumerate(names)}
        return result


class RegressionQuality(_Module):
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
        values, targets = _matrix(predictions, "predictions"), _matrix(references, "references")
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
            result["per_label"] = dict(zip(_names(label_names, values.shape[1]), columns, strict=True))
        return result


class Fidelity(_Module):
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
        self.task = _known_task(task)
        super().__init__(self.task, **kwargs)

    def _targets(self, references: Any, logits: Array) -> Array:
        teacher = _matrix(references, "references")
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
        student, teacher = _matrix(predictions, "predictions"), _matrix(references, "references")
        names = _names(label_names, student.shape[1])
        if self.task != "multi_label" and not (thresholds is None and teacher_thresholds is None):
            raise ValueError(f"thresholds belong to multi-label tasks; this Fidelity compares {self.task!r}.")
        if self.task == "multi_label":
            own = thresholds if teacher_thresholds is None else teacher_thresholds
            result, labels = _multi_label_fidelity(student, teacher, names, thresholds, own)
        elif self.task == "single_label":
            result, labels = _single_label_fidelity(student, teacher, names)
        else:
            squares = (student - teacher) ** 2
            result = {"mse": float(squares.mean())}
            labels = {name: {"mse": float(squares[:, i].mean())} for i, name in enumerate(names)}
        return {**result, "per_label": labels} if per_label else dict(result)


_QUALITY: dict[str, type[_Module]] = {
    "multi_label": MultiLabelQuality,
    "single_label": SingleLabelQuality,
    "regression": RegressionQuality,
}
_NAMES: dict[str, type[_Module]] = {
    **{f"{task}_quality": kind for task, kind in _QUALITY.items()},
    "fidelity": Fidelity,
}


def for_task(task: str) -> MultiLabelQuality | SingleLabelQuality | RegressionQuality:
    """The quality module of a task.

    Args:
        task: "multi_label", "single_label" or "regression".

    Raises:
        ValueError: another task.
    """
    return _QUALITY[_known_task(task)]()


def load(name: str, **kwargs: Any) -> evaluate.EvaluationModule:
    """A module by name: ours first, any other by `evaluate.load`.

    Args:
        name: "multi_label_quality", "single_label_quality", "regression_quality", "fidelity" (needs `task=`), else
            what `evaluate.load` takes: a name on the Hub (downloads and runs its code) or the path of a metric script.
        kwargs: passed on.

    Raises:
        FileNotFoundError: evaluate cannot get it: no such metric, or no network and not in the cache.
        ImportError: the metric needs a package that is not installed (evaluate says which).
    """
    if name in _NAMES:
        return _NAMES[name](**kwargs)
    try:
        return evaluate.load(name, **kwargs)
    except ImportError:
        raise
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"metric {name!r} is none of hf_distill's ({', '.join(_NAMES)}), and evaluate.load found no such metric "
            "in its cache, on disk or on the Hub (no network?). Check the name, load it once with a network so that "
            "it is cached, or give the path of a metric script."
        ) from error


def decide(logits: ArrayLike, thresholds: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Which labels are given: those whose probability reaches the threshold.

    Args:
        logits: shape (examples, labels).
        thresholds: probabilities: one number, or shape (labels,). None is 0.5.

    Returns:
        Booleans, shape (examples, labels).

    Raises:
        ValueError: thresholds of another shape or outside 0 to 1.
    """
    values = _matrix(logits, "logits")
    cut = _array(0.5 if thresholds is None else thresholds)
    labels = values.shape[1]
    if cut.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds have shape {cut.shape}; expected one number, or one a label, shape ({labels},).")
    if not ((cut >= 0) & (cut <= 1)).all():
        worst = cut.ravel()[~((cut >= 0) & (cut <= 1)).ravel()][0]
        raise ValueError(f"a threshold is {worst:g}; thresholds are probabilities from 0 to 1, not logits.")
    given: NDArray[np.bool_] = _probabilities(values) >= cut
    return given


def tune_thresholds(logits: ArrayLike, labels: ArrayLike) -> Array:
    """For each label, the probability threshold that maximises its F1. For a validation split, never the test split.

    0.5 is kept wherever nothing beats it, and for labels without positives. Elsewhere a threshold lies halfway between
    two neighbouring probabilities, so that rounding at inference does not turn a decision; among equally good ones the
    nearest to 0.5 is taken. Deterministic.

    Args:
        logits: shape (examples, labels).
        labels: 0 or 1, the same shape.

    Returns:
        Thresholds, shape (labels,), to be used with `>=` on sigmoid probabilities, as `decide` does.

    Raises:
        ValueError: values that are not finite, labels other than 0 and 1, shapes that differ.
    """
    values, targets = _matrix(logits, "logits"), _matrix(labels, "labels")
    if values.shape != targets.shape:
        raise ValueError(f"shape mismatch: logits are {values.shape}, labels {targets.shape} (examples, labels).")
    _only_zero_and_one(targets, "labels")
    probabilities = _probabilities(values)
    order = np.argsort(-probabilities, axis=0, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=0)
    below = np.vstack([falling[1:], np.zeros_like(falling[:1])])
    positives = targets.sum(axis=0)

    hits = np.take_along_axis(targets, order, axis=0).cumsum(axis=0)
    given = np.arange(1, len(values) + 1)[:, None]
    # A cut after row k gives the label to rows 0..k. It exists only where the next probability differs.
    cuts = falling > below
    cuts[-1] = True  # below the last row is everything, also when its probability has vanished
    f1 = np.where(cuts, 2 * hits / (given + positives), -1.0)
    best = f1.max(axis=0)

    middles = (falling + below) / 2
    distance = np.where(f1 == best, np.abs(middles - 0.5), np.inf)
    tuned = np.take_along_axis(middles, distance.argmin(axis=0)[None], axis=0)[0]
    stays = _Counts(probabilities >= 0.5, targets.astype(bool)).f1() >= best
    kept: Array = np.where(stays, 0.5, tuned)  # a label without positives has F1 0 everywhere, so it stays
    return kept


class _Counts:
    """True positives, given and true labels per column. F1 is not asked of scikit-learn for multi-label: with a single
    column it takes the problem for a binary one and averages over both classes."""

    def __init__(self, given: NDArray[np.bool_], true: NDArray[np.bool_]) -> None:
        self.hits, self.given, self.true = (x.sum(axis=0) for x in (given & true, given, true))

    def f1(self) -> Any:
        return _ratio(2 * self.hits, self.given + self.true)

    def total(self) -> _Counts:
        """The same over all columns together."""
        whole = _Counts.__new__(_Counts)
        whole.hits, whole.given, whole.true = self.hits.sum(), self.given.sum(), self.true.sum()
        return whole

    def of(self, column: int) -> dict[str, float | int | None]:
        hits, given, true = self.hits[column], self.given[column], self.true[column]
        return {
            "f1": float(_ratio(2 * hits, given + true)),
            "precision": float(_ratio(hits, given)),
            "recall": float(_ratio(hits, true)),
            "support": int(true),
        }


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, and 0.0 where there is no whole."""
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), 0.0)


def _average_precisions(logits: Array, labels: Array) -> list[float | None]:
    # On logits, not probabilities: the sigmoid saturates and would make ties of confident scores.
    return [
        float(average_precision_score(labels[:, i], logits[:, i])) if labels[:, i].any() else None
        for i in range(logits.shape[1])
    ]


def _multi_label_fidelity(
    student: Array,
    teacher: Array,
    names: list[str],
    thresholds: ArrayLike | None,
    teacher_thresholds: ArrayLike | None,
) -> tuple[dict[str, float], PerLabel]:
    equal = decide(student, thresholds) == decide(teacher, teacher_thresholds)
    # log sigmoid(-x) is log(1 - sigmoid(x)) without the cancellation that makes confident labels infinite.
    given = np.exp(_log_sigmoid(teacher)) * (_log_sigmoid(teacher) - _log_sigmoid(student))
    withheld = np.exp(_log_sigmoid(-teacher)) * (_log_sigmoid(-teacher) - _log_sigmoid(-student))
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


def _single_label_fidelity(student: Array, teacher: Array, names: list[str]) -> tuple[dict[str, float], PerLabel]:
    chosen = teacher.argmax(axis=1)
    equal = student.argmax(axis=1) == chosen
    log_student, log_teacher = _log_softmax(student), _log_softmax(teacher)
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


def _log_sigmoid(values: Array) -> Array:
    result: Array = -np.logaddexp(0.0, -values)
    return result


def _probabilities(values: Array) -> Array:
    """Sigmoid, rounded to what float32 can tell apart: a threshold between two scores that inference sees as equal
    would promise a decision that nobody can make."""
    return np.exp(_log_sigmoid(values)).astype(np.float32).astype(np.float64)


def _log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _correlation(left: Array, right: Array) -> float:
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return 0.0
    left, right = left - left.mean(), right - right.mean()
    # Norms separately: the product of two sums of squares overflows or vanishes long before they do.
    return float(np.clip((left / np.linalg.norm(left)) @ (right / np.linalg.norm(right)), -1.0, 1.0))


def _array(values: Any) -> Array:
    """Anything array-like as float64: also tensors that require a gradient, are in bfloat16 or on another device."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def _matrix(values: Any, name: str) -> Array:
    """Finite float64 of shape (examples, columns); one column where there was a plain list of numbers."""
    if values is None:
        raise ValueError(f"{name} are missing.")
    if isinstance(values, tuple) and len(values) > 1 and any(np.ndim(value) > 1 for value in values):
        raise ValueError(f"{name} are a tuple of {len(values)} arrays; pass the logits alone, usually {name}[0].")
    try:
        array = _array(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are no array of numbers with one shape for every example: {error}") from None
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} have shape {array.shape}; expected (examples, columns), at least one of each.")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}; {int((~finite).sum())} of {array.size} values are not "
            "finite."
        )
    return array


def _only_zero_and_one(targets: Array, name: str = "references") -> None:
    wrong = (targets != 0) & (targets != 1)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {targets[row, column]:g}; multi-label {name} are 0 or 1, shape (examples, "
            "labels)."
        )


def _names(names: Sequence[str] | None, count: int) -> list[str]:
    if names is None:
        return [str(i) for i in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"label_names has {len(names)} names, {len(set(names))} different; expected {count} different."
        )
    return list(names)


def _known_task(task: str) -> str:
    if task not in _QUALITY:
        raise ValueError(f"no metrics for task {str(task)!r}; there are metrics for {', '.join(map(repr, _QUALITY))}.")
    return str(task)
