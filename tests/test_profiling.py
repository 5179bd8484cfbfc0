"""Where a step's time goes: in the right row, only while somebody looks, and written down."""

import io
import json

import pytest
import torch
from rich.console import Console
from runs import classifier, distillation, rows
from transformers import TrainerCallback

from hf_distill import profiling
from hf_distill.losses import Loss, SoftTargets
from hf_distill.profiling import PARTS, Profile
from hf_distill.signals import LOGITS

now = 0.0


def nap(*_):
    global now
    now += 1


@pytest.fixture
def clock(monkeypatch):
    """Time passes in `nap` only."""
    monkeypatch.setattr(profiling, "_now", lambda: now)


def profiled(folder, losses=None, **settings):
    said = io.StringIO()
    profile = Profile(folder / "profile", skip=1, steps=3, console=Console(file=said, width=100))
    given = {"max_steps": 8, **settings}
    trainer = distillation(folder, classifier(), classifier(seed=1), losses or [SoftTargets()], rows(64), **given)
    trainer.add_callback(profile)
    return trainer, profile, said


class Slow(Loss):
    def pairs(self):
        return [(LOGITS, LOGITS)]

    def compare(self, student, teacher, batch):
        nap()
        return (student - teacher).abs().mean()


class Reluctant(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        nap()
        return gradient


class SlowBackwards(Slow):
    def compare(self, student, teacher, batch):
        return (Reluctant.apply(student) - teacher).abs().mean()


class SlowAfterwards(TrainerCallback):
    def on_log(self, *args, **kwargs):
        nap()


def slow_teacher(trainer):
    trainer.teacher.model.register_forward_pre_hook(nap)


def slow_student(trainer):
    trainer.model.classifier.register_forward_pre_hook(nap)


def slow_data(trainer):
    collate = trainer.data_collator

    def slowly(rows):
        nap()
        return collate(rows)

    trainer.data_collator = slowly


def slow_optimizer(trainer):
    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(nap)


def slow_rest(trainer):
    trainer.add_callback(SlowAfterwards())


@pytest.mark.parametrize(
    ("where", "losses", "change"),
    [
        ("data", None, slow_data),
        ("teacher", None, slow_teacher),
        ("student forward", None, slow_student),
        ("losses", [Slow()], None),
        ("backward", [SlowBackwards()], None),
        ("optimizer", None, slow_optimizer),
        ("rest", None, slow_rest),
    ],
)
def test_time_is_found_where_it_goes(tmp_path, clock, where, losses, change):
    trainer, profile, _ = profiled(tmp_path, losses, logging_steps=1)
    if change is not None:
        change(trainer)
    trainer.train()
    assert profile.seconds == {**dict.fromkeys(PARTS, 0.0), where: 1.0}


def test_what_accumulates_is_one_step(tmp_path, clock):
    trainer, profile, _ = profiled(tmp_path, [Slow()], gradient_accumulation_steps=2)
    trainer.train()
    assert profile.seconds["losses"] == 2.0


def test_table_figures_and_trace(tmp_path):
    trainer, profile, said = profiled(tmp_path)
    trainer.train()
    table = said.getvalue()
    assert all(name in table for name in PARTS)
    assert "mean of 3 steps after 1" in table
    assert "100.0%" in table
    written = json.loads((tmp_path / "profile" / "profile.json").read_text())
    assert written == {"steps": 3, "seconds a step": profile.seconds}
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    assert any("addmm" in event.get("name", "") for event in trace["traceEvents"])


def test_a_run_that_ends_early_is_measured_as_far_as_it_went(tmp_path):
    trainer, profile, said = profiled(tmp_path, max_steps=3)
    trainer.train()
    assert profile.seconds["student forward"] > 0
    assert "mean of 2 steps after 1" in said.getvalue()


def test_a_run_that_is_too_short_says_so(tmp_path):
    trainer, profile, said = profiled(tmp_path, max_steps=1)
    trainer.train()
    assert profile.seconds == {}
    assert "nothing was profiled: 1 steps, of which the first 1 are not measured." in said.getvalue()


def test_nothing_is_measured_once_it_is_over(tmp_path):
    trainer, _, _ = profiled(tmp_path)
    trainer.train()
    assert profiling._running is None


def test_an_evaluation_is_none_of_a_steps_parts(tmp_path, clock):
    trainer, profile, _ = profiled(tmp_path, eval_strategy="steps", eval_steps=1, eval_dataset=rows())
    trainer.model.classifier.register_forward_pre_hook(nap)
    trainer.train()
    assert profile.seconds["student forward"] == 1.0
    assert profile.seconds["backward"] == profile.seconds["losses"] == 0.0
    assert profile.seconds["rest"] == 4.0  # 16 rows in four batches


def test_a_run_that_fails_in_a_step_is_measured_no_further(tmp_path):
    trainer, profile, _ = profiled(tmp_path)
    trainer.teacher.model.register_forward_pre_hook(lambda *args: 1 / 0 if profile._done == 2 else None)
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert profiling._running is None
