"""Which file or split of the Hub is train, validation or test, and what is held out."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import DatasetDict
from tables import read, refusal, table, write

from hf_distill.data import load
from hf_distill.recipe import DatasetSpec


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


def test_the_recipes_folder_is_tried_before_the_current_one() -> None:
    Path("recipes [1]/data").mkdir(parents=True)
    write(**{"recipes [1]/data/train__tsv": "text\tlabels\nnear\t0\n", "train__tsv": "text\tlabels\nfar\t0\n"})
    Path("data").mkdir()
    write(**{"data/train__tsv": "text\tlabels\nfar\t0\n"})
    for path, text in (("data/*.tsv", "near"), ("data", "near"), ("train.tsv", "far")):
        spec = DatasetSpec(path=path, eval_fraction=0)
        assert load(spec, "recipes [1]")["train"]["text"][:] == [text]


@pytest.mark.parametrize(
    ("files", "fields", "expected"),
    [
        ("train dev test", {}, {"train": ["train"], "validation": ["dev"], "test": ["test"]}),
        ("my_train-00000-of-00002 my_train-00001-of-00002 my-valid", {}, {"train": 2, "validation": ["my-valid"]}),
        ("training validation", {}, {"train": ["training"], "validation": ["validation"]}),
        ("part1 part2", {"eval_fraction": 0.0}, {"train": ["part1", "part2"]}),
        ("dev", {"eval_fraction": 0.0}, {"train": ["dev"]}),
        ("old new", {"train_split": "old", "eval_split": "new"}, {"train": ["old"], "validation": ["new"]}),
        ("train dev", {"eval_split": "val"}, {"train": ["train"], "validation": ["dev"]}),
        ("train_a train_b dev", {"train_split": "train_b"}, {"train": ["train_b"], "validation": ["dev"]}),
        (
            "train test dev",
            {"eval_split": "test", "test_split": "dev"},
            {"train": 1, "validation": ["test"], "test": ["dev"]},
        ),
    ],
)
def test_splits_by_file_name(files: str, fields: Any, expected: Any) -> None:
    for name in files.split():
        write(**{f"{name}__tsv": f"text\tlabels\n{name}\t0\n"})
    raw = read("*.tsv", **fields)
    assert {
        split: len(rows) if isinstance(expected[split], int) else rows["text"][:] for split, rows in raw.items()
    } == expected


def test_validation_is_held_out_of_one_file_and_the_order_stays() -> None:
    write(rows__tsv="text\tlabels\n" + "".join(f"{index}\t0\n" for index in range(100)))
    raw = read("rows.tsv", eval_fraction=0.2)
    train, held = ([int(text) for text in raw[split]["text"][:]] for split in ("train", "validation"))
    assert len(held) == 20
    assert sorted(train + held) == list(range(100))
    assert (train, held) == (sorted(train), sorted(held))
    assert held != list(range(20))
    assert read("rows.tsv", eval_fraction=0.2)["validation"]["text"][:] == raw["validation"]["text"][:]
    drawn = read("rows.tsv", eval_fraction=0.2, max_train_rows=7, max_eval_rows=3)
    assert [len(drawn[split]) for split in ("train", "validation")] == [7, 3]
    assert drawn["train"]["text"][:] != raw["train"]["text"][:7]
    assert set(drawn["train"]["text"][:]) < set(raw["train"]["text"][:])
    assert drawn["train"]["text"][:] == sorted(drawn["train"]["text"][:], key=int)


def test_what_is_no_file_is_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None) -> DatasetDict:
        asked.append((path, name))
        return DatasetDict(train=table([0, 1])["train"], dev=table([1])["train"], raw=table([1])["train"])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    raw = read("owner/things", name="simplified")
    assert asked == [("owner/things", "simplified")]
    assert {split: len(rows) for split, rows in raw.items()} == {"train": 2, "validation": 1}
    assert len(read("owner/things", test_split="raw")["test"]) == 1
    assert (
        refusal("owner/things", eval_split="gold")
        == "dataset: 'owner/things' has no split 'gold'; it has train, dev, raw"
    )


def test_a_hub_that_does_not_answer_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, name: str | None) -> DatasetDict:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("owner/things") == "dataset.path: 'owner/things' is no file here, and not on the Hub: no route"


@pytest.mark.parametrize(
    ("files", "path", "fields", "message"),
    [
        (
            "",
            "../gone/*.tsv",
            {},
            "dataset.path: nothing at '../gone/*.tsv' (looked in '.', then in the current folder)",
        ),
        ("", "gone.tsv", {}, "dataset.path: nothing at 'gone.tsv' (looked in"),
        ("", ".", {}, "dataset.path: no tsv, csv, json, jsonl, parquet file in '.'"),
        (
            "train meta",
            "*.tsv",
            {},
            "dataset.path: 'meta.tsv' is neither train, dev nor test by its name; narrow the pattern",
        ),
        ("dev test", "*.tsv", {}, "dataset: no training file among dev.tsv, test.tsv; name dataset.train_split"),
        (
            "train dev",
            "*.tsv",
            {"test_split": "gold"},
            "dataset: no file for the split 'gold' among dev.tsv, train.tsv",
        ),
    ],
)
def test_splits_that_are_not_there_are_named(files: str, path: str, fields: Any, message: str) -> None:
    for name in files.split():
        write(**{f"{name}__tsv": f"text\tlabels\n{name}\t0\n"})
    assert refusal(path, **fields).startswith(message)


def test_too_few_rows_to_hold_some_out_are_refused() -> None:
    write(a__tsv="text\tlabels\nx\t1\n")
    message = "1 training rows are too few to hold out 10% of them for validation"
    assert refusal("a.tsv", eval_fraction=0.1) == message
