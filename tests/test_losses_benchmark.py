"""The benchmark of losses: every class is in it, and both formulas agree. What they cost is asserted nowhere."""

import importlib.util
import sys

import pytest
import torch
from benchmark_files import loaded

from hf_distill import losses

TINY = {"logits": 3, "sorted": 3, "examples": 5, "triplets": 4, "order": 6, "groups": 9, "hidden": 7, "maps": 4}


@pytest.fixture
def benchmark(monkeypatch):
    module = loaded("losses")
    monkeypatch.setattr(module, "SIZES", {"small": {kind: (size,) for kind, size in TINY.items()}})
    for name, tiny in {"VOCABULARY": 50, "NARROW": 24, "WIDE": 48}.items():
        monkeypatch.setattr(module, name, tiny)
    monkeypatch.setattr(module, "PAIRS", (1, 1))
    return module


def run(benchmark, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["losses.py", "--device", "cpu", *arguments])
    benchmark.main()


def test_every_class_of_the_catalogue_is_measured_or_left_out_with_a_reason(benchmark):
    listed = {loss for group in losses.CATALOGUE.values() for loss in group}
    measured = {case.loss for case in benchmark.CASES}
    assert measured | set(benchmark.LEFT_OUT) == listed
    assert not measured & set(benchmark.LEFT_OUT)
    assert all(benchmark.LEFT_OUT.values())
    assert len({case.name for case in benchmark.CASES}) == len(benchmark.CASES)


def test_the_sizes_are_three_for_every_kind(benchmark):
    module = loaded("losses")
    for kinds in module.SIZES.values():
        assert {case.kind for case in module.CASES} == set(kinds)
        assert all(len(sizes) == 3 and list(sizes) == sorted(sizes) for sizes in kinds.values())


def test_a_run_prints_a_row_for_each_as_a_table_and_as_markdown(benchmark, monkeypatch, capsys):
    run(benchmark, monkeypatch)  # it raises where a value or a gradient is not the plain formula's
    lines = capsys.readouterr().out.splitlines()
    markdown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    assert markdown[0] == [
        "loss",
        "size",
        "ours ms",
        "plain ms",
        "time ratio",
        "ours MB",
        "plain MB",
        "memory ratio",
    ]
    assert [row[0] for row in markdown[2:]] == [case.name for case in benchmark.CASES]
    assert all(float(cell) >= 0 for row in markdown[2:] for cell in row[2:])
    for case in benchmark.CASES:
        assert any(f" {case.name} " in line for line in lines if not line.startswith("| ")), case.name


def test_only_the_chosen_losses_run(benchmark, monkeypatch, capsys):
    run(benchmark, monkeypatch, "--losses", "DIST", "RKDAngle")
    out = capsys.readouterr().out
    assert "| DIST, multi-label | 5 x 1000 |" in out
    assert "| RKDAngle | 4 x 24 |" in out
    assert "SoftTargets" not in out


@pytest.mark.parametrize("name", ["FSP", "NST", "MiniLMv2", "RKDAngle", "RelativeSimilarity", "SoftTargets"])
def test_they_agree_over_several_blocks_too(benchmark, monkeypatch, name):
    for module, limit in (
        ("states", "BLOCK_ELEMENTS"),
        ("rkd", "PIVOT_BLOCK_ELEMENTS"),
        ("triplet", "PIVOT_BLOCK_ELEMENTS"),
        ("logits", "CHUNK_ELEMENTS"),
    ):
        monkeypatch.setattr(importlib.import_module(f"hf_distill.losses.{module}"), limit, 60)
    case = next(case for case in benchmark.CASES if case.name == name)
    benchmark.measure(case, TINY[case.kind], torch.device("cpu"), budget=0.0)


def test_a_formula_that_differs_is_refused(benchmark):
    student = torch.randn(3, requires_grad=True)
    steps = [benchmark.step_of(function, (student,), 1) for function in (torch.sum, torch.mean)]
    with pytest.raises(AssertionError, match="Sum at 3: the value differs from the plain formula"):
        benchmark.agree(*steps, name="Sum at 3")
    shifted = benchmark.step_of(lambda side: side.sum() * 2 - side.sum().detach(), (student,), 1)
    with pytest.raises(AssertionError, match="Sum at 3: the gradient differs from the plain formula"):
        benchmark.agree(steps[0], shifted, name="Sum at 3")


def test_memory_is_what_is_alive_at_once_beyond_the_inputs(benchmark):
    student = torch.randn(250_000, requires_grad=True)  # 1 MB, and its gradient another
    device = torch.device("cpu")
    freed = benchmark.step_of(lambda side: side.exp().detach().sum() * 0 + side.sum(), (student,), 1)
    kept = benchmark.step_of(lambda side: side.exp().exp().sum(), (student,), 1)
    assert benchmark.peak_megabytes(freed, device) == pytest.approx(1.0, abs=0.1)
    assert benchmark.peak_megabytes(kept, device) == pytest.approx(3.0, abs=1.1)
