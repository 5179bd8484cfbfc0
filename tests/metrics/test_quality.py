"""Every value is worked out by hand or by a naive loop; the library under `quality` is not asked a second time."""

import json
import math

import numpy as np
import pytest
from naive_metrics import LABELS, LOGITS, made_up, naive_average_precision, naive_f1, sigmoid

from hf_distill import metrics


def test_multi_label_by_hand():
    result = metrics.MultiLabelQuality().compute(predictions=LOGITS, references=LABELS)
    # F1: column 0: given 1 0 1 0, true 1 1 0 0 -> 1/2; 1: given 0 1 1 0, true 0 1 1 0 -> 1; 2: given 1 0 0 1,
    # true 0 0 1 1 -> 1/2. Ranked: 0: rows 0 2 1 3 -> (1 + 2/3) / 2; 1: 1; 2: rows 3 0 2 1 -> (1 + 2/3) / 2.
    assert result["macro_f1"] == pytest.approx(2 / 3)
    assert result["micro_f1"] == pytest.approx(8 / 12)
    assert result["mean_average_precision"] == pytest.approx((5 / 6 + 1 + 5 / 6) / 3)
    assert set(result) == {"mean_average_precision", "macro_f1", "micro_f1"}


@pytest.mark.parametrize("thresholds", [None, 0.6, [0.2, 0.5, 0.7, 0.4, 0.9]])
def test_multi_label_equals_naive_loops(thresholds):
    logits, labels = made_up()
    result = metrics.MultiLabelQuality().compute(predictions=logits, references=labels, thresholds=thresholds)
    cut = [0.5] * 5 if thresholds is None else np.broadcast_to(thresholds, 5)
    given = [[sigmoid(x) >= cut[j] for j, x in enumerate(row)] for row in logits]
    columns = range(5)
    f1 = [naive_f1([g[j] for g in given], labels[:, j]) for j in columns]
    ap = [naive_average_precision(list(logits[:, j]), list(labels[:, j])) for j in columns]
    assert result["macro_f1"] == pytest.approx(sum(f1) / 5)
    assert result["micro_f1"] == pytest.approx(naive_f1(np.ravel(given), labels.ravel()))
    assert result["mean_average_precision"] == pytest.approx(sum(ap) / 5)


def test_labels_that_never_occur_are_left_out_of_mean_average_precision_and_count_zero_in_macro_f1():
    labels = LABELS.copy()
    labels[:, 1] = 0
    result = metrics.MultiLabelQuality().compute(predictions=LOGITS, references=labels, per_label=True)
    assert result["mean_average_precision"] == pytest.approx(5 / 6)
    assert result["macro_f1"] == pytest.approx((1 / 2 + 0 + 1 / 2) / 3)
    assert result["per_label"]["1"] == {
        "average_precision": None,
        "f1": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "support": 0,
    }


def test_per_label_takes_names_and_is_json():
    names = ["joy", "anger", "fear"]
    quality = metrics.MultiLabelQuality()
    result = quality.compute(predictions=LOGITS, references=LABELS, per_label=True, label_names=names)
    assert list(result["per_label"]) == names
    assert result["per_label"]["joy"] == pytest.approx(
        {"average_precision": 5 / 6, "f1": 0.5, "precision": 0.5, "recall": 0.5, "support": 2}
    )
    json.dumps(result, allow_nan=False)
    with pytest.raises(ValueError, match="2 names, 2 different; expected 3"):
        quality.compute(predictions=LOGITS, references=LABELS, per_label=True, label_names=names[:2])


def test_confident_scores_are_ranked_although_their_sigmoids_are_equal():
    result = metrics.MultiLabelQuality().compute(predictions=[[50.0], [60.0], [70.0]], references=[[0], [0], [1]])
    assert result["mean_average_precision"] == 1.0


@pytest.mark.parametrize("labels", [np.zeros((1, 3)), np.ones((1, 3)), [[1, 0, 1]]])
def test_multi_label_of_one_row_and_of_no_positive(labels):
    result = metrics.MultiLabelQuality().compute(predictions=np.zeros((1, 3)), references=labels)
    assert all(0 <= value <= 1 for value in result.values())
    assert result["mean_average_precision"] == (1.0 if np.any(labels) else 0.0)


def test_single_label_by_hand():
    logits = [[2, 1, 0, 0], [0, 1, 0, 0], [0, 3, 1, 0], [1, 0, 5, 0], [4, 0, 0, 0]]
    result = metrics.SingleLabelQuality().compute(
        predictions=logits, references=[0, 1, 2, 2, 1], per_label=True, label_names=list("abcd")
    )
    # Predicted 0 1 1 2 0. F1: a 2/3, b 1/2, c 2/3; d occurs nowhere and is not in the mean.
    assert result["accuracy"] == pytest.approx(3 / 5)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 2 / 3) / 3)
    assert result["per_label"]["c"] == pytest.approx({"f1": 2 / 3, "precision": 1.0, "recall": 0.5, "support": 2})
    assert result["per_label"]["d"] == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "support": 0}


def test_single_label_takes_a_column_of_classes_one_row_and_constant_logits():
    quality = metrics.SingleLabelQuality()
    assert quality.compute(predictions=[[0.0, 1.0]], references=[[1]]) == {"accuracy": 1.0, "macro_f1": 1.0}
    constant = quality.compute(predictions=np.zeros((4, 3)), references=[0, 1, 2, 0])
    assert constant == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3) / 3})


def test_regression_by_hand():
    result = metrics.RegressionQuality().compute(predictions=[[1.0], [2.0], [4.0]], references=[1.0, 3.0, 2.0])
    # Deviations: -4/3 -1/3 5/3 and -1 1 0. Ranks 1 2 3 and 1 3 2.
    assert result["mse"] == pytest.approx(5 / 3)
    assert result["pearson"] == pytest.approx(1.0 / math.sqrt(42 / 9 * 2))
    assert result["spearman"] == pytest.approx(0.5)


def test_regression_ties_share_their_mean_rank():
    result = metrics.RegressionQuality().compute(predictions=[1.0, 1.0, 2.0], references=[1.0, 2.0, 3.0])
    assert result["spearman"] == pytest.approx(1.5 / math.sqrt(1.5 * 2))  # ranks 1.5 1.5 3 and 1 2 3


def test_regression_of_several_targets_is_their_mean():
    predictions, references = [[1, 5], [2, 4], [3, 0]], [[2, 5], [3, 4], [4, 0]]
    result = metrics.RegressionQuality().compute(
        predictions=predictions, references=references, per_label=True, label_names=["x", "y"]
    )
    assert result["mse"] == pytest.approx(0.5)
    assert result["per_label"]["x"] == pytest.approx({"mse": 1.0, "pearson": 1.0, "spearman": 1.0})
    assert result["per_label"]["y"]["mse"] == 0.0


@pytest.mark.parametrize(("values", "targets"), [([3.0], [2.0]), ([0.1] * 7, range(7)), (range(7), [0.1] * 7)])
def test_regression_without_spread_has_correlation_zero_and_no_warning(values, targets, recwarn):
    result = metrics.RegressionQuality().compute(predictions=list(values), references=list(targets))
    assert result["pearson"] == result["spearman"] == 0.0
    assert math.isfinite(result["mse"])
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]


QUALITY = metrics.MultiLabelQuality


@pytest.mark.parametrize(
    ("make", "predictions", "references", "message"),
    [
        (QUALITY, LOGITS, LABELS[:, :2], r"predictions are \(4, 3\), references \(4, 2\)"),
        (QUALITY, LOGITS, LABELS[:2], r"predictions are \(4, 3\), references \(2, 3\)"),
        (QUALITY, LOGITS, [0, 1, 2, 0], r"references \(4, 1\)"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [2], r"references\[0\] is 2; expected a class number from 0 to 1"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [-100], "is -100"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [0.5], r"is 0\.5"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [[0, 1]], r"expected one class number an example, shape \(1,\)"),
        (metrics.RegressionQuality, [1.0, 2.0], [1.0], r"predictions are \(2, 1\), references \(1, 1\)"),
    ],
)
def test_refused_in_one_line_that_names_what_was_found(make, predictions, references, message):
    with pytest.raises(ValueError, match=message) as caught:
        make().compute(predictions=predictions, references=references)
    assert "\n" not in str(caught.value)
