"""Logits to probabilities in numpy, and to logarithms of probabilities that neither vanish nor overflow."""

import numpy as np

from hf_distill.metrics.matrices import Array


def log_sigmoid(values: Array) -> Array:
    result: Array = -np.logaddexp(0.0, -values)
    return result


def probabilities_of(values: Array) -> Array:
    """Sigmoid, rounded to what float32 can tell apart: a threshold between two scores that inference sees as equal
    would promise a decision that nobody can make."""
    return np.exp(log_sigmoid(values)).astype(np.float32).astype(np.float64)


def log_softmax(values: Array) -> Array:
    shifted = values - values.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
