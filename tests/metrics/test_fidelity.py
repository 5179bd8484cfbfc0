"""Every value is worked out by hand or by a naive loop."""

import math

import numpy as np
import pytest
from naive_metrics import LOGITS, made_up, sigmoid

from hf_distill import metrics


def test_multi_label_fidelity_equals_a_naive_loop():
    student, _ = made_up(seed=1)
    teacher, _ = made_up(seed=2)
    thresholds, own = [0.3, 0.5, 0.6, 0.5, 0.4], [0.5, 0.4, 0.5, 0.7, 0.5]
    result = metrics.Fidelity("multi_label").compute(
        predictions=student, references=teacher, thresholds=thresholds, teacher_thresholds=own, per_label=True
    )
    equal, divergence = [], []
    for s_row, t_row in zip(student, teacher, strict=True):
        equal.append(
            [(sigmoid(s) >= a) == (sigmoid(t) >= b) for s, t, a, b in zip(s_row, t_row, thresholds, own, strict=True)]
        )
        pairs = [(sigmoid(t), sigmoid(s)) for s, t in zip(s_row, t_row, strict=True)]
        divergence.append([p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)) for p, q in pairs])
    assert result["agreement"] == pytest.approx(np.mean(equal))
    assert result["exact_agreement"] == pytest.approx(np.mean([all(row) for row in equal]))
    assert result["kl"] == pytest.approx(np.mean([sum(row) for row in divergence]))
    assert result["per_label"]["3"]["kl"] == pytest.approx(np.mean([row[3] for row in divergence]))
    assert result["per_label"]["3"]["agreement"] == pytest.approx(np.mean([row[3] for row in equal]))


def test_thresholds_hold_for_the_teacher_too_where_it_has_none_of_its_own():
    half, fifth = (
        metrics.Fidelity("multi_label").compute(predictions=[[0.1]], references=[[-0.1]], thresholds=thresholds)[
            "agreement"
        ]
        for thresholds in (None, 0.2)
    )
    assert (half, fifth) == (0.0, 1.0)


def test_single_label_fidelity_equals_a_naive_loop():
    student, _ = made_up(seed=3)
    teacher, _ = made_up(seed=4)
    result = metrics.Fidelity("single_label").compute(predictions=student, references=teacher, per_label=True)
    equal, divergence = [], []
    for s_row, t_row in zip(student, teacher, strict=True):
        q, p = ([math.exp(x) / sum(map(math.exp, row)) for x in row] for row in (s_row, t_row))
        divergence.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        equal.append(int(np.argmax(s_row)) == int(np.argmax(t_row)))
    rows = [i for i, row in enumerate(teacher) if np.argmax(row) == 2]
    assert result["agreement"] == pytest.approx(np.mean(equal))
    assert result["kl"] == pytest.approx(np.mean(divergence))
    assert result["per_label"]["2"]["support"] == len(rows)
    assert result["per_label"]["2"]["kl"] == pytest.approx(np.mean([divergence[i] for i in rows]))
    assert result["per_label"]["2"]["agreement"] == pytest.approx(np.mean([equal[i] for i in rows]))


def test_kl_by_hand_is_of_the_teacher_and_not_the_other_way_round():
    student, teacher = [[0.0]], [[math.log(3)]]  # 1/2 and 3/4
    result = metrics.Fidelity("multi_label").compute(predictions=student, references=teacher)
    assert result["kl"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_single_label_fidelity_of_a_class_that_the_teacher_never_gives():
    result = metrics.Fidelity("single_label").compute(
        predictions=[[1.0, 0.0]], references=[[2.0, 0.0]], per_label=True, label_names=["no", "yes"]
    )
    assert result["per_label"]["yes"] == {"agreement": None, "kl": None, "support": 0}


def test_regression_fidelity_is_the_squared_difference_and_has_no_agreement():
    result = metrics.Fidelity("regression").compute(predictions=[1.0, 2.0], references=[2.0, 4.0], per_label=True)
    assert result == {"mse": 2.5, "per_label": {"0": {"mse": 2.5}}}
    with pytest.raises(ValueError, match="thresholds belong to multi-label"):
        metrics.Fidelity("regression").compute(predictions=[1.0], references=[2.0], thresholds=0.5)


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
@pytest.mark.parametrize("logits", [[[800.0, -800.0]], np.zeros((3, 4)), LOGITS])
def test_a_student_that_equals_its_teacher(task, logits):
    result = metrics.Fidelity(task).compute(predictions=logits, references=logits)
    assert result.pop("kl") == 0.0
    assert set(result.values()) == {1.0}


@pytest.mark.parametrize("task", ["multi_label", "single_label"])
def test_kl_stays_finite_for_logits_that_are_far_off(task):
    result = metrics.Fidelity(task).compute(predictions=[[900.0, -900.0]], references=[[-900.0, 900.0]])
    assert result["kl"] == pytest.approx({"multi_label": 1800.0, "single_label": 1800.0}[task])


@pytest.mark.parametrize(
    ("make", "predictions", "references", "message"),
    [
        (lambda: metrics.Fidelity("multi_label"), LOGITS, LOGITS[:, :1], "teacher's"),
        (lambda: metrics.Fidelity("single_label"), LOGITS, LOGITS * math.nan, r"references\[0, 0\] is nan; 12 of 12"),
    ],
)
def test_refused_in_one_line_that_names_what_was_found(make, predictions, references, message):
    with pytest.raises(ValueError, match=message) as caught:
        make().compute(predictions=predictions, references=references)
    assert "\n" not in str(caught.value)
