"""The table over several seeds, from finished runs and from one that is made."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmark_files import loaded

from hf_distill import recipe, report, run
from hf_distill.report import ModelFacts


@pytest.fixture
def benchmark():
    return loaded("goemotions")


def facts(distilled: float) -> list[ModelFacts]:
    def fact(name, parameters, milliseconds, precision, agreement=None):
        metrics = {"mean_average_precision": precision}
        return ModelFacts(name, parameters, 1.0, milliseconds, metrics=metrics, agreement=agreement)

    return [
        fact("teacher", 22_700_000, 4.0, 0.5),
        fact(run.ALONE, 17_400_000, 2.0, 0.4, 0.8),
        fact(run.DISTILLED, 17_400_000, 2.0, distilled, 0.9),
    ]


def test_the_table_has_the_mean_and_the_range_of_the_seeds(benchmark, tmp_path, monkeypatch, capsys):
    for seed, value in enumerate((0.48, 0.49, 0.50)):
        report.save(facts(value), tmp_path / f"seed{seed}" / "results.json")
    monkeypatch.setattr(run, "train", lambda *_args, **_options: pytest.fail("made again"))
    monkeypatch.setattr(sys, "argv", ["goemotions.py", "--output", str(tmp_path)])
    benchmark.main()
    out = capsys.readouterr().out
    assert "| teacher | 22.7 M | 4.00 | 0.5000 | - |" in out
    assert "| distilled student | 17.4 M | 2.00 | 0.4900 (0.4800 to 0.5000) | 0.9000 |" in out
    assert "keeps 96.0% to 100.0% of the teacher's mean average precision" in out


def test_each_seed_is_a_run_of_the_recipe_in_its_own_folder(benchmark, tmp_path, monkeypatch, capsys):
    made = []

    def train(checked, **options):
        made.append(checked)
        report.save(facts(0.48), Path(checked.train["output_dir"]) / "results.json")
        return SimpleNamespace(**options)

    monkeypatch.setattr(run, "train", train)
    arguments = [
        "goemotions.py",
        "--output",
        str(tmp_path / "runs"),
        "--seeds",
        "1",
        "2",
        "--set",
        "train.max_steps=3",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    benchmark.main()
    assert [each.train["seed"] for each in made] == [1, 2]
    assert [Path(each.train["output_dir"]).name for each in made] == ["seed1", "seed2"]
    assert all(each.train["max_steps"] == 3 for each in made)
    assert made[0].losses == recipe.load(benchmark.RECIPE).losses
    assert "2 seeds" in capsys.readouterr().out


def test_without_a_finished_run_it_says_so(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["goemotions.py", "--output", str(tmp_path), "--seeds"])
    with pytest.raises(SystemExit, match="no finished run"):
        benchmark.main()
