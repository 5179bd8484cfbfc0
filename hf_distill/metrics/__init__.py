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

from typing import Any

import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_distill.metrics.fidelity import Fidelity
from hf_distill.metrics.matrices import Array, matrix, only_zero_and_one
from hf_distill.metrics.module import MetricModule, known_task
from hf_distill.metrics.quality import MultiLabelQuality, RegressionQuality, SingleLabelQuality
from hf_distill.metrics.thresholds import best_thresholds, reached

__all__ = [
    "Fidelity",
    "MultiLabelQuality",
    "RegressionQuality",
    "SingleLabelQuality",
    "decide",
    "for_task",
    "load",
    "tune_thresholds",
]

_QUALITY: dict[str, type[MetricModule]] = {
    "multi_label": MultiLabelQuality,
    "single_label": SingleLabelQuality,
    "regression": RegressionQuality,
}
_NAMES: dict[str, type[MetricModule]] = {
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
    return _QUALITY[known_task(task)]()


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
    return reached(matrix(logits, "logits"), thresholds)


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
    values, targets = matrix(logits, "logits"), matrix(labels, "labels")
    if values.shape != targets.shape:
        raise ValueError(f"shape mismatch: logits are {values.shape}, labels {targets.shape} (examples, labels).")
    only_zero_and_one(targets, "labels")
    return best_thresholds(values, targets)
