"""What a training says while it runs."""

import sys
from pathlib import Path

import pytest

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
