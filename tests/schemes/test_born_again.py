"""Each generation is taught by the one before it."""

import json

import pytest
import torch
from runs import classifier, distillation, exactly, rows, same, weights, words

from hf_distill import schemes
from hf_distill.losses import CWTM, SoftTargets, TaskLoss
from hf_distill.teachers import EnsembleTeacher, OtherView, PairedCollator, PermutedTeacher

from .arranged import SAVING, Stop, plan, planned


def test_generations_by_hand(tmp_path):
    last = schemes.born_again(plan(tmp_path / "scheme"), generations=3)
    teacher = classifier(seed=1).eval()
    for number in range(3):
        trainer = distillation(tmp_path / str(number), classifier(), teacher)
        trainer.train()
        teacher = trainer.model.eval()
    assert same(weights(last), weights(teacher))


def test_without_a_teacher_the_first_generation_learns_from_the_labels(tmp_path):
    from runs import QUICK

    from hf_distill import DistillationConfig, losses
    from hf_distill.teachers import Nobody

    args = DistillationConfig(str(tmp_path / "scheme"), **QUICK)
    first = schemes.born_again(schemes.Plan(classifier(), args=args, train_dataset=rows()), generations=1)
    alone = distillation(tmp_path / "alone", classifier(), Nobody(), [losses.TaskLoss()])
    alone.train()
    assert same(weights(first), weights(alone.model))


@pytest.mark.parametrize("generations", [0, -1])
def test_no_generation_is_refused(tmp_path, generations):
    with pytest.raises(
        ValueError, match=f"born_again: generations is {generations}; it must be a whole number, at least 1."
    ):
        schemes.born_again(plan(tmp_path), generations=generations)


def by_hand(folder, losses=None, wrap=lambda teacher: teacher, generations=2):
    teacher, born = classifier(seed=1).eval(), []
    for number in range(generations):
        trainer = distillation(folder / str(number), classifier(), wrap(teacher), losses)
        trainer.train()
        teacher = trainer.model.eval()
        born.append(teacher)
    return born


def test_all_generations_teach_one_more_and_are_measured_together(tmp_path):
    def accuracy(prediction):
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    made = plan(tmp_path / "scheme", eval_dataset=rows(18), compute_metrics=accuracy)
    student = schemes.born_again(made, generations=2, ensemble=True)
    born = by_hand(tmp_path)
    alone = distillation(tmp_path / "alone", classifier(), EnsembleTeacher(born))
    alone.train()
    assert same(weights(student), weights(alone.model))
    stages = json.loads((tmp_path / "scheme" / "stages.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["generation_1", "generation_2", "ensemble", "student_of_ensemble"]
    assert [stage["teacher"] for stage in stages[1:]] == [
        "generation_1",
        *2 * ["EnsembleTeacher(generation_1, generation_2)"],
    ]
    inputs = {name: torch.tensor(rows(18)[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        chosen = sum(model(**inputs).logits for model in born).argmax(-1)
    right = (chosen == torch.tensor(rows(18)["labels"])).float().mean().item()
    assert stages[2]["metrics"] == {"accuracy": pytest.approx(right)}
    folders = [str(tmp_path / "scheme" / f"generation_{number}") for number in (1, 2)]
    for loaded, model in zip(EnsembleTeacher(folders).members, born, strict=True):
        assert same(weights(loaded.model), weights(model))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (None, [CWTM()]),
        ([TaskLoss(weight=0.3), SoftTargets(temperature=1.0)], [CWTM(weight=0.3), SoftTargets(temperature=1.0)]),
    ],
)
def test_the_labels_are_weighted_by_the_teacher(tmp_path, losses, expected):
    last = schemes.born_again(plan(tmp_path / "scheme", losses=losses), generations=2, weighting="cwtm")
    assert same(weights(last), weights(by_hand(tmp_path, expected)[-1]))


def test_what_the_teacher_thinks_of_other_classes_is_shuffled(tmp_path):
    last = schemes.born_again(plan(tmp_path / "scheme"), generations=2, weighting="dkpp")
    assert same(weights(last), weights(by_hand(tmp_path, wrap=PermutedTeacher)[-1]))


def test_a_teacher_of_another_view_is_shuffled_inside_of_it(tmp_path):
    texts = [[3 + row, 4, *range(5, 5 + row % 3)] for row in range(16)]
    data = rows(teacher_input_ids=texts, teacher_attention_mask=[[1] * len(text) for text in texts])
    paired = {"data": data, "data_collator": PairedCollator(words(), words())}
    made = planned(tmp_path / "scheme", classifier(), OtherView(classifier(seed=1)), **paired)
    found = schemes.born_again(made, generations=1, weighting="dkpp")
    by_hand = distillation(tmp_path / "hand", classifier(), OtherView(PermutedTeacher(classifier(seed=1))), **paired)
    by_hand.train()
    assert same(weights(found), weights(by_hand.model))


@pytest.mark.parametrize("after", [2, 4, 7])
def test_cut_off_and_resumed_it_ends_the_same(tmp_path, after):
    knobs = {"generations": 2, "ensemble": True, "weighting": "dkpp"}
    whole = schemes.born_again(plan(tmp_path / "whole", **SAVING), **knobs)
    stop = Stop(after)
    with pytest.raises(KeyboardInterrupt):
        schemes.born_again(plan(tmp_path / "cut", watch=lambda trainer: trainer.add_callback(stop), **SAVING), **knobs)
    again = schemes.born_again(plan(tmp_path / "cut", resume=True, **SAVING), **knobs)
    assert same(weights(whole), weights(again))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"generations": 1, "ensemble": True},
            "one generation is no ensemble. Pass generations=2 or more, or ensemble=False.",
        ),
        ({"weighting": "sure"}, 'weighting=\'sure\' is not known; use "none", "cwtm" or "dkpp".'),
        (
            {"weighting": "cwtm", "losses": [SoftTargets()]},
            'weighting="cwtm" weighs the labels, and the losses look at none. Add TaskLoss.',
        ),
    ],
)
def test_what_cannot_be_born_again(tmp_path, knobs, message):
    own = {name: knobs.pop(name) for name in ("losses",) if name in knobs}
    with pytest.raises(ValueError, match=exactly(f"born_again: {message}")):
        schemes.born_again(plan(tmp_path, **own), **knobs)
