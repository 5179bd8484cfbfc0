"""A transfer set: labels are not read, passes are trainings one after another, and a killed run goes on."""

import pytest
import torch
from datasets import Dataset
from models import LABELS
from runs import QUICK, classifier, distillation, rows, same, weights
from transformers import TrainerCallback

from hf_distill import DistillationConfig, schemes
from hf_distill.losses import SoftTargets, TaskLoss
from hf_distill.teachers import CallableTeacher, NoisyTeacher, SelectiveTeacher


def plan(folder, losses=None, data=None, teacher=None, **settings):
    known = {name: settings.pop(name) for name in ("resume", "watch", "eval_dataset") if name in settings}
    args = DistillationConfig(str(folder), **(QUICK | {"max_steps": 4} | settings))
    data = rows() if data is None else data
    teacher = classifier(seed=1) if teacher is None else teacher
    return schemes.Plan(classifier(), teacher, losses, args, train_dataset=data, **known)


def test_labels_are_never_read(tmp_path):
    wrong = rows().map(lambda row: {"labels": (row["labels"] + 1) % LABELS})
    found = [
        weights(schemes.unlabelled(plan(tmp_path / str(number), data=data, max_steps=3)))
        for number, data in enumerate((rows(), wrong, rows(labels=False)))
    ]
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    student = classifier()
    data = rows(labels=False)
    distillation(tmp_path / "hand", student, classifier(seed=1), [SoftTargets(temperature=2.0)], data).train()
    assert same(found[0], weights(student))


def test_passes_are_trainings_one_after_another_that_hear_more_and_more(tmp_path):
    made = plan(tmp_path / "scheme")
    found = schemes.unlabelled(made, confidence=[0.6, 0.0])
    assert [stage.name for stage in made.stages] == ["pass_1_above_0.6", "pass_2_above_0"]
    assert [stage.steps for stage in made.stages] == [2, 2]
    student, data = classifier(), rows(labels=False)
    sure = SelectiveTeacher(classifier(seed=1).eval(), wrong=1.0, min_confidence=0.6)
    for number, teacher in enumerate((sure, classifier(seed=1))):
        distillation(tmp_path / str(number), student, teacher, [SoftTargets()], data, max_steps=2).train()
    assert same(weights(found), weights(student))


def test_labels_reach_nobody(tmp_path):
    seen = []

    def answer(batch):
        seen.append(set(batch.inputs))
        return classifier(seed=1)(**{name: batch.inputs[name] for name in ("input_ids", "attention_mask")}).logits

    schemes.unlabelled(plan(tmp_path, teacher=CallableTeacher(answer), max_steps=1))
    assert seen == [{"input_ids", "attention_mask"}]


class Killed(TrainerCallback):
    """At the first step of the second pass."""

    def on_step_end(self, args, state, control, **kwargs):
        if "pass_2" in args.output_dir and state.global_step == 1:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        if "pass_2" in args.output_dir and state.global_step == 1:
            raise KeyboardInterrupt


def test_killed_in_the_second_pass_it_goes_on_there(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1}
    expected = weights(schemes.unlabelled(plan(tmp_path / "whole", **settings), confidence=[0.6, 0.0]))
    killed = plan(tmp_path / "cut", watch=lambda trainer: trainer.add_callback(Killed()), **settings)
    with pytest.raises(KeyboardInterrupt):
        schemes.unlabelled(killed, confidence=[0.6, 0.0])
    trained = []
    resumed = plan(tmp_path / "cut", resume=True, watch=lambda t: trained.append(t.args.output_dir), **settings)
    found = weights(schemes.unlabelled(resumed, confidence=[0.6, 0.0]))
    assert same(found, expected)
    assert [name.rpartition("/")[2] for name in trained] == ["pass_2_above_0"]


def test_labels_where_they_are_known(tmp_path):
    labelled, others = rows(8), rows(12)
    data = schemes.combine(labelled, others)
    assert data["labels"][:] == [*labelled["labels"], *[-100] * 12]
    assert data["input_ids"][:] == [*labelled["input_ids"], *others["input_ids"]]
    losses = [TaskLoss(), SoftTargets()]
    student = schemes.unlabelled(plan(tmp_path / "scheme", losses, data, max_steps=3), labels="where known")
    by_hand = classifier()
    distillation(tmp_path / "hand", by_hand, classifier(seed=1), losses, data).train()
    assert same(weights(student), weights(by_hand))


def test_several_labels_and_tokens_are_ignored_one_by_one():
    several = Dataset.from_dict({"input_ids": [[3, 4], [5]], "labels": [[1.0, 0.0, 1.0]] * 2})
    others = Dataset.from_dict({"input_ids": [[6]], "labels": [[1.0, 1.0, 1.0]], "more": [1]})
    assert schemes.combine(several, others)["labels"][:] == [[1, 0, 1], [1, 0, 1], [-100, -100, -100]]
    tokens = Dataset.from_dict({"input_ids": [[3, 4], [5]], "labels": [[1, 0], [2]]})
    assert schemes.combine(tokens, others)["labels"][:] == [[1, 0], [2], [-100]]
    with pytest.raises(ValueError, match="the labelled rows have no labels, only input_ids"):
        schemes.combine(tokens.remove_columns("labels"), others)


@pytest.mark.parametrize(
    ("losses", "knobs", "said"),
    [
        ([TaskLoss(), SoftTargets()], {}, "unlabelled reads no labels, and TaskLoss needs them"),
        (None, {"confidence": [0.9, 1.0]}, r"confidence=\[0\.9, 1\.0\]\): name a probability below 1"),
        (None, {"confidence": []}, "name a probability below 1 for each pass"),
        (None, {"labels": "sometimes"}, "labels='sometimes'\\) is not known"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path, losses, knobs, said):
    with pytest.raises(ValueError, match=said):
        schemes.unlabelled(plan(tmp_path, losses), **knobs)
    assert not list(tmp_path.iterdir())


def test_rows_that_are_no_table_are_refused(tmp_path):
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return rows()[index]

    with pytest.raises(
        ValueError, match=r"labels can be taken out of a datasets\.Dataset, and train_dataset is a Rows"
    ):
        schemes.unlabelled(plan(tmp_path, data=Rows()))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_teacher_that_compares_itself_with_labels_is_refused_before_anything_is_trained(tmp_path, wrapped):
    teacher = SelectiveTeacher(classifier(seed=1).eval())
    teacher = NoisyTeacher(teacher, sigma=0.1) if wrapped else teacher
    message = r"train_dataset has no labels, only .*, and SelectiveTeacher\(wrong=0\.0\) asks for them"
    with pytest.raises(ValueError, match=message):
        schemes.unlabelled(plan(tmp_path, teacher=teacher))
    assert not list(tmp_path.iterdir())
    sure = SelectiveTeacher(classifier(seed=1).eval(), wrong=1.0, min_confidence=0.4)
    schemes.unlabelled(plan(tmp_path, teacher=sure))


def test_thresholds_are_a_list(tmp_path):
    with pytest.raises(ValueError, match=r"unlabelled\(confidence=0\.9\): name a probability below 1 for each pass"):
        schemes.unlabelled(plan(tmp_path), confidence=0.9)
