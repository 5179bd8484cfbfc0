"""The benchmark of all schemes: nothing is left out, what is remembered is what the teacher says, figures by hand."""

import json
import math

import pytest
import torch
from benchmark_files import loaded
from datasets import Dataset
from runs import classifier, rows, words

from hf_distill import schemes
from hf_distill.batch import Batch
from hf_distill.recipe import arranged
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher


@pytest.fixture(scope="module")
def benchmark():
    return loaded("schemes")


def test_every_scheme_is_run(benchmark):
    run = {name.split(",")[0].split(":")[0] for name in benchmark.RUNS}
    assert arranged.schemes().keys() - run == {"cross_modal"}  # of pairs: examples/cross_modal.py
    assert benchmark.REFERENCE in run
    assert all(getattr(schemes, name, None) is not None for name in arranged.schemes())


def test_what_is_remembered_is_what_the_teacher_says(benchmark, monkeypatch):
    model, tokenizer = classifier().eval(), words()
    data = rows(6, labels=False)
    remembering, live = benchmark.Remembering(model), ModelTeacher(model)
    for each in (remembering, live):
        each.prepare(classifier(), frozenset({LOGITS}), torch.device("cpu"), None)
    remembering.remember(data, tokenizer)
    inputs = {name: torch.tensor(data[name][:]) for name in data.column_names}
    padded = {name: torch.nn.functional.pad(each, (0, 2)) for name, each in inputs.items()}
    expected = live.observe(Batch(inputs, Task.SINGLE_LABEL))[LOGITS]
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("it was asked again"))
    torch.testing.assert_close(remembering.observe(Batch(padded, Task.SINGLE_LABEL))[LOGITS], expected)
    with pytest.raises(pytest.fail.Exception):
        remembering.observe(Batch({**inputs, "input_ids": inputs["input_ids"] + 1}, Task.SINGLE_LABEL))


def test_figures_by_hand(benchmark):
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    found = benchmark.figures(logits, torch.tensor([0, 1, 1]))
    surprise = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), 3 + math.log(1 + math.exp(-3))]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["surprise"] == pytest.approx(sum(surprise) / 3)


def test_queries_are_read_with_the_names_of_their_intents(benchmark, tmp_path):
    pairs = [["word1 word2", "pay"], ["word3", "book"]]
    (tmp_path / "data_full.json").write_text(json.dumps({"train": pairs, "val": pairs[1:], "test": []}))
    found, names = benchmark.read(tmp_path, words())
    assert names == ["book", "pay"]
    assert found["train"]["labels"][:] == [1, 0]
    assert found["validation"]["labels"][:] == [0]
    assert isinstance(found["train"], Dataset)


def test_tables_are_paired_by_seed(benchmark, tmp_path, capsys):
    def one(accuracy, seconds, **more):
        return {"accuracy": accuracy, "surprise": 1.0, "seconds": seconds, "noted": {}, "stages": {}, **more}

    found = {
        "soft targets|0": one(0.70, 10.0),
        "soft targets|1": one(0.80, 20.0),
        "mutual|0": one(0.72, 30.0, noted={"peer": 0.5}),
        "mutual|1": one(0.79, 40.0, noted={"peer": 0.6}),
        "chain|0": one(0.75, 15.0, stages={"assistant_4": {"accuracy": 0.9}, "student": {"accuracy": 0.75}}),
    }
    benchmark.tables(found, tmp_path / "schemes.png")
    printed = capsys.readouterr().out
    assert "+0.5 ± 1.5" in printed
    assert "2.5 ± 0.5" in printed
    assert "+5.0" in printed
    assert "0.550 ± 0.050" in printed
    assert "90.0" in printed
