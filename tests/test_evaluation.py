"""Logits in the rows' order, decisions at thresholds, and figures that mean what the table says."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.metrics import average_precision_score, f1_score

from hf_distill import evaluation, report
from hf_distill.tasks import Task

sys.path.insert(0, str(Path(__file__).parent))
from models import VOCABULARY, tiny
from runs import words

LABELS = 3
MULTI = Task.MULTI_LABEL


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    time = report.Latency(1.0, 0.1, 8, 1, "cpu", 5)
    monkeypatch.setattr(report, "latencies", lambda models, inputs: dict.fromkeys(models, time))


def classifier(seed: int = 0, family: str = "bert"):
    return tiny(family, "ForSequenceClassification", seed, num_labels=LABELS)


def ragged(count: int, labels: bool = True, seed: int = 0) -> Dataset:
    """Rows of 2 to 9 tokens in no order of length, and 0/1 labels."""
    chance = np.random.default_rng(seed)
    ids = [chance.integers(4, VOCABULARY, chance.integers(2, 10)).tolist() for _ in range(count)]
    columns = {"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]}
    if labels:
        columns["labels"] = chance.integers(0, 2, (count, LABELS)).astype(float).tolist()
    return Dataset.from_dict(columns)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


# ---- logits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_predictions_are_those_of_one_row_at_a_time_in_the_rows_order(family):
    model, rows = classifier(family=family).train(), ragged(23)
    rows = rows.add_column("token_type_ids", [[0] * len(ids) for ids in rows["input_ids"]])  # DistilBERT takes none
    found = evaluation.predict(model, rows, words(), batch_size=4)
    assert model.training
    model.eval()
    with torch.no_grad():
        one_by_one = [model(input_ids=torch.tensor([row["input_ids"]])).logits[0].numpy() for row in rows]
    np.testing.assert_allclose(found, np.stack(one_by_one), atol=1e-5)
    assert found.dtype == np.float32
    assert np.ptp([len(ids) for ids in rows["input_ids"]]) > 4


def test_predictions_need_no_labels_and_draw_nothing_where_there_is_no_terminal(capfd):
    rows = ragged(5)
    with_labels = evaluation.predict(classifier(), rows, words())
    np.testing.assert_array_equal(
        with_labels, evaluation.predict(classifier(), rows.remove_columns("labels"), words())
    )
    assert capfd.readouterr() == ("", "")


# ---- decisions ----------------------------------------------------------------------------------------------------


def test_given_thresholds_lie_at_zero():
    logits = np.array([[0.0, 2.0], [1.0, -2.0]], dtype=np.float32)
    thresholds = np.array([0.5, sigmoid(2.0)])
    np.testing.assert_allclose(
        evaluation.decided(MULTI, logits, None, thresholds), [[0.0, 0.0], [1.0, -4.0]], atol=1e-6
    )


def test_without_thresholds_each_half_is_decided_by_the_other():
    # Label 0: the odd rows part at probability 0.3 (0.2 no, 0.4 yes), the even rows at 0.8 (0.7 no, 0.9 yes).
    probabilities = np.array([0.7, 0.2, 0.9, 0.4])
    labels = np.array([[0.0], [0.0], [1.0], [1.0]])
    logits = np.log(probabilities / (1 - probabilities))[:, None]
    moved = evaluation.decided(MULTI, logits, labels)
    decisions = (moved >= 0)[:, 0].tolist()
    assert decisions == [True, False, True, False]  # even rows at 0.3: both; odd rows at 0.8: neither
    expected = [logits[i, 0] - np.log(t / (1 - t)) for i, t in enumerate([0.3, 0.8, 0.3, 0.8])]
    np.testing.assert_allclose(moved[:, 0], expected, atol=1e-6)


def test_where_nothing_can_be_tuned_the_logits_stay():
    logits = np.array([[0.3, -0.2]])
    assert evaluation.decided(MULTI, logits, None) is logits
    assert evaluation.decided(MULTI, logits, np.array([[1.0, 0.0]])) is logits
    assert evaluation.decided(Task.SINGLE_LABEL, logits, np.array([0]), np.array([0.9, 0.9])) is logits


def test_thresholds_at_the_ends_stay_finite():
    moved = evaluation.decided(MULTI, np.zeros((1, 2)), None, np.array([0.0, 1.0]))
    assert np.isfinite(moved).all()
    assert moved[0, 0] > 0 > moved[0, 1]


def test_quality_ranks_the_logits_and_decides_at_thresholds():
    chance = np.random.default_rng(3)
    logits, labels = chance.normal(size=(30, 2)), chance.integers(0, 2, (30, 2))
    thresholds = np.array([0.3, 0.6])
    found = evaluation.quality(MULTI, logits, labels, thresholds)
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(labels, logits, average="macro"))
    given = sigmoid(logits) >= thresholds
    assert found["macro_f1"] == pytest.approx(f1_score(labels, given, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, given, average="micro"))
    crossed = evaluation.quality(MULTI, logits, labels)
    # shifted by another number in each half, the rows would be ranked otherwise
    assert crossed["mean_average_precision"] == found["mean_average_precision"]
    assert crossed["macro_f1"] != found["macro_f1"]


@pytest.mark.parametrize(
    ("task", "logits", "labels", "expected"),
    [
        (Task.SINGLE_LABEL, [[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]], [0, 1, 1], {"accuracy": 2 / 3}),
        (Task.REGRESSION, [[1.0], [2.0], [3.0]], [1.0, 2.0, 5.0], {"mse": 4 / 3}),
    ],
)
def test_quality_of_other_tasks(task, logits, labels, expected):
    found = evaluation.quality(task, np.array(logits), np.array(labels))
    assert {name: found[name] for name in expected} == pytest.approx(expected)


# ---- figures ------------------------------------------------------------------------------------------------------


def test_with_a_test_split_thresholds_come_from_validation():
    teacher, student = classifier(0), classifier(1, "distilbert")
    dataset = {"train": ragged(2), "validation": ragged(20, seed=1), "test": ragged(30, seed=2)}
    models = {"teacher": teacher, "distilled student": student}
    figures = evaluation.measure(models, dataset, MULTI, words())
    assert (figures.split, figures.thresholds_split) == ("test", "validation")
    labels = np.asarray(dataset["test"]["labels"])
    given = {}
    for fact, (name, model) in zip(figures.facts, models.items(), strict=True):
        on_validation = evaluation.predict(model, dataset["validation"], words())
        tuned = evaluation.metrics.tune_thresholds(on_validation, dataset["validation"]["labels"])
        np.testing.assert_array_equal(figures.thresholds[name], tuned)
        given[name] = sigmoid(evaluation.predict(model, dataset["test"], words()).astype(float)) >= tuned
        assert fact.metrics["macro_f1"] == pytest.approx(f1_score(labels, given[name], average="macro"))
        assert fact.parameters == model.num_parameters()
        assert fact.milliseconds == 1.0
    assert figures.facts[0].agreement is None
    assert figures.facts[1].agreement == pytest.approx((given["teacher"] == given["distilled student"]).mean())


def test_without_a_test_split_figures_are_cross_fitted_and_thresholds_are_of_all_rows():
    rows = ragged(40)
    figures = evaluation.measure({"teacher": classifier()}, {"validation": rows}, MULTI, words())
    assert figures.split == figures.thresholds_split == "validation"
    logits, labels = evaluation.predict(classifier(), rows, words()), np.asarray(rows["labels"])
    np.testing.assert_array_equal(figures.thresholds["teacher"], evaluation.metrics.tune_thresholds(logits, labels))
    assert figures.facts[0].metrics == pytest.approx(evaluation.quality(MULTI, logits, labels))
    all_rows = evaluation.quality(MULTI, logits, labels, figures.thresholds["teacher"])
    assert figures.facts[0].metrics["macro_f1"] < all_rows["macro_f1"]  # tuned on the very rows: too good


def test_a_teacher_with_its_labels_in_another_order_is_measured_in_the_datas_order():
    rows, order = ragged(20), [2, 0, 1]
    teacher, same = classifier(), classifier()
    with torch.no_grad():  # label i of the data is output order[i] of the teacher
        for parameter, source in zip(teacher.classifier.parameters(), same.classifier.parameters(), strict=True):
            parameter[torch.tensor(order)] = source
    dataset = {"validation": rows, "test": ragged(9, seed=4)}
    figures = evaluation.measure({"teacher": teacher, "student": same}, dataset, MULTI, words(), teacher_order=order)
    assert figures.facts[0].metrics == pytest.approx(figures.facts[1].metrics)
    assert figures.facts[1].agreement == 1.0
    plain = evaluation.measure({"teacher": teacher, "student": same}, dataset, MULTI, words())
    assert plain.facts[1].agreement < 1.0


def test_rows_without_labels_still_give_size_time_and_agreement():
    models = {"teacher": classifier(0), "student": classifier(1)}
    figures = evaluation.measure(models, {"validation": ragged(12, labels=False)}, MULTI, words())
    assert figures.thresholds == {}
    assert figures.thresholds_split is None
    assert [fact.metrics for fact in figures.facts] == [{}, {}]
    logits = [evaluation.predict(model, ragged(12, labels=False), words()) for model in models.values()]
    assert figures.facts[1].agreement == pytest.approx(((logits[0] > 0) == (logits[1] > 0)).mean())


def test_training_rows_alone_give_no_figures():
    assert evaluation.measure({"teacher": classifier()}, {"train": ragged(3)}, MULTI, words()).facts == []


@pytest.mark.parametrize(
    ("task", "expected"), [(MULTI, [[1, 0, 1]]), (Task.SINGLE_LABEL, [2]), (Task.REGRESSION, [0.5])]
)
def test_other_metrics_get_decisions(task, expected):
    class Recorder:
        def compute(self, predictions, references):
            self.seen = predictions
            return {"recorded": 0.25}

    module = Recorder()
    decisions = np.array([[0.5]]) if task is Task.REGRESSION else np.array([[0.1, -0.1, 0.4]])
    assert evaluation._further([module], task, decisions, np.array([0])) == {"recorded": 0.25}
    assert module.seen == expected


def test_examples_of_middle_length_are_timed():
    rows, models = ragged(40), {"student": classifier()}
    rows = rows.add_column("teacher_input_ids", [[1] * (1 + i % 3) for i in range(40)])  # no forward reads it
    inputs = evaluation._timed_inputs(rows, words(), models)
    lengths = sorted(len(ids) for ids in rows["input_ids"])
    assert sorted(inputs["attention_mask"].sum(1).tolist()) == lengths[16:24]
    assert set(inputs) == set(rows.column_names) - {"labels", "teacher_input_ids"}
    assert len(evaluation._timed_inputs(ragged(3), words(), models)["input_ids"]) == 3
