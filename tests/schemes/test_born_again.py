"""Each generation is taught by the one before it."""

import json

import pytest
import torch
from runs import classifier, distillation, exactly, rows, same, weights, words

from hf_distill import schemes
from hf_distill.losses import CWTM, SoftTargets, TaskLoss
from hf_distill.teachers import EnsembleTeacher, OtherView, PairedCollator, PermutedTeacher

from .arranged import SAVING, Stop, plan, planned

PAPER = [TaskLoss(), SoftTargets(temperature=1.0)]
SEED = 42  # of the Trainer, where none is given


def test_generations_by_hand(tmp_path):
    last = schemes.born_again(plan(tmp_path / "scheme"), generations=3)
    assert same(weights(last), weights(by_hand(tmp_path, generations=3)[-1]))


def test_the_losses_of_the_plan_win_over_the_papers(tmp_path):
    own = [TaskLoss(weight=0.5), SoftTargets(temperature=2.0, weight=0.5)]
    last = schemes.born_again(plan(tmp_path / "scheme", losses=own), generations=2)
    assert same(weights(last), weights(by_hand(tmp_path, own)[-1]))


def test_soft_targets_of_several_labels_count_as_the_labels_do(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(schemes.Plan, "stage", lambda plan, name, student, teacher, losses, **_: seen.append(losses))
    several = classifier(problem_type="multi_label_classification", num_labels=4)
    schemes.born_again.__wrapped__(planned(tmp_path, several, classifier(seed=1)), generations=1)
    assert [each.config for each in seen[0]] == [each.config for each in PAPER]
    assert [each.weight for each in seen[0]] == [1.0, 0.25]


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


def by_hand(folder, losses=PAPER, wrap=lambda teacher: teacher, generations=2):
    teacher, born = classifier(seed=1).eval(), []
    for number in range(generations):
        trainer = distillation(folder / str(number), classifier(), wrap(teacher), losses, seed=SEED + number)
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
    alone = distillation(tmp_path / "alone", classifier(), EnsembleTeacher(born), PAPER, seed=SEED + 2)
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
    by_hand = distillation(
        tmp_path / "hand", classifier(), OtherView(PermutedTeacher(classifier(seed=1))), PAPER, **paired
    )
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
