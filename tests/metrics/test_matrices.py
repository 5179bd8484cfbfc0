"""What comes in: tensors of any kind, and numbers that are refused in one line."""

import math

import numpy as np
import pytest
from naive_metrics import LABELS, LOGITS

from hf_distill import metrics


def test_tensors_in_bfloat16_and_with_a_gradient():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True)
    result = metrics.MultiLabelQuality().compute(predictions=logits, references=torch.tensor(LABELS))
    assert result["macro_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[0.0, math.nan]], [[0, 1]], r"predictions\[0, 1\] is nan; 1 of 2 values"),
        ([[0.0, math.inf]], [[0, 1]], r"predictions\[0, 1\] is inf"),
        ([[0.0, 1.0]], [[0, 2]], r"references\[0, 1\] is 2; multi-label references are 0 or 1"),
        ([[0.0, 1.0]], [[0, 0.5]], r"is 0\.5"),
        (np.zeros((0, 3)), np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.zeros((2, 3, 4)), np.zeros((2, 3)), r"shape \(2, 3, 4\)"),
        ([[1.0], [1.0, 2.0]], [[1], [0]], "one shape for every example"),
        ((LOGITS, np.zeros((2, 4, 8))), LABELS, r"tuple of 2 arrays; pass the logits alone"),
        (LOGITS, None, "references are missing"),
    ],
)
def test_refused_in_one_line_that_names_what_was_found(predictions, references, message):
    with pytest.raises(ValueError, match=message) as caught:
        metrics.MultiLabelQuality().compute(predictions=predictions, references=references)
    assert "\n" not in str(caught.value)
