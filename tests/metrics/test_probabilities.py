"""Probabilities and their logarithms are those of the definition, and stay finite far from zero."""

import math

import numpy as np
import pytest
from naive_metrics import made_up, sigmoid

from hf_distill.metrics.probabilities import log_sigmoid, log_softmax, probabilities_of


def test_they_equal_their_definitions():
    logits, _ = made_up(rows=8)
    assert probabilities_of(logits).ravel() == pytest.approx([sigmoid(x) for x in logits.ravel()], rel=1e-6)
    assert np.exp(log_sigmoid(logits)).ravel() == pytest.approx([sigmoid(x) for x in logits.ravel()])
    for row, logs in zip(logits, log_softmax(logits), strict=True):
        total = sum(math.exp(x) for x in row)
        assert np.exp(logs) == pytest.approx([math.exp(x) / total for x in row])


def test_logarithms_of_what_vanishes_are_finite():
    assert log_sigmoid(np.array([[-900.0, 900.0]])).tolist() == [[-900.0, 0.0]]
    assert log_softmax(np.array([[-900.0, 900.0]])).tolist() == [[-1800.0, 0.0]]


def test_scores_that_float32_cannot_tell_apart_are_one_probability():
    first, second = probabilities_of(np.array([[1.0, 1.0 + 1e-9]]))[0]
    assert first == second
