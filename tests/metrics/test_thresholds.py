"""Thresholds reach the best F1 that trying every cut finds, and are refused where they do not fit."""

import itertools
import time

import numpy as np
import pytest
from naive_metrics import LABELS, LOGITS, made_up, naive_f1, sigmoid

from hf_distill import metrics


def best_f1_by_trying(scores, labels):
    points = sorted(set(scores))
    cuts = [0.5, *points, *((a + b) / 2 for a, b in itertools.pairwise(points))]
    return max(naive_f1([s >= cut for s in scores], labels) for cut in cuts)


@pytest.mark.parametrize("seed", range(4))
def test_tuned_thresholds_reach_the_best_f1_there_is(seed):
    logits, labels = made_up(rows=30, columns=4, seed=seed)
    tuned = metrics.tune_thresholds(logits, labels)
    for j in range(4):
        scores = [sigmoid(x) for x in logits[:, j]]
        reached = naive_f1([s >= tuned[j] for s in scores], labels[:, j])
        assert reached == pytest.approx(best_f1_by_trying(scores, labels[:, j]))


def test_what_compute_reports_at_tuned_thresholds_is_what_was_tuned():
    logits, labels = made_up(rows=40, columns=3, seed=9)
    logits = logits * 30  # confident: float32 sees many of the sigmoids as 1
    tuned = metrics.tune_thresholds(logits, labels)
    quality = metrics.MultiLabelQuality()
    at_half = quality.compute(predictions=logits, references=labels)["macro_f1"]
    at_tuned = quality.compute(predictions=logits, references=labels, thresholds=tuned)["macro_f1"]
    in_float32 = 1 / (1 + np.exp(-logits.astype(np.float32).clip(-80)))
    assert at_tuned >= at_half
    assert at_tuned == pytest.approx(np.mean([naive_f1(in_float32[:, j] >= tuned[j], labels[:, j]) for j in range(3)]))


def test_threshold_lies_halfway_and_half_is_kept_where_nothing_is_better():
    logits = np.array([[-1.0, 3.0, 3.0, -4.0], [-2.0, 2.0, 2.0, -3.0], [-3.0, 1.0, -1.0, -3.5]])
    labels = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    tuned = metrics.tune_thresholds(logits, labels)
    assert tuned[0] == pytest.approx((sigmoid(-2) + sigmoid(-3)) / 2)
    assert tuned[1] == pytest.approx((sigmoid(3) + sigmoid(2)) / 2)
    assert tuned[2] == 0.5
    assert tuned[3] == 0.5  # no positive


def test_among_equal_thresholds_the_nearest_to_half():
    # Cuts after row 0 (F1 2/3) and after row 3 (F1 2*2/(4+2) = 2/3) tie; 0.5 itself gives 0.
    logits = np.array([[-1.0], [-2.0], [-3.0], [-4.0], [-6.0]])
    labels = np.array([[1], [0], [0], [1], [0]])
    assert metrics.tune_thresholds(logits, labels)[0] == pytest.approx((sigmoid(-1) + sigmoid(-2)) / 2)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, -300.0])
def test_thresholds_of_constant_logits_and_of_one_row(value):
    for rows in (1, 4):
        logits = np.full((rows, 2), value)
        labels = np.zeros((rows, 2))
        labels[0, 0] = 1
        tuned = metrics.tune_thresholds(logits, labels)
        assert metrics.decide(logits, tuned)[:, 0].all()
        assert tuned[1] == 0.5
        assert ((tuned >= 0) & (tuned <= 1)).all()


def test_tuning_is_quick_and_deterministic():
    logits, labels = made_up(rows=5000, columns=28)
    start = time.perf_counter()
    first = metrics.tune_thresholds(logits, labels)
    assert time.perf_counter() - start < 5  # about 0.02 s: a loop over cuts takes minutes
    assert np.array_equal(first, metrics.tune_thresholds(logits, labels))


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([0.5, 0.5], r"shape \(2,\); expected one number, or one a label, shape \(3,\)"), (-0.7, "-0.7"), (1.5, "1.5")],
)
def test_thresholds_that_do_not_fit(thresholds, message):
    with pytest.raises(ValueError, match=message):
        metrics.MultiLabelQuality().compute(predictions=LOGITS, references=LABELS, thresholds=thresholds)
