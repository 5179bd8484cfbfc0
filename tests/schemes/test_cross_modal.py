"""Pairs of an image and a text: the student reads one side, the teacher the other, and nobody the labels."""

import pytest
import torch
from datasets import Dataset
from models import LABELS, tiny
from runs import QUICK, classifier, distillation, exactly, rows, same, weights, words

from hf_distill import DistillationConfig, schemes
from hf_distill.losses import RKDDistance, SoftTargets, TaskLoss
from hf_distill.teachers import CallableTeacher, EnsembleTeacher, OtherView, PairedCollator, SelectiveTeacher

FIELDS = {"num_labels": LABELS, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def image_model():
    return tiny("vit", "ForImageClassification", 0, **FIELDS)


def pairs(count=16, shift=0):
    images = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(0)).tolist()
    texts = [[3 + i] * (2 + i % 4) for i in range(count)]
    masks = [[1] * len(text) for text in texts]
    labels = [(i + shift) % LABELS for i in range(count)]
    columns = {"pixel_values": images, "teacher_input_ids": texts, "teacher_attention_mask": masks, "labels": labels}
    return Dataset.from_dict(columns)


def plan(folder, losses=None, data=None, collator=True, teacher=None, **more):
    args = DistillationConfig(str(folder), **QUICK)
    more |= {"data_collator": PairedCollator(None, words())} if collator else {}
    data = pairs() if data is None else data
    return schemes.Plan(image_model(), teacher or classifier(seed=1), losses, args, train_dataset=data, **more)


def test_it_is_a_training_on_the_teachers_answers_alone(tmp_path):
    teacher = classifier(seed=1)

    def answer(batch):
        ids, mask = batch.inputs["teacher_input_ids"], batch.inputs["teacher_attention_mask"]
        return teacher(input_ids=ids, attention_mask=mask).logits

    by_hand = image_model()
    hand = CallableTeacher(answer, input_names=["teacher_input_ids", "teacher_attention_mask"])
    data, collator = pairs().remove_columns("labels"), PairedCollator(None, words())
    distillation(tmp_path / "hand", by_hand, hand, [SoftTargets()], data, data_collator=collator).train()
    for number, shift in enumerate((0, 1)):  # other labels change nothing
        made = plan(tmp_path / str(number), data=pairs(shift=shift), eval_dataset=pairs(6))
        assert same(weights(schemes.cross_modal(made)), weights(by_hand))
        assert "accuracy" not in made.stages[0].metrics
        assert made.stages[0].teacher == "OtherView(BertForSequenceClassification)"


def test_the_teacher_reads_its_side_and_no_label(tmp_path):
    seen = []

    def answer(batch):
        seen.append(set(batch.inputs))
        return torch.zeros(batch.rows, LABELS)

    given = CallableTeacher(answer, input_names=["input_ids", "attention_mask"])
    args = DistillationConfig(str(tmp_path), **(QUICK | {"max_steps": 1}))
    data = {"train_dataset": pairs(), "data_collator": PairedCollator(None, words())}
    schemes.cross_modal(schemes.Plan(image_model(), given, None, args, **data))
    assert seen == [{"input_ids", "attention_mask"}]


def test_finished_it_is_not_trained_again(tmp_path):
    expected = weights(schemes.cross_modal(plan(tmp_path)))
    again = plan(tmp_path, resume=True, watch=lambda trainer: pytest.fail("trained again"))
    assert same(weights(schemes.cross_modal(again)), expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"losses": [TaskLoss(), SoftTargets()]}, "cross_modal reads no labels, and TaskLoss needs them"),
        ({"collator": False}, r"Pass data_collator=teachers\.PairedCollator"),
        ({"data": rows()}, "has no column that begins with teacher_"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path, given, said):
    with pytest.raises(ValueError, match=said):
        schemes.cross_modal(plan(tmp_path, **given))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("inside", "around", "name"),
    [
        (
            lambda view: SelectiveTeacher(view, wrong=1.0, min_confidence=0.4),
            lambda model: OtherView(SelectiveTeacher(model, wrong=1.0, min_confidence=0.4)),
            "SelectiveTeacher(OtherView(BertForSequenceClassification), wrong=1.0, min_confidence=0.4)",
        ),
        (
            lambda view: EnsembleTeacher([view, OtherView(classifier(seed=2))]),
            lambda model: OtherView(EnsembleTeacher([model, classifier(seed=2)])),
            "EnsembleTeacher(OtherView(BertForSequenceClassification), OtherView(BertForSequenceClassification))",
        ),
    ],
)
def test_another_view_inside_of_the_teacher_is_enough(tmp_path, inside, around, name):
    made = plan(tmp_path / "inside", teacher=inside(OtherView(classifier(seed=1))))
    student = schemes.cross_modal(made)
    assert made.stages[0].teacher == name
    expected = schemes.cross_modal(plan(tmp_path / "around", teacher=around(classifier(seed=1))))
    assert same(weights(student), weights(expected))


def test_a_prefix_beside_that_of_a_view_is_refused(tmp_path):
    message = (
        "cross_modal: prefix='x_' would change nothing, because the teacher's OtherView has its own. Leave it out."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.cross_modal(plan(tmp_path, teacher=OtherView(classifier(seed=1))), prefix="x_")


def test_another_prefix_is_read(tmp_path):
    data = pairs().rename_columns({f"teacher_{name}": f"x_{name}" for name in ("input_ids", "attention_mask")})
    found = plan(tmp_path / "x", data=data, data_collator=PairedCollator(None, words(), "x_"), collator=False)
    expected = weights(schemes.cross_modal(plan(tmp_path / "teacher")))
    assert same(weights(schemes.cross_modal(found, prefix="x_")), expected)


def test_whole_examples_may_be_compared(tmp_path):
    student = schemes.cross_modal(plan(tmp_path, [RKDDistance(pooling="mean")]))
    assert not same(weights(student), weights(image_model()))
