"""What a training says while it runs."""

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from hf_distill import progress

sys.path.insert(0, str(Path(__file__).parent))
from runs import classifier, distillation, rows

TERMS = ["task_loss", "soft_targets"]


@pytest.mark.parametrize(
    ("logs", "terms", "said"),
    [
        (
            {"loss": 0.75, "grad_norm": 1.5, "learning_rate": 3e-4, "task_loss": 0.5, "soft_targets": 0.25},
            TERMS,
            "step 20/1,000  loss 0.75 = task_loss 0.5 + soft_targets 0.25  learning rate 0.0003",
        ),
        ({"loss": 0.75, "task_loss": 0.75}, ["task_loss"], "step 20/1,000  loss 0.75"),
        (
            {"eval_loss": 0.5, "eval_task_loss": 0.5, "eval_macro_f1": 0.123456, "eval_agreement": 0.9,
             "eval_runtime": 1.0, "eval_samples_per_second": 9.0, "eval_steps_per_second": 2.0, "epoch": 1},
            TERMS,
            "step 20/1,000  validation: loss 0.5, macro f1 0.1235, agreement 0.9",
        ),
        ({"train_runtime": 75.2, "train_loss": 0.5, "total_flos": 1}, TERMS, "20 steps in 1 min 15 s, mean loss 0.5"),
        ({"train_runtime": 3.21, "train_loss": 0.25}, TERMS, "20 steps in 3.2 s, mean loss 0.25"),
        ({"train_runtime": 7260}, TERMS, "20 steps in 2 h 1 min, mean loss 0"),
        ({"epoch": 1.0}, TERMS, ""),
    ],
)  # fmt: skip
def test_a_log_is_a_line(logs, terms, said):
    assert progress.line(logs, 20, 1000, terms) == said


@pytest.mark.parametrize("disable_tqdm", [True, False])
def test_a_training_prints_lines_and_neither_dicts_nor_bars_where_there_is_no_terminal(tmp_path, capfd, disable_tqdm):
    settings = {"eval_strategy": "epoch", "eval_dataset": rows(4), "disable_tqdm": disable_tqdm}
    trainer = distillation(tmp_path, classifier(seed=1), classifier(), **settings)
    progress.show(trainer, list(trainer.objective.losses))
    capfd.readouterr()
    trainer.train()
    out, err = capfd.readouterr()
    lines = [line for line in out.splitlines() if line]
    assert [line.split("  ")[0] for line in lines[:3]] == ["step 1/3", "step 2/3", "step 3/3"]
    assert " = task_loss " in lines[0]
    assert " + soft_targets " in lines[0]
    assert lines[3].startswith("step 3/3  validation: loss ")
    assert lines[4].startswith("3 steps in ")
    assert len(lines) == 5
    assert "it/s" not in err
    assert "pin_memory" not in err


def test_on_a_terminal_there_is_a_bar(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trainer = distillation(tmp_path, classifier(seed=1), classifier(), disable_tqdm=False)
    progress.show(trainer, [])
    trainer.train()
    assert "3/3" in capfd.readouterr().err


def test_what_a_notebook_draws_is_left_alone(tmp_path):
    trainer = distillation(tmp_path, classifier(seed=1), classifier())
    trainer.pop_callback(progress.PrinterCallback)
    progress.show(trainer, [])
    assert not trainer.pop_callback(progress.Progress)


class Clock:
    """One second a look."""

    def __init__(self) -> None:
        self.now = 0

    def monotonic(self) -> float:
        self.now += 1
        return float(self.now)


def counting(monkeypatch, *done: int, terminal: bool = False) -> str:
    monkeypatch.setattr(progress.time, "monotonic", Clock().monotonic)
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    with progress.counted("asked", console) as say:
        for each in done:
            say(each, 2000)
    return console.file.getvalue()


def test_what_is_counted_is_a_line_a_call_with_the_time_left(monkeypatch):
    lines = counting(monkeypatch, 0, 500, 1000, 2000).splitlines()
    assert re.fullmatch(r"asked: 500 of 2,000, about \d\.0 s left", lines[0])
    assert re.fullmatch(r"asked: 1,000 of 2,000, about \d\.0 s left", lines[1])
    assert re.fullmatch(r"asked: 2,000 of 2,000 in \d+\.0 s", lines[2])
    assert len(lines) == 3


def test_time_left_is_reckoned_from_what_was_done_since_it_began(monkeypatch):
    (line,) = counting(monkeypatch, 1990, 1995).splitlines()
    seconds = float(re.fullmatch(r"asked: 1,995 of 2,000, about ([\d.]+) s left", line)[1])
    assert seconds >= 1, "the 1,990 that were there already took no time"


def test_where_nothing_is_left_to_do_nothing_is_said(monkeypatch):
    assert counting(monkeypatch, 2000) == counting(monkeypatch) == ""


def test_on_a_terminal_what_is_counted_is_a_bar(monkeypatch):
    drawn = counting(monkeypatch, 0, 500, 2000, terminal=True)
    assert "2000/2000" in drawn
    assert "asked: " not in drawn
