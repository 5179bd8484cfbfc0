"""Several teachers' averaged answers and their votes; the losses themselves are tested where they are."""

import json

import pytest
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill import schemes
from hf_distill.losses import RelativeSimilarity, SoftTargets, TaskLoss
from hf_distill.teachers import EnsembleTeacher

from .arranged import SAVING, Stop, plan


def ensemble(**knobs):
    return EnsembleTeacher([classifier(seed=seed).eval() for seed in (1, 2, 3)], **knobs)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_it_is_the_labels_the_averaged_answers_and_the_triplets(tmp_path):
    made = plan(tmp_path / "scheme", teacher=ensemble(weights=[1, 2, 1]))
    student = schemes.multi_teacher_triplet(made, temperature=3.0, alpha=0.5, beta=2.0, margin=0.2, pooling="mean")
    losses = [TaskLoss(), SoftTargets(3.0, weight=0.5), RelativeSimilarity(0.2, "mean", weight=2.0)]
    teacher = ensemble(weights=[1, 2, 1], mean="probabilities", temperature=3.0)
    alone = distillation(tmp_path / "alone", classifier(), teacher, losses)
    alone.train()
    assert same(weights(student), weights(alone.model))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([SoftTargets()], ["SoftTargets", "RelativeSimilarity"]),
        ([TaskLoss(), RelativeSimilarity(0.3)], ["TaskLoss", "RelativeSimilarity"]),
    ],
)
def test_named_losses_stand_for_labels_and_answers(tmp_path, given, expected):
    made = plan(tmp_path, teacher=ensemble(), losses=given, eval_dataset=rows(8), compute_metrics=accuracy)
    schemes.multi_teacher_triplet(made)
    teachers, student = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert teachers["name"] == "teachers"
    assert set(teachers["metrics"]) == {"accuracy"}
    assert [loss.partition("(")[0] for loss in student["losses"]] == expected


def test_cut_off_and_resumed_it_ends_the_same(tmp_path):
    whole = schemes.multi_teacher_triplet(plan(tmp_path / "whole", teacher=ensemble(), **SAVING))
    stop = Stop(2)
    cut = plan(tmp_path / "cut", teacher=ensemble(), watch=lambda trainer: trainer.add_callback(stop), **SAVING)
    with pytest.raises(KeyboardInterrupt):
        schemes.multi_teacher_triplet(cut)
    again = schemes.multi_teacher_triplet(plan(tmp_path / "cut", teacher=ensemble(), resume=True, **SAVING))
    assert same(weights(whole), weights(again))


@pytest.mark.parametrize("knobs", [{}, {"temperature": 3.0}])
def test_the_temperature_of_the_ensemble_holds(tmp_path, knobs):
    taken = []
    made = plan(tmp_path, teacher=ensemble(mean="probabilities", temperature=3.0), watch=taken.append)
    schemes.multi_teacher_triplet(made, **knobs)
    assert (taken[0].teacher.temperature, [*taken[0].objective][1].temperature) == (3.0, 3.0)


WHO = "multi_teacher_triplet: "
IDLE = [
    (
        {"losses": [SoftTargets()]},
        {"alpha": 1.0},
        "alpha=1.0 would change nothing, because the plan's losses stand for the soft targets. Leave it out.",
    ),
    (
        {"losses": [TaskLoss(), RelativeSimilarity(0.3)]},
        {"beta": 0.0, "margin": 0.1, "pooling": "first"},
        "beta=0.0, margin=0.1, pooling='first' would change nothing, because RelativeSimilarity is among the plan's "
        "losses. Leave them out.",
    ),
    (
        {"teacher": {"mean": "probabilities", "temperature": 4.0}},
        {"temperature": 2.0},
        "temperature is 2.0, and the ensemble's 4.0. Leave one of the two out.",
    ),
]


@pytest.mark.parametrize(("given", "knobs", "message"), IDLE)
def test_knobs_that_change_nothing_are_refused(tmp_path, given, knobs, message):
    made = plan(tmp_path, teacher=ensemble(**given.get("teacher", {})), losses=given.get("losses"))
    with pytest.raises(ValueError, match=exactly(WHO + message)):
        schemes.multi_teacher_triplet(made, **knobs)
    assert not list(tmp_path.iterdir())


def test_an_ensemble_that_averages_logits_is_refused(tmp_path):
    message = 'multi_teacher_triplet averages probabilities, and the ensemble says mean="logits". Leave mean out.'
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.multi_teacher_triplet(plan(tmp_path, teacher=ensemble(mean="logits")))


def test_one_teacher_is_refused(tmp_path):
    message = (
        "multi_teacher_triplet needs several teachers, and the plan's is ModelTeacher. Pass "
        "teacher=EnsembleTeacher([...])."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.multi_teacher_triplet(plan(tmp_path))
