"""Metrics as naive loops written from their definitions, and scores to try them on."""

import math

import numpy as np

LOGITS = np.array([[2.0, -1.0, 0.3], [-0.5, 1.5, -2.0], [0.7, 0.2, -0.1], [-3.0, -0.4, 1.1]])


LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def naive_average_precision(scores, labels):
    """Mean over distinct scores, falling, of precision there times what recall gains there."""
    positives, area, recall_before = sum(labels), 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        given = [label for score, label in zip(scores, labels, strict=True) if score >= cut]
        recall = sum(given) / positives
        area += sum(given) / len(given) * (recall - recall_before)
        recall_before = recall
    return area


def naive_f1(given, true):
    tp = sum(bool(g) and bool(t) for g, t in zip(given, true, strict=True))
    fp = sum(bool(g) and not t for g, t in zip(given, true, strict=True))
    fn = sum(not g and bool(t) for g, t in zip(given, true, strict=True))
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0


def made_up(rows=60, columns=5, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, columns)) < 0.3).astype(int)
    return np.round(rng.normal(size=(rows, columns)) + labels, 1), labels  # rounded: ties
