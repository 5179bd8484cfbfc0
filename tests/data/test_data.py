"""From the user's table to the Trainer's columns: token ids and labels of every row, in its place."""

import importlib.util
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, List
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import NAMES, letters, read, table, write
from transformers import PreTrainedTokenizerFast

from hf_distill.data import DataError, encode, label_names_of, read_label_names

SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return letters()


def test_the_label_set_is_found_where_nobody_names_it() -> None:
    assert label_names_of(table(["joy,love", "", "anger"]), "multi_label") == NAMES
    assert label_names_of(table(["joy, love", "anger"]), "single_label") == ["anger", "joy, love"]
    assert label_names_of(table([["b"], ["a", "b"]]), "multi_label") == ["a", "b"]
    assert label_names_of(table(["4,27", "0"]), "multi_label") == [f"LABEL_{index}" for index in range(28)]
    assert label_names_of(table([1, 0, -1]), "single_label") == ["LABEL_0", "LABEL_1"]
    assert label_names_of(table([[0, 1, 0], [1, 1, 1]]), "multi_label") == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert label_names_of(table([[0]], feature=List(ClassLabel(names=NAMES))), "multi_label") == NAMES
    assert label_names_of(table([0.5]), "regression") == ["LABEL_0"]
    both = DatasetDict(train=table(["joy"])["train"], validation=table(["anger"])["train"])
    assert label_names_of(both, "single_label") == ["anger", "joy"]
    with pytest.raises(DataError, match=r"^no labels in column 'labels'; name them with dataset.label_names$"):
        label_names_of(table([""]), "multi_label")
    with pytest.raises(DataError, match=r"^no labels in column 'labels'"):
        label_names_of(table([-1, -1]), "single_label")
    with pytest.raises(DataError, match=r"^column 'labels': 2 labels; expected one$"):
        label_names_of(table([["a", "b"]]), "single_label")


def test_label_names_from_a_list_or_a_file() -> None:
    Path("recipes").mkdir()
    write(**{"recipes/labels__txt": "\ufeffanger\r\njoy \n\nlove\n", "twice__txt": "a\nb\na\n", "none__txt": "\n"})
    assert read_label_names(None) is None
    assert read_label_names(NAMES) == NAMES
    assert read_label_names("labels.txt", "recipes") == NAMES
    assert read_label_names(Path("recipes/labels.txt")) == NAMES
    for name, message in (
        ("twice.txt", "'a' is named twice"),
        ("none.txt", "no names"),
        ("gone.txt", "no file 'gone.txt'"),
    ):
        with pytest.raises(DataError, match=rf"^dataset.label_names: {message}"):
            read_label_names(name)


def test_a_split_without_labels_is_said(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    write(train__tsv="text\tlabels\na\tjoy\n", dev__tsv="text\tlabels\na\tjoy\n", test__tsv="text\nb\n")
    raw = read("*.tsv")
    encoded = encode(raw, tokenizer, task="single_label", label_names=NAMES)
    assert encoded["train"].column_names == ["input_ids", "token_type_ids", "attention_mask", "labels"]
    assert encoded["test"].column_names == ["input_ids", "token_type_ids", "attention_mask"]
    assert [record.getMessage() for record in caplog.records] == ["test: no labels (columns: text)"]
    write(train__csv="text\na\nb\n")
    for labels in ("labels", None):
        encoded = encode(read("train.csv"), tokenizer, task="multi_label", labels=labels)
        assert "labels" not in encoded["train"].column_names


def test_texts_become_unpadded_ids_in_their_order(tokenizer: Any) -> None:
    encoded = encode(table([0, 1], ["a b c", "d"]), tokenizer, task="single_label", label_names=NAMES)["train"]
    assert encoded.to_list() == [
        {"input_ids": [2, 4, 5, 6, 3], "token_type_ids": [0] * 5, "attention_mask": [1] * 5, "labels": 0},
        {"input_ids": [2, 7, 3], "token_type_ids": [0] * 3, "attention_mask": [1] * 3, "labels": 1},
    ]


def test_pairs(tokenizer: Any) -> None:
    raw = DatasetDict(train=Dataset.from_dict({"p": ["a b", "c"], "h": ["d", "e f g"], "labels": [0, 1]}))
    encoded = encode(raw, tokenizer, task="single_label", text="p", text_pair="h", label_names=NAMES, max_length=6)[
        "train"
    ]
    assert encoded["input_ids"][:] == [[2, 4, 5, 3, 7, 3], [2, 6, 3, 8, 9, 3]]
    assert encoded["token_type_ids"][:] == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_what_is_cut_is_counted_in_the_log(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    raw = table([0, 1, 2], ["a b c d", "a b", "a b c"])
    encoded = encode(raw, tokenizer, task="single_label", label_names=NAMES, max_length=4)["train"]
    assert encoded["input_ids"][:] == [[2, 4, 5, 3], [2, 4, 5, 3], [2, 4, 5, 3]]
    assert encoded["attention_mask"][:] == [[1] * 4] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "train: 2 of 3 texts (66.7 %) are longer than 4 tokens and were cut (dataset.max_length)"
    ]
    caplog.clear()
    encode(raw, tokenizer, task="single_label", label_names=NAMES, max_length=6)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_tokenizers_limit_holds_where_none_is_given(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = table([0], ["a b c d"])
    assert len(encode(raw, tokenizer, task="single_label", label_names=NAMES)["train"]["input_ids"][0]) == 6
    monkeypatch.setattr(tokenizer, "model_max_length", 5)
    assert len(encode(raw, tokenizer, task="single_label", label_names=NAMES)["train"]["input_ids"][0]) == 5


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b c", "d e f g h"]), st.sets(st.sampled_from(NAMES))), min_size=1, max_size=12
    )
)
def test_any_rows_keep_their_order_and_labels(rows: list[tuple[str, set[str]]]) -> None:
    def tokenize(texts: list[str], **options: Any) -> dict[str, list[Any]]:
        ids = [[ord(letter) for letter in text][: options.get("max_length")] for text in texts]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}

    raw = table([",".join(sorted(labels)) for _, labels in rows], [text for text, _ in rows])
    encoded = encode(raw, tokenize, task="multi_label", label_names=NAMES, max_length=4)["train"]
    assert encoded["input_ids"][:] == [[ord(letter) for letter in text][:4] for text, _ in rows]
    assert encoded["labels"][:] == [[float(name in labels) for name in NAMES] for _, labels in rows]


@pytest.mark.skipif(not (SHARED / "goemotions").is_dir(), reason="the shared copy of GoEmotions is not here")
def test_goemotions_is_read_as_its_own_loader_reads_it(tokenizer: Any) -> None:
    spec_ = importlib.util.spec_from_file_location("loaders", SHARED / "loaders.py")
    assert spec_ is not None
    assert spec_.loader is not None
    loaders = importlib.util.module_from_spec(spec_)
    spec_.loader.exec_module(loaders)
    raw = read(str(SHARED / "goemotions/*.tsv"), columns=["text", "labels", "id"])
    names = read_label_names(SHARED / "goemotions/labels.txt")
    assert names is not None
    encoded = encode(raw, tokenizer, task="multi_label", label_names=names)
    assert {split: len(rows) for split, rows in encoded.items()} == {"train": 43410, "validation": 5426}
    for split, rows in loaders.goemotions().items():
        ours = "train" if split == "train" else "validation"
        assert raw[ours]["text"][:] == [row["text"] for row in rows]
        found = [[label for label, on in enumerate(row) if on] for row in encoded[ours]["labels"][:]]
        assert found == [sorted(row["labels"]) for row in rows]
