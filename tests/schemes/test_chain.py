"""Assistants between teacher and student, each hop from the best checkpoint of the one before."""

import json

import pytest
from runs import distillation, rows, same, weights

from hf_distill import schemes, students
from hf_distill.signals import LOGITS
from hf_distill.teachers import Teacher

from .arranged import check_resumed, deep, planned


@pytest.mark.parametrize(("sizes", "expected"), [(1, [4]), (2, [5, 3]), ([6, 3], [6, 3])])
def test_the_hops_by_hand(tmp_path, sizes, expected):
    student = schemes.chain(planned(tmp_path / "scheme", deep(1), deep(7, seed=1)), sizes)
    whole = teacher = deep(7, seed=1)
    for size in expected:
        kept = [round((i + 1) * 7 / size) - 1 for i in range(size)]
        trainer = distillation(tmp_path / str(size), students.keep_layers(whole, kept), teacher)
        trainer.train()
        teacher = trainer.model.eval()
    last = distillation(tmp_path / "last", deep(1), teacher)
    last.train()
    assert same(weights(student), weights(last.model))
    stages = json.loads((tmp_path / "scheme" / "stages.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == [*(f"assistant_{size}" for size in expected), "student"]
    assert [stage["teacher"] for stage in stages][1:] == [f"assistant_{size}" for size in expected]


EVALUATED = {"eval_dataset": rows(8), "max_steps": -1, "num_train_epochs": 3, "learning_rate": 0.3}


@pytest.mark.parametrize(
    ("settings", "metric", "best"),
    [
        ({}, "eval_loss", min),
        ({"metric_for_best_model": "agreement", "greater_is_better": True}, "eval_agreement", max),
        ({"eval_strategy": "steps", "eval_steps": 2}, "eval_loss", min),
    ],
)
def test_a_hop_starts_from_the_best_checkpoint(tmp_path, settings, metric, best):
    watched = []
    student = schemes.chain(planned(tmp_path, deep(1), deep(4, seed=1), watch=watched.append, **EVALUATED, **settings))
    assert len(watched) == 2
    for trainer in watched:
        measured = [entry[metric] for entry in trainer.state.log_history if metric in entry]
        *while_training, at_the_end = measured
        assert len(while_training) == (3 if "eval_steps" not in settings else 6)
        assert at_the_end == pytest.approx(best(while_training), abs=1e-6)
    losses = [entry["eval_loss"] for entry in watched[0].state.log_history if "eval_loss" in entry]
    assert settings or losses[2] > min(losses)  # the last was not the best, else nothing was shown
    assert watched[1].teacher.model is watched[0].model
    assert student is watched[1].model


def test_cut_off_in_the_middle_it_goes_on_from_the_best(tmp_path):
    def run(folder, **settings):
        settings = EVALUATED | settings
        return schemes.chain(planned(folder, deep(1), deep(4, seed=1), **settings), [3, 2])

    check_resumed(tmp_path, run, after=12 + 10)


class Remembered(Teacher):
    def observe(self, batch):
        return {LOGITS: batch.labels}


REFUSED = [
    (0, "0 assistants do not fit: between the teacher's 4 blocks and the student's 2 there is room for 1"),
    (2, "2 assistants do not fit"),
    ([], "must go down"),
    ([4], r"sizes=\[4\] must go down from the teacher's 4 blocks to the student's 2"),
    ([3, 3], "must go down"),
    ([2], "must go down"),
]


@pytest.mark.parametrize(("sizes", "message"), REFUSED)
def test_sizes_that_are_not_between_are_refused(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        schemes.chain(planned(tmp_path, deep(2), deep(4, seed=1)), sizes)


def test_a_teacher_without_blocks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="blocks, and a Remembered holds no model"):
        schemes.chain(planned(tmp_path, deep(1), Remembered()))
    with pytest.raises(ValueError, match="chain needs a teacher"):
        schemes.chain(planned(tmp_path, deep(1)))


@pytest.mark.parametrize("name", ["chain", "iterated"])
def test_a_teacher_with_adapters_is_refused(tmp_path, name):
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    teacher = get_peft_model(deep(4, seed=1), lora).eval()
    with pytest.raises(ValueError, match=r"the teacher is a PeftModelForSequenceClassification, .*merge_and_unload"):
        getattr(schemes, name)(planned(tmp_path, deep(2), teacher))
    with pytest.raises(ValueError, match=r"BertForSequenceClassification holds PEFT's adapters"):
        students.keep_layers(teacher.get_base_model(), [0, 3])
    assert not list(tmp_path.iterdir())
