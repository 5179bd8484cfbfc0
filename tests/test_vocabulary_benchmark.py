"""The benchmark of heads before a vocabulary: every way agrees with the plain one. What they cost is not asserted."""

import sys

import pytest
import torch
from benchmark_files import loaded

TINY = ["--positions", "9", "--vocabulary", "50", "--width", "6", "--share", "0.4", "--rounds", "1"]


@pytest.fixture
def benchmark():
    return loaded("vocabulary")


def test_every_way_is_checked_and_has_a_row(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "ROWS", 4)  # several chunks
    monkeypatch.setattr(sys, "argv", ["vocabulary.py", "--device", "cpu", *TINY])
    benchmark.main()
    lines = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    assert table[0] == ["losses", "count", "way", "ms", "time ratio", "MB", "memory ratio"]
    ways = [(losses, share, way) for losses in benchmark.LOSSES for share in ("100%", "40%") for way in benchmark.WAYS]
    assert [tuple(row[:3]) for row in table[2:]] == ways
    assert all(row[4] == row[6] == "1.00" for row in table[2:] if row[2] == "plain")


def test_a_way_that_differs_is_refused(benchmark):
    work = benchmark.work_of(9, 50, 6, 0.4, torch.device("cpu"))
    steps = [benchmark.step_of(benchmark.plain, formula, work) for formula in benchmark.LOSSES["soft targets"]]
    benchmark.agree(*steps, "equal")
    other = benchmark.step_of(benchmark.plain, benchmark.both, work)
    with pytest.raises(AssertionError, match="other: the value differs from the plain formula"):
        benchmark.agree(other, steps[0], "other")


def test_the_share_that_counts_is_as_asked(benchmark):
    assert benchmark.work_of(20, 50, 6, 0.15, torch.device("cpu")).counts.sum() == 3
