"""Specialists are trained for the classes that a generalist confuses, and teach a student together with it."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from datasets import Dataset, concatenate_datasets
from models import VOCABULARY
from runs import classifier, exactly, same, weights

from hf_distill import schemes
from hf_distill.losses import SoftTargets
from hf_distill.schemes.specialists import _rows, _specialist, confusable
from hf_distill.teachers import SpecialistTeacher

from .arranged import SAVING, Stop, plan

LABELS = 6


def rows(count=48):
    """The first token says which of six classes it is; classes 2k and 2k + 1 are told apart by the second alone."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(20, VOCABULARY, (count, 6), generator=generator)
    labels = torch.arange(count) % LABELS
    ids[:, 0], ids[:, 1] = 3 + labels // 2, 10 + labels % 2
    mask = torch.ones_like(ids).tolist()
    return Dataset.from_dict({"input_ids": ids.tolist(), "attention_mask": mask, "labels": labels.tolist()})


def planned(folder, **settings):
    generalist = classifier(seed=1, num_labels=LABELS).eval()
    settings = {"data": rows(), "losses": [SoftTargets()], **settings}
    return plan(folder, classifier(num_labels=LABELS), settings.pop("teacher", generalist), **settings)


def test_classes_that_are_predicted_together_are_a_cluster():
    """Pairs share their probability by turns: the columns of the correlation of such a pair are alike."""
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 0.3, (600, 6))
    groups = [[0, 3], [1, 5], [2]]
    for row in range(600):
        logits[row, groups[row % 3]] += 4
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert confusable(p, 4) == [[0, 3], [1, 5]]  # 2 and 4 are alone


def test_classes_that_are_rarely_said_are_found_too():
    """The covariances of the last two pairs are next to nothing: by them the four are alike."""
    draw = np.random.default_rng(0)
    size = [1, 1, 1, 1, 0.01, 0.01]
    pairs = [scale * (draw.random((400, 1)) + 0.3 * draw.random((400, 2))) for scale in size]
    p = np.concatenate([*pairs, np.full((400, 1), 0.2)], axis=1)  # and a class that never varies
    assert confusable(p, 7) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]


def test_half_of_the_rows_are_special_and_how_much_too_often_is_known(tmp_path):
    made = planned(tmp_path)
    found, oversampling = _rows(made, [1, 4], LABELS, seed=0)
    assert found["labels"].count(2) == 16
    assert (found["labels"].count(0), found["labels"].count(1)) == (8, 8)
    assert oversampling == 32 / 16  # a special row is seen 1 / 16 * 16 times, another one 16 / 32
    original = {
        tuple(ids): label
        for ids, label in zip(made.train_dataset["input_ids"], made.train_dataset["labels"], strict=True)
    }
    for ids, label in zip(found["input_ids"], found["labels"], strict=True):
        assert label == {1: 0, 4: 1}.get(original[tuple(ids)], 2)
    many, oversampling = _rows(made, [0, 1, 2, 3], LABELS, seed=0)
    assert (len(many), many["labels"].count(4), oversampling) == (32, 16, 0.5)


def test_rows_without_a_label_are_of_no_class(tmp_path):
    """-100 counted from the end of 120 classes would be class 20."""
    unlabelled = rows(12).map(lambda row: {"labels": -100})
    made = planned(tmp_path, data=concatenate_datasets([unlabelled, rows(24), unlabelled]))
    known = {tuple(ids): label for ids, label in zip(rows(24)["input_ids"], rows(24)["labels"], strict=True)}
    for labels in LABELS, 120:
        found, oversampling = _rows(made, [20, 4] if labels == 120 else [1, 4], labels, seed=0)
        new = {4: 1} if labels == 120 else {1: 0, 4: 1}
        assert found["labels"][:] == [new.get(known[tuple(ids)], 2) for ids in found["input_ids"]]
        assert (len(found), oversampling) == (8 * len(new), (24 - 4 * len(new)) / (4 * len(new)))
    with pytest.raises(ValueError, match=r"^specialists: all 12 rows of train_dataset have a negative label"):
        schemes.specialists(planned(tmp_path, data=unlabelled))


def test_a_label_that_the_generalist_does_not_know_is_refused(tmp_path):
    strange = rows(12).map(lambda row, number: {"labels": LABELS if number == 7 else row["labels"]}, with_indices=True)
    message = f"specialists: train_dataset has the label {LABELS}, and the generalist knows 0 to {LABELS - 1}."
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.specialists.rehearse(planned(tmp_path, data=strange), count=2)


@pytest.mark.parametrize("there", [[2, 3, 4, 5], [0, 1]])
def test_a_rehearsal_needs_no_row_of_any_class(tmp_path, there):
    """Labels 2 to 5 of 6, and no row of another than classes 0 and 1."""
    some = rows().filter(lambda row: row["labels"] in there)
    schemes.specialists.rehearse(planned(tmp_path, data=some), count=2)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("there", "first", "of"), [([2, 3, 4, 5], [4, 5], 0), ([0, 1], [0, 2], 16)])
def test_a_cluster_of_no_row_or_of_all_is_refused_before_anything_trains(tmp_path, monkeypatch, there, first, of):
    """The first cluster has rows that are its own and others, the second has not."""
    some = rows().filter(lambda row: row["labels"] in there)
    monkeypatch.setattr(sys.modules[confusable.__module__], "confusable", lambda *_: [first, [0, 1]])
    trained = []
    made = planned(tmp_path, data=some, watch=trained.append)
    message = (
        f"specialists: {of} of {len(some)} rows with a label are of the classes [0, 1], and a specialist needs some "
        "that are and some that are not. Pass another count."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.specialists(made, count=2)
    assert not trained


def test_a_specialist_starts_as_the_generalist():
    generalist = classifier(seed=1, num_labels=LABELS).eval()
    special = _specialist(generalist, [4, 1], 3.0)
    inputs = {"input_ids": torch.tensor([[5, 6, 7]])}
    with torch.no_grad():
        whole, own = generalist(**inputs).logits[0], special(**inputs).logits[0]
    torch.testing.assert_close(own, torch.stack([whole[4], whole[1], whole[[0, 2, 3, 5]].mean()]))
    assert special.config.id2label == {0: "LABEL_4", 1: "LABEL_1", 2: "dustbin"}
    assert (special.config.special_classes, special.config.special_oversampling) == ([4, 1], 3.0)
    assert generalist.config.num_labels == LABELS
    assert special(**inputs, labels=torch.tensor([2])).loss.isfinite()


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_the_folders_hold_the_whole_team(tmp_path):
    made = planned(tmp_path, eval_dataset=rows(24), compute_metrics=accuracy)
    schemes.specialists(made, count=3)
    told = json.loads((tmp_path / "stages.json").read_text())["stages"]
    special = [stage["name"] for stage in told if stage["name"].startswith("specialist_")]
    assert [stage["name"] for stage in told] == [*special, "generalist", "together", "student"]
    assert special
    assert told[-1]["teacher"].startswith("SpecialistTeacher(")
    assert all("accuracy" in stage["metrics"] for stage in told[-3:])
    team = SpecialistTeacher([classifier(seed=1, num_labels=LABELS), *(str(tmp_path / name) for name in special)])
    clusters = json.loads(json.dumps(Dataset.load_from_disk(str(tmp_path / "clusters"))["classes"][:]))
    assert team.subsets == clusters
    for subset, by in zip(team.subsets, team.oversampling, strict=True):
        there = sum(label in subset for label in rows()["labels"])
        assert by == pytest.approx((48 - there) / there)
        assert math.isfinite(by)


def test_specialists_tell_apart_what_the_generalist_does_not(tmp_path):
    """The generalist knows the pairs and cannot tell within; together they are nearer to the labels."""
    from runs import distillation

    from hf_distill.losses import TaskLoss
    from hf_distill.teachers import Nobody

    pairs = rows(96).map(lambda row: {"labels": 2 * (row["labels"] // 2) + (sum(row["input_ids"][2:]) % 2)})
    trained = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
    generalist = classifier(seed=1, num_labels=LABELS)
    distillation(tmp_path / "generalist", generalist, Nobody(), [TaskLoss()], pairs, **trained).train()
    made = planned(tmp_path / "scheme", teacher=generalist.eval(), data=rows(96), eval_dataset=rows(96),
                   compute_metrics=accuracy, **trained)  # fmt: skip
    schemes.specialists(made, count=3)
    told = json.loads((tmp_path / "scheme" / "stages.json").read_text())["stages"]
    found = {stage["name"]: stage["metrics"].get("accuracy") for stage in told}
    assert found["generalist"] < 0.8
    assert found["together"] > found["generalist"] + 0.15


@pytest.mark.parametrize("after", [1, 4, 7])
def test_cut_off_and_resumed_it_ends_the_same(tmp_path, after):
    whole = schemes.specialists(planned(tmp_path / "whole", **SAVING))
    stop = Stop(after)
    with pytest.raises(KeyboardInterrupt):
        schemes.specialists(planned(tmp_path / "cut", watch=lambda trainer: trainer.add_callback(stop), **SAVING))
    assert same(weights(whole), weights(schemes.specialists(planned(tmp_path / "cut", resume=True, **SAVING))))


@pytest.mark.parametrize("count", [0, 1, 6])
def test_a_count_that_does_not_fit(tmp_path, count):
    message = f"specialists: count is {count}; it must be at least 2, and below the 6 classes."
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.specialists(planned(tmp_path), count=count)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_k_means_does_not_take(tmp_path, seed):
    message = f"specialists: seed is {seed}; it must be at least 0, and below 2**32."
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.specialists.rehearse(planned(tmp_path), seed=seed)


def test_other_tasks_and_rows_without_labels_are_refused(tmp_path):
    several = {"problem_type": "multi_label_classification", "num_labels": LABELS}
    made = plan(tmp_path, classifier(**several), classifier(seed=1, **several).eval(), data=rows())
    with pytest.raises(
        ValueError, match=r"^specialists: they are for one label an example, and the teacher's task is"
    ):
        schemes.specialists(made)
    made = planned(tmp_path, data=rows().remove_columns("labels"))
    with pytest.raises(
        ValueError, match=r"specialists: train_dataset must be a datasets\.Dataset with a column labels"
    ):
        schemes.specialists(made)
