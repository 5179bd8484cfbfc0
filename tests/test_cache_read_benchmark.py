"""The benchmark of reading, on tiny caches: what is read is what was written. No cost is asserted."""

import sys

import numpy as np
import pytest
from benchmark_files import loaded


@pytest.fixture
def benchmark(monkeypatch):
    module = loaded("cache_read")
    monkeypatch.setattr(module, "SHARD", 16)
    return module


def test_it_prints_every_size(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cache_read.py", "--sizes", "40", "100", "--rounds", "3"])
    benchmark.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert cells[0] == ["examples", "ms a batch of 32", "over the first", "memory over the cache's bytes"]
    assert [line[0] for line in cells[2:]] == ["40", "100"]
    assert cells[2][2] == "1.00 ± 0.00"
    assert all(float(line[1]) > 0 for line in cells[2:])


def test_examples_lie_in_several_shards_and_each_has_answers_of_its_own(benchmark, tmp_path):
    teacher, ids = benchmark.build(tmp_path, 40)
    assert len(list(tmp_path.glob("shards/*"))) == 3
    read = teacher.observe(benchmark.batch_of(ids[::-1].copy()))[benchmark.LOGITS].numpy()
    assert (read == np.arange(40)[::-1, None] + np.arange(benchmark.LABELS)).all()
    with pytest.raises(ValueError, match="is not in"):
        teacher.observe(benchmark.batch_of(ids[:3] + 1))
