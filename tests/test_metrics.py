"""Every value is worked out by hand or by a naive loop; the library under `metrics` is not asked a second time."""

import itertools
import json
import math
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from hf_distill import metrics

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


# ---- multi-label -------------------------------------------------------------------------------------------------


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


def test_one_label_is_not_taken_for_a_binary_problem():
    result = metrics.MultiLabelQuality().compute(predictions=[[1.0], [2.0], [-1.0]], references=[[1], [0], [0]])
    assert result["macro_f1"] == pytest.approx(2 / 3)  # the mean over both classes would be 0.583
    assert result["micro_f1"] == pytest.approx(2 / 3)
    assert result["mean_average_precision"] == pytest.approx(1 / 2)


def test_confident_scores_are_ranked_although_their_sigmoids_are_equal():
    result = metrics.MultiLabelQuality().compute(predictions=[[50.0], [60.0], [70.0]], references=[[0], [0], [1]])
    assert result["mean_average_precision"] == 1.0


@pytest.mark.parametrize("labels", [np.zeros((1, 3)), np.ones((1, 3)), [[1, 0, 1]]])
def test_multi_label_of_one_row_and_of_no_positive(labels):
    result = metrics.MultiLabelQuality().compute(predictions=np.zeros((1, 3)), references=labels)
    assert all(0 <= value <= 1 for value in result.values())
    assert result["mean_average_precision"] == (1.0 if np.any(labels) else 0.0)


# ---- single label and regression ----------------------------------------------------------------------------------


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


# ---- fidelity -----------------------------------------------------------------------------------------------------


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


# ---- thresholds ---------------------------------------------------------------------------------------------------


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


# ---- what is refused ----------------------------------------------------------------------------------------------

QUALITY = metrics.MultiLabelQuality


@pytest.mark.parametrize(
    ("make", "predictions", "references", "message"),
    [
        (QUALITY, [[0.0, math.nan]], [[0, 1]], r"predictions\[0, 1\] is nan; 1 of 2 values"),
        (QUALITY, [[0.0, math.inf]], [[0, 1]], r"predictions\[0, 1\] is inf"),
        (QUALITY, LOGITS, LABELS[:, :2], r"predictions are \(4, 3\), references \(4, 2\)"),
        (QUALITY, LOGITS, LABELS[:2], r"predictions are \(4, 3\), references \(2, 3\)"),
        (QUALITY, LOGITS, [0, 1, 2, 0], r"references \(4, 1\)"),
        (QUALITY, [[0.0, 1.0]], [[0, 2]], r"references\[0, 1\] is 2; multi-label references are 0 or 1"),
        (QUALITY, [[0.0, 1.0]], [[0, 0.5]], r"is 0\.5"),
        (QUALITY, np.zeros((0, 3)), np.zeros((0, 3)), r"shape \(0, 3\)"),
        (QUALITY, np.zeros((2, 3, 4)), np.zeros((2, 3)), r"shape \(2, 3, 4\)"),
        (QUALITY, [[1.0], [1.0, 2.0]], [[1], [0]], "one shape for every example"),
        (QUALITY, (LOGITS, np.zeros((2, 4, 8))), LABELS, r"tuple of 2 arrays; pass the logits alone"),
        (QUALITY, LOGITS, None, "references are missing"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [2], r"references\[0\] is 2; expected a class number from 0 to 1"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [-100], "is -100"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [0.5], r"is 0\.5"),
        (metrics.SingleLabelQuality, [[0.0, 1.0]], [[0, 1]], r"expected one class number an example, shape \(1,\)"),
        (metrics.RegressionQuality, [1.0, 2.0], [1.0], r"predictions are \(2, 1\), references \(1, 1\)"),
        (lambda: metrics.Fidelity("multi_label"), LOGITS, LOGITS[:, :1], "teacher's"),
        (lambda: metrics.Fidelity("single_label"), LOGITS, LOGITS * math.nan, r"references\[0, 0\] is nan; 12 of 12"),
    ],
)
def test_refused_in_one_line_that_names_what_was_found(make, predictions, references, message):
    with pytest.raises(ValueError, match=message) as caught:
        make().compute(predictions=predictions, references=references)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [([0.5, 0.5], r"shape \(2,\); expected one number, or one a label, shape \(3,\)"), (-0.7, "-0.7"), (1.5, "1.5")],
)
def test_thresholds_that_do_not_fit(thresholds, message):
    with pytest.raises(ValueError, match=message):
        metrics.MultiLabelQuality().compute(predictions=LOGITS, references=LABELS, thresholds=thresholds)


def test_tuning_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"logits are \(4, 3\), labels \(4, 2\)"):
        metrics.tune_thresholds(LOGITS, LABELS[:, :2])
    with pytest.raises(ValueError, match=r"labels\[0, 0\] is 3"):
        metrics.tune_thresholds(LOGITS, LABELS * 3)


def test_unknown_task():
    with pytest.raises(ValueError, match="no metrics for task 'tokens'"):
        metrics.for_task("tokens")
    with pytest.raises(ValueError, match="no metrics for task 'tokens'"):
        metrics.Fidelity("tokens")


# ---- as modules of evaluate ---------------------------------------------------------------------------------------


def test_batches_added_one_by_one_equal_one_call_and_nothing_is_left_behind():
    quality = metrics.MultiLabelQuality()
    whole = quality.compute(predictions=LOGITS, references=LABELS)
    quality.add_batch(predictions=LOGITS[:3], references=LABELS[:3])
    quality.add(prediction=LOGITS[3], reference=LABELS[3])
    assert quality.compute() == whole
    assert quality.compute(predictions=LOGITS, references=LABELS) == whole
    single = metrics.SingleLabelQuality()
    single.add(prediction=[0.0, 1.0], reference=1)
    assert single.compute()["accuracy"] == 1.0


def test_tensors_in_bfloat16_and_with_a_gradient():
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True)
    result = metrics.MultiLabelQuality().compute(predictions=logits, references=torch.tensor(LABELS))
    assert result["macro_f1"] == pytest.approx(2 / 3)


def test_for_task_and_load_give_ours_by_name():
    for task in ("multi_label", "single_label", "regression"):
        assert type(metrics.for_task(task)) is type(metrics.load(f"{task}_quality"))
        assert metrics.load("fidelity", task=task).task == task


SCRIPT = """
import datasets
import evaluate

class ShareOfZeros(evaluate.Metric):
    def _info(self):
        features = datasets.Features(dict.fromkeys(["predictions", "references"], datasets.Value("int64")))
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"zeros": sum(p == 0 for p in predictions) / len(predictions)}
"""
OFFLINE = """
import os, socket
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
import numpy as np
from hf_distill import metrics
for task in ("multi_label", "single_label", "regression"):
    x = np.array([[1.0, -1.0], [0.5, 2.0]])
    references = {"multi_label": [[1, 0], [0, 1]], "single_label": [0, 1], "regression": x}[task]
    metrics.for_task(task).compute(predictions=x, references=references)
    metrics.Fidelity(task).compute(predictions=x, references=x)
print("files:", sorted(os.listdir(os.environ["HF_HOME"])))
metric = metrics.load(os.environ["SCRIPT"])
print(metric.compute(predictions=[0, 1], references=[0, 0]))
"""


def test_offline_with_an_empty_cache_nothing_is_fetched_or_written_and_a_script_is_loaded_by_its_path(tmp_path):
    (tmp_path / "home").mkdir()
    script = tmp_path / "share_of_zeros.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "SCRIPT": str(script)}
    run = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "files: []" in run.stdout
    assert "{'zeros': 0.5}" in run.stdout


def test_a_metric_that_cannot_be_had_offline_is_one_clear_error(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        FileNotFoundError, match=r"'no_such_metric' is none of hf_distill's .*fidelity.*path of a metric"
    ):
        metrics.load("no_such_metric")
