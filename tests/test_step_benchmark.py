"""The benchmark of steps on tiny models: every case makes the step that it says. No cost is asserted."""

import importlib.util
import sys
from pathlib import Path

import pytest
from datasets import disable_progress_bars

from hf_distill.teachers import ModelTeacher

FILE = Path(__file__).parents[1] / "examples" / "benchmarks" / "step.py"


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("step_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tiny = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setattr(module, "SIZE", tiny)
    monkeypatch.setattr(module, "ROWS", 6)
    disable_progress_bars()
    return module


def test_it_prints_every_case_and_its_limit(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["step.py", "--shapes", "2x5", "3x4", "--rounds", "2"])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    markdown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    assert markdown[0] == ["a step with", "its limit", "2 x 5", "3 x 4"]
    assert [line[:2] for line in markdown[2:]] == [[name, case[0]] for name, case in benchmark.CASES.items()]
    for line in markdown[2:]:
        assert all(float(cell.split(" ± ")[0]) > 0 for cell in line[2:])


def test_a_cached_step_asks_no_teacher_and_a_live_one_once(benchmark, monkeypatch, tmp_path):
    asked = []
    real = ModelTeacher.observe
    monkeypatch.setattr(ModelTeacher, "observe", lambda self, batch: asked.append(1) or real(self, batch))
    rows = benchmark.rows_of(5)
    batch = benchmark.collate([rows[0], rows[1]])
    for name, (_, _, source) in benchmark.CASES.items():
        steps = benchmark.steps_of([name], rows, 2, str(tmp_path / source / name))
        asked.clear()
        steps[name](batch)
        assert len(asked) == (source == "live")
