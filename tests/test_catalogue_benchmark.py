"""The benchmark of the whole catalogue, on tiny models and a few rows."""

import json
import sys
from pathlib import Path

import pytest
import torch
from benchmark_files import loaded
from distributed import collate, rows, student, teacher, trainer_of

from hf_distill.batch import Batch
from hf_distill.losses import CATALOGUE, SoftTargets
from hf_distill.signals import LOGITS, hidden, input_gradient
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher


@pytest.fixture(scope="module")
def benchmark():
    return loaded("catalogue")


def test_what_is_remembered_is_what_the_teacher_says(benchmark):
    wanted = frozenset({LOGITS, hidden(1), input_gradient(0)})
    remembering, live = benchmark.Remembering(teacher()), ModelTeacher(teacher())
    for each in (remembering, live):
        each.prepare(student(), wanted, torch.device("cpu"), None)
    first, second = (collate(list(rows(4, seed=seed))) for seed in (0, 1))
    for inputs, seed in ((first, 0), (second, 1), (first, 2)):
        batch = Batch(inputs, Task.MULTI_LABEL, seed=seed)
        found, expected = remembering.observe(batch), live.observe(batch)
        assert found.keys() == wanted
        for signal in wanted:
            torch.testing.assert_close(found[signal], expected[signal])
    seen = remembering.model.register_forward_hook(lambda *_: pytest.fail("it was asked again"))
    remembering.prepare(student(), frozenset({LOGITS}), torch.device("cpu"), None)
    remembering.observe(Batch(first, Task.MULTI_LABEL))
    seen.remove()


def test_each_loss_is_tried_alone_and_beside_soft_targets(benchmark):
    for name in benchmark.LOSSES:
        assert [type(loss).__name__ for loss in benchmark.losses_of(name, "alone")] == [name]
        beside = benchmark.losses_of(name, "with soft targets")
        assert (beside is None) == (name == "SoftTargets")
        assert beside is None or isinstance(beside[0], SoftTargets)


def test_the_table_has_a_row_for_every_loss(benchmark, tmp_path, monkeypatch, capsys):
    def figures(precision):
        return {"mean_average_precision": precision, "agreement": 0.9}

    for seed, precision in ((0, 0.4), (1, 0.5)):
        found = {
            f"HiddenMSE|alone|{seed}": figures(precision),
            f"HiddenMSE|with soft targets|{seed}": figures(precision + 0.1),
            f"DecoupledKL|alone|{seed}": {"refused": "DecoupledKL is not for multi_label."},
        }
        (tmp_path / f"seed{seed}.json").write_text(json.dumps(found))
    (tmp_path / "time.json").write_text(json.dumps({"HiddenMSE": 1.25}))
    monkeypatch.setattr(sys, "argv", ["catalogue.py", "--seeds", "--output", str(tmp_path)])
    benchmark.main()
    out = capsys.readouterr().out
    assert "| HiddenMSE | 0.450 ± 0.050 | 0.9000 ± 0.0000 | 0.550 ± 0.050 | 0.9000 ± 0.0000 | 1.25 |" in out
    assert "DecoupledKL is not for multi_label." in out
    for members in CATALOGUE.values():
        for loss in members:
            assert f"| {loss.__name__} |" in out


def test_a_run_gives_figures_and_a_refusal_its_reason(benchmark, monkeypatch):
    def small(losses, data, tokenizer, master, seed, folder):
        return trainer_of(Path(folder), losses, train=data["train"], max_steps=2)

    monkeypatch.setattr(benchmark, "trainer_of", small)
    known = [0, *range(2, 12)]  # the second row has no labels
    data = {"train": rows(32), "validation": rows(12, seed=5).select(known)}
    figures = benchmark.run("HiddenMSE", "with soft targets", 0, data, None, None)
    assert 0 <= figures["mean_average_precision"] <= 1
    assert 0 <= figures["agreement"] <= 1
    refused = benchmark.run("DecoupledKL", "alone", 0, data, None, None)
    assert refused["refused"].startswith("DecoupledKL is not for multi_label.")
