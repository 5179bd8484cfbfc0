"""F1, precision and recall of columns, beside a naive loop and by hand."""

import pytest
from naive_metrics import made_up, naive_f1

from hf_distill import metrics
from hf_distill.metrics.label_counts import Counts


def test_one_label_is_not_taken_for_a_binary_problem():
    result = metrics.MultiLabelQuality().compute(predictions=[[1.0], [2.0], [-1.0]], references=[[1], [0], [0]])
    assert result["macro_f1"] == pytest.approx(2 / 3)  # the mean over both classes would be 0.583
    assert result["micro_f1"] == pytest.approx(2 / 3)
    assert result["mean_average_precision"] == pytest.approx(1 / 2)


def test_f1_of_each_column_and_of_all_together_equals_a_naive_loop():
    scores, labels = made_up()
    counts = Counts(scores > 0, labels.astype(bool))
    assert list(counts.f1()) == pytest.approx([naive_f1(scores[:, j] > 0, labels[:, j]) for j in range(5)])
    assert float(counts.total().f1()) == pytest.approx(naive_f1((scores > 0).ravel(), labels.ravel()))
    assert [counts.of(j)["support"] for j in range(5)] == labels.sum(axis=0).tolist()
