"""What a card says of a training without anybody measuring anything."""

import pytest
from runs import classifier, distillation, rows

from hf_distill.losses import SoftTargets, TaskLoss, linear
from hf_distill.teachers import EMATeacher, Nobody, PastSelf, PeerTeacher, SelectiveTeacher
from hf_distill.training_facts import training_facts

NAMES = {0: "anger", 1: "joy", 2: "fear"}


def test_the_trainer_knows_its_labels_losses_and_settings(tmp_path):
    student, teacher = classifier(id2label=NAMES), classifier(seed=1, id2label=NAMES)
    losses = [TaskLoss(weight=0.5), SoftTargets(temperature=2.0, weight=0.25)]
    trainer = distillation(tmp_path, student, teacher, losses, rows(12), gradient_accumulation_steps=2, max_steps=1)
    trainer.train()
    facts = training_facts(trainer)
    assert facts == trainer.own_facts()
    assert facts.labels == ["anger", "joy", "fear"]
    assert facts.student == "BertForSequenceClassification, 2 layers, width 32"
    assert facts.teacher == ["BertForSequenceClassification"]  # made here: it has no other name
    assert [(loss["name"], loss["weight"]) for loss in facts.losses] == [("TaskLoss", 0.5), ("SoftTargets", 0.25)]
    assert facts.losses[1]["config"]["temperature"] == 2.0
    assert (facts.task, facts.train_rows, facts.steps, facts.batch_size) == ("single_label", 12, 1, 8)
    assert (facts.precision, facts.device, facts.seed) == ("float32", "cpu", 42)
    assert {"hf-distill", "transformers", "torch", "datasets"} == set(facts.versions)


def test_a_weight_that_changes_is_put_in_words(tmp_path):
    losses = [TaskLoss(weight=linear(1.0, 0.0)), SoftTargets(weight=lambda progress: progress)]
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), losses, rows(4), max_steps=1)
    weights = [loss["weight"] for loss in training_facts(trainer).losses]
    assert weights == ["linear from 1 to 0", "a function of progress"]


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (lambda student: PastSelf(), "its own answers of an epoch before"),
        (lambda student: SelectiveTeacher(EMATeacher(student)), "the average of its own weights"),
        (lambda student: PeerTeacher(classifier(seed=1)), "models that learned beside it"),
        (lambda student: Nobody(), "the labels alone"),
    ],
)
def test_who_was_no_model_before_is_named_in_words(tmp_path, teacher, words):
    student = classifier()
    student.name_or_path = student.config.name_or_path = "someone/base"  # the average is a copy of it
    made = teacher(student)
    losses = [TaskLoss()] if isinstance(made, Nobody) else [TaskLoss(), SoftTargets()]
    trainer = distillation(tmp_path, student, made, losses, rows(4), max_steps=1)
    facts = training_facts(trainer)
    assert (facts.teacher, facts.taught_by) == (None, words)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert f"taught by {words}." in card
    assert f"It was taught by {words}. What is wrong there, or in the labels, is inherited." in card
    assert "distilled from" not in card
