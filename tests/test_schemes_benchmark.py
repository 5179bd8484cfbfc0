"""The benchmark of all schemes: nothing is left out, what is remembered is what the teacher says, figures by hand."""

import copy
import json
import math
import re

import numpy as np
import pytest
import torch
from benchmark_files import loaded
from datasets import Dataset
from models import tiny
from runs import classifier, rows, words
from transformers import DataCollatorWithPadding, default_data_collator

from hf_distill import schemes
from hf_distill.batch import Batch
from hf_distill.recipe import arranged
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher, ModelTeacher


@pytest.fixture(scope="module")
def benchmark():
    return loaded("schemes")


@pytest.fixture(scope="module")
def fields():
    return loaded("fields")


def test_every_scheme_is_run_and_every_field_has_its_reference(benchmark):
    parts = {part for name in benchmark.NAMES for part in re.split("[,:] ", name)}
    assert arranged.schemes().keys() <= parts
    assert all(field.reference in functions for field, functions in benchmark.RUNS.items())
    assert len(benchmark.NAMES) == len(set(benchmark.NAMES))
    assert all(getattr(schemes, name, None) is not None for name in arranged.schemes())


def test_what_is_remembered_is_what_the_teacher_says(fields, monkeypatch):
    model, collate = classifier().eval(), DataCollatorWithPadding(words())
    data = rows(6, labels=False)
    remembering, live = fields.Remembering(model), ModelTeacher(model)
    for each in (remembering, live):
        each.prepare(classifier(), frozenset({LOGITS}), torch.device("cpu"), None)
    remembering.remember(data, collate)
    inputs = {name: torch.tensor(data[name][:]) for name in data.column_names}
    padded = {name: torch.nn.functional.pad(each, (0, 2)) for name, each in inputs.items()}
    expected = live.observe(Batch(inputs, Task.SINGLE_LABEL))[LOGITS]
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("it was asked again"))
    torch.testing.assert_close(remembering.observe(Batch(padded, Task.SINGLE_LABEL))[LOGITS], expected)
    with pytest.raises(pytest.fail.Exception):
        remembering.observe(Batch({**inputs, "input_ids": inputs["input_ids"] + 1}, Task.SINGLE_LABEL))


def test_drawings_are_remembered_by_what_is_drawn(fields, monkeypatch):
    model = tiny("vit", "ForImageClassification").eval()
    drawn = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    remembering = fields.Remembering(model)
    remembering.prepare(copy.deepcopy(model), frozenset({LOGITS}), torch.device("cpu"), None)
    remembering.remember(Dataset.from_dict({"pixel_values": drawn.tolist()}), default_data_collator)
    with torch.no_grad():
        expected = model(pixel_values=drawn).logits
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("it was asked again"))
    backwards = Batch({"pixel_values": drawn.flip(0)}, Task.SINGLE_LABEL)
    torch.testing.assert_close(remembering.observe(backwards)[LOGITS], expected.flip(0))


def test_figures_by_hand(fields):
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    found = fields.figures(logits, torch.tensor([0, 1, 1]))
    surprise = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), 3 + math.log(1 + math.exp(-3))]
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["surprise"] == pytest.approx(sum(surprise) / 3)


def test_nearest_agree_by_hand(fields):
    vectors = torch.tensor([[1.0, 0.0], [9.0, 1.0], [0.0, 2.0], [1.0, 5.0]])  # two pairs by cosine
    assert fields.nearest_agree(vectors, [0, 0, 1, 1]) == 1
    assert fields.nearest_agree(vectors, [0, 0, 1, 2]) == 0.5


def test_a_pair_is_two_drawings_and_words(fields, tmp_path):
    meta = [
        {"name": "word1", "keywords": ["word2", "word3"], "category": category, "split": split}
        for category, split in (("food", "train"), ("animals", "test"), ("animals", "train"))
    ]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    drawn = {artist: np.zeros((3, 4, 4, 3), np.uint8) for artist in ("twitter", "google")}
    drawn["twitter"][2, 1, 3] = [255, 0, 0]  # red, row 1, column 3
    np.savez(tmp_path / "images_32.npz", **drawn)
    found, names = fields.read_drawings(tmp_path, words())
    assert names == ["animals", "food"]
    assert found["train"]["labels"][:] == [1, 0]
    assert found["test"]["labels"][:] == [0]
    seen = torch.tensor(found["train"]["pixel_values"][1])
    assert seen[:, 1, 3].tolist() == [1, -1, -1]
    assert (seen == 1).sum() == 1
    assert (torch.tensor(found["train"]["other_drawing"][:]) == -1).all()


def test_clothes_are_read_in_grey(fields, tmp_path):
    images = np.zeros((3, 28, 28), np.uint8)
    images[2, 5, 7] = 255  # of the tests, row 5, column 7
    np.savez(tmp_path / "fashion_mnist_8k_2k.npz", train_x=images[:2], train_y=[4, 0], test_x=images[2:], test_y=[9])
    found = fields.read_clothes(tmp_path)
    assert found["labels"][:].tolist() == [4, 0, 9]
    seen = torch.stack(list(found["pixel_values"]))
    assert seen.shape == (3, 1, 28, 28)
    assert torch.nonzero(seen == 1).tolist() == [[2, 0, 5, 7]]
    assert (seen == -1).sum() == seen.numel() - 1


def test_words_are_the_most_frequent_of_those_to_learn(fields, tmp_path):
    (tmp_path / "valid.txt").write_text("x " * 50 + "y \n " * 30 + "z " * 2 + "<unk>")
    (tmp_path / "test.txt").write_text("y new z x " * 10)
    found, known = fields.read_words(tmp_path, most=3)
    assert known == ["x", "y", "<unk>"]
    assert found["train"]["input_ids"][:].shape == (2, 35)  # the rest is no passage
    assert found["train"]["input_ids"][:].flatten().tolist() == [0] * 50 + [1] * 20
    assert found["test"]["labels"][:].tolist() == [[1, 2, 2, 0] * 8 + [1, 2, 2]]


def test_figures_of_words_by_a_loop(fields):
    model, field = tiny("gpt2", "LMHeadModel").eval(), object.__new__(fields.Words)
    field.collate = default_data_collator
    ids = torch.randint(model.config.vocab_size, (3, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        said = model(ids).logits.log_softmax(-1)
    places = [(row, place) for row in range(3) for place in range(1, 5)]
    surprise = [-said[row, place - 1, ids[row, place]].item() for row, place in places]
    right = [said[row, place - 1].argmax().item() == ids[row, place].item() for row, place in places]
    found = field.figures_of(model, Dataset.from_dict({"input_ids": ids, "labels": ids}).with_format("torch"))
    assert found["surprise"] == pytest.approx(sum(surprise) / 12, rel=1e-5)
    assert found["accuracy"] == pytest.approx(sum(right) / 12)


def test_several_language_models_are_measured_together(benchmark, fields):
    models, field = [tiny("gpt2", "LMHeadModel", seed=seed).eval() for seed in (0, 1)], object.__new__(fields.Words)
    field.student = lambda: tiny("gpt2", "LMHeadModel")
    together = benchmark.Observed(EnsembleTeacher(models), field)
    ids = torch.randint(models[0].config.vocab_size, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = sum(model(ids).logits for model in models) / 2
        torch.testing.assert_close(together(input_ids=ids).logits, expected)


def test_sentences_are_read_with_the_numbers_of_their_categories(fields, tmp_path):
    (tmp_path / "train.csv").write_text('text,category\n"word1, word2",pay\nword3,book\n')
    assert fields.read_sentences(tmp_path, words())["labels"][:] == [1, 0]


def test_queries_are_read_with_the_names_of_their_intents(fields, tmp_path):
    pairs = [["word1 word2", "pay"], ["word3", "book"]]
    (tmp_path / "data_full.json").write_text(json.dumps({"train": pairs, "val": pairs[1:], "test": []}))
    found, names = fields.read_queries(tmp_path, words())
    assert names == ["book", "pay"]
    assert found["train"]["labels"][:] == [1, 0]
    assert found["validation"]["labels"][:] == [0]
    assert isinstance(found["train"], Dataset)


def test_one_run_alone_has_a_table_and_no_picture(benchmark, tmp_path, capsys):
    alone = {"accuracy": 0.25, "surprise": 4.5, "seconds": 60.0, "noted": {}, "stages": {}}
    benchmark.tables({"words: labels alone|0": alone}, tmp_path / "schemes.png")
    printed = capsys.readouterr().out
    assert "| words: labels alone | 25.0 | +0.000 | 4.500 | 1.0 |" in re.sub(" +", " ", printed)
    assert "what is taught" not in printed
    assert printed.endswith("no picture: there is no run beside its reference\n")
    assert not list(tmp_path.iterdir())


def test_tables_are_paired_by_seed(benchmark, tmp_path, capsys):
    def one(accuracy, seconds, **more):
        return {"accuracy": accuracy, "surprise": 1.0, "seconds": seconds, "noted": {}, "stages": {}, **more}

    def beside(taught, alone):
        told = {"student: accuracy": taught, "student: surprise": 1.5, "exit 0: accuracy": 0.25}
        return told | {"student, alone: accuracy": alone, "student, alone: surprise": 1.75}

    found = {
        "soft targets|0": one(0.70, 10.0),
        "soft targets|1": one(0.80, 20.0),
        "mutual|0": one(0.72, 30.0, noted={"peer": 0.5}),
        "mutual|1": one(0.79, 40.0, noted={"peer": 0.6}),
        "mutual, two starts|0": one(0.72, 30.0, noted=beside(0.72, 0.70)),
        "mutual, two starts|1": one(0.78, 30.0, noted=beside(0.79, 0.78)),
        "chain|0": one(0.75, 15.0, stages={"assistant_4": {"accuracy": 0.9}, "student": {"accuracy": 0.75}}),
        "embeddings: distances and angles|0": {**one(0.40, 5.0), "noted": {"teacher": 0.6}},
        "embeddings: chain|0": one(0.43, 10.0),
        "words: labels alone|0": one(0.25, 10.0),
        "words: mutual|0": one(0.24, 10.0, surprise=0.875),
    }
    unknown = found["mutual, two starts|1"]["noted"].pop("student: surprise")
    benchmark.tables(found, tmp_path / "schemes.png")
    line = "| mutual, two starts | student | 1.500 | 1.750 | -0.250 | 1 of 1 seeds |"
    assert line in re.sub(" +", " ", capsys.readouterr().out)
    found["mutual, two starts|1"]["noted"]["student: surprise"] = unknown
    benchmark.tables(found, tmp_path / "schemes.png")
    printed = capsys.readouterr().out
    assert "+0.5 ± 1.5" in printed
    assert "2.5 ± 0.5" in printed
    assert "+5.0" in printed
    assert "0.550 ± 0.050" in printed
    assert "90.0" in printed
    line = "| mutual, two starts | student | 75.5 ± 3.5 | 74.0 ± 4.0 | +1.5 ± 0.5 | 2 of 2 seeds | 1.50 ± 0.00 | 1.75 "
    assert line in re.sub(" +", " ", printed)
    assert "| words: mutual | 24.0 | +0.125 | 0.875 | 1.0 |" in re.sub(" +", " ", printed)
    line = "| mutual, two starts | student | 1.500 ± 0.000 | 1.750 ± 0.000 | -0.250 ± 0.000 | 2 of 2 seeds |"
    assert line in re.sub(" +", " ", printed)
    assert "| mutual, two starts | exit 0: accuracy | 0.250 ± 0.000 |" in re.sub(" +", " ", printed)
    assert re.search(r"embeddings: chain +\W+ 43.0 +\W+ \+3.0 ", printed)
