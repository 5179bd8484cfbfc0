"""The probability at which a label is given: who reaches it, and where it makes F1 largest."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_distill.metrics.label_counts import Counts
from hf_distill.metrics.matrices import Array, as_array
from hf_distill.metrics.probabilities import probabilities_of


def reached(logits: Array, thresholds: ArrayLike | None) -> NDArray[np.bool_]:
    """Whether each probability is at or above its label's threshold.

    Args:
        logits: shape (examples, labels).
        thresholds: one number, or shape (labels,). None is 0.5.

    Raises:
        ValueError: thresholds of another shape or outside 0 to 1.
    """
    cut = as_array(0.5 if thresholds is None else thresholds)
    labels = logits.shape[1]
    if cut.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds have shape {cut.shape}; expected one number, or one a label, shape ({labels},).")
    if not ((cut >= 0) & (cut <= 1)).all():
        worst = cut.ravel()[~((cut >= 0) & (cut <= 1)).ravel()][0]
        raise ValueError(f"a threshold is {worst:g}; thresholds are probabilities from 0 to 1, not logits.")
    given: NDArray[np.bool_] = probabilities_of(logits) >= cut
    return given


def best_thresholds(logits: Array, targets: Array) -> Array:
    """For each label the threshold that maximises its F1, as `metrics.tune_thresholds` describes it.

    Args:
        logits: shape (examples, labels).
        targets: 0 or 1, the same shape.

    Returns:
        Shape (labels,).
    """
    probabilities = probabilities_of(logits)
    order = np.argsort(-probabilities, axis=0, kind="stable")
    falling = np.take_along_axis(probabilities, order, axis=0)
    below = np.vstack([falling[1:], np.zeros_like(falling[:1])])
    positives = targets.sum(axis=0)

    hits = np.take_along_axis(targets, order, axis=0).cumsum(axis=0)
    given = np.arange(1, len(logits) + 1)[:, None]
    # A cut after row k gives the label to rows 0..k. It exists only where the next probability differs.
    cuts = falling > below
    cuts[-1] = True  # below the last row is everything, also when its probability has vanished
    f1 = np.where(cuts, 2 * hits / (given + positives), -1.0)
    best = f1.max(axis=0)

    middles = (falling + below) / 2
    distance = np.where(f1 == best, np.abs(middles - 0.5), np.inf)
    tuned = np.take_along_axis(middles, distance.argmin(axis=0)[None], axis=0)[0]
    stays = Counts(probabilities >= 0.5, targets.astype(bool)).f1() >= best
    kept: Array = np.where(stays, 0.5, tuned)  # a label without positives has F1 0 everywhere, so it stays
    return kept
