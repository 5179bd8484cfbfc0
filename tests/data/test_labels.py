"""Every way to write a label comes to the same targets, in the model's order; what is no label is named."""

from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, List, Value
from tables import NAMES, letters, table, targets
from transformers import PreTrainedTokenizerFast

from hf_distill.data import DataError, encode


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return letters()


@pytest.mark.parametrize(
    "labels",
    [
        ["0,2", "1", "", "2, 0"],
        ["anger,love", "joy", "", "love , anger"],
        ["['anger', 'love']", "['joy']", "[]", "[2, 0]"],
        [["anger", "love"], ["joy"], [], ["love", "anger", "love"]],
        [[0, 2], [1], [], [2, 0]],
        [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]],
        [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]],
        [[True, False, True], [False, True, False], [False, False, False], [True, False, True]],
        [["0", "2"], ["1"], [], ["2", "anger"]],
    ],
)
def test_every_way_to_write_several_labels(labels: list[Any], tokenizer: Any) -> None:
    encoded = encode(table(labels), tokenizer, task="multi_label", label_names=NAMES)["train"]
    assert encoded["labels"][:] == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert encoded.features["labels"] == List(Value("float32"))


def test_one_id_a_row_is_several_labels_too(tokenizer: Any) -> None:
    assert targets(table([2, 0]), tokenizer, "multi_label", label_names=NAMES) == [[0, 0, 1], [1, 0, 0]]


def test_multi_hot_is_decided_by_the_whole_column(tokenizer: Any) -> None:
    assert targets(table([[0, 1], [1]]), tokenizer, "multi_label", label_names=["x", "y"]) == [[1, 1], [0, 1]]
    assert targets(table([[0, 1], [1, 1]]), tokenizer, "multi_label", label_names=["x", "y"]) == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    "labels", [[1, 0, 2], ["1", "0", "2"], ["joy", "anger", "love"], [1.0, 0.0, 2.0], [["joy"], ["anger"], ["love"]]]
)
def test_every_way_to_write_one_label(labels: list[Any], tokenizer: Any) -> None:
    assert targets(table(labels), tokenizer, "single_label", label_names=NAMES) == [1, 0, 2]


def test_a_name_may_hold_commas_or_be_a_number(tokenizer: Any) -> None:
    names = ["yes, please", "no", "7", "0"]
    assert targets(table(["yes, please", "0", "7"]), tokenizer, "single_label", label_names=names) == [0, 3, 2]
    assert targets(table(["yes, please", "no,0"]), tokenizer, "multi_label", label_names=names) == [
        [1, 0, 0, 0],
        [0, 1, 0, 1],
    ]


def test_numbers_are_the_labels_of_a_regression(tokenizer: Any) -> None:
    encoded = encode(table(["0.5", "-2"]), tokenizer, task="regression")["train"]
    assert encoded["labels"][:] == [0.5, -2.0]
    assert encoded.features["labels"] == Value("float32")


def test_ids_are_brought_into_the_models_order_by_name(tokenizer: Any) -> None:
    model = {2: "anger", 0: "love", 1: "joy"}
    assert targets(table([0, 1, 2]), tokenizer, "single_label", label_names=NAMES, id2label=model) == [2, 1, 0]
    assert targets(table([[0], [1, 2]]), tokenizer, "multi_label", label_names=NAMES, id2label=model) == [
        [0, 0, 1],
        [1, 1, 0],
    ]
    hot = table([[1, 0, 0], [0, 1, 1]])
    assert targets(hot, tokenizer, "multi_label", label_names=NAMES, id2label=model) == [[0, 0, 1], [1, 1, 0]]
    stated = table([0, 1, 2], feature=ClassLabel(names=NAMES))
    assert targets(stated, tokenizer, "single_label", id2label=model) == [2, 1, 0]
    # Without names in the data, an id is the model's own.
    assert targets(table([0, 1, 2]), tokenizer, "single_label", id2label=model) == [0, 1, 2]
    assert targets(table(["anger", "love"]), tokenizer, "single_label", id2label=model) == [2, 0]


def test_a_model_without_names_takes_the_datas_by_place(tokenizer: Any) -> None:
    model = {str(index): f"LABEL_{index}" for index in range(3)}
    assert targets(table(["joy", "2"]), tokenizer, "single_label", label_names=NAMES, id2label=model) == [1, 2]  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^the data has 2 labels, the model 3$"):
        encode(
            table(["a"]),
            tokenizer,
            task="single_label",
            label_names=["a", "b"],
            id2label=["LABEL_0", "LABEL_1", "LABEL_2"],
        )


def test_labels_that_the_model_does_not_have_are_refused(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"^the data's label 'lov' is none of the model's 3; did you mean 'love'\?$"):
        encode(table([0]), tokenizer, task="single_label", label_names=["joy", "lov"], id2label=NAMES)
    assert targets(table([0, 1]), tokenizer, "single_label", label_names=["love", "joy"], id2label=NAMES) == [2, 1]


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        (
            "multi_label",
            ["joy", "joy,lov", "hate"],
            "row 2 of train ('a b'): unknown label 'lov'; known: anger, joy, love; did you mean 'love'?, in 'joy,lov'"
            "; 2 rows of train have such labels",
        ),
        ("multi_label", ["joy", "0,3"], "row 2 of train ('a b'): there is no label 3; ids are 0 to 2, in '0,3'"),
        ("multi_label", [[0], None], "row 2 of train ('a b'): no label, in None"),
        (
            "multi_label",
            [[0, 0, 1, 0], [1, 0, 0, 9]],
            "row 2 of train ('a b'): there is no label 9; ids are 0 to 2, in [1, 0, 0, 9]",
        ),
        (
            "single_label",
            [0, -1],
            "row 2 of train ('a b'): -1, which marks a hidden label: this split cannot be used, in -1",
        ),
        ("single_label", ["joy", ""], "row 2 of train ('a b'): no label, in ''"),
        (
            "single_label",
            [["joy"], ["joy", "love"]],
            "row 2 of train ('a b'): 2 labels; expected one, in ['joy', 'love']",
        ),
        ("single_label", [1.0, 1.5], "row 2 of train ('a b'): unknown label 1.5; known: anger, joy, love, in 1.5"),
        ("regression", ["1", "high"], "row 2 of train ('a b'): expected a number, in 'high'"),
        ("regression", [1.0, float("nan")], "row 2 of train ('a b'): expected a number, in nan"),
    ],
)
def test_a_bad_label_names_row_and_value(task: str, labels: list[Any], message: str, tokenizer: Any) -> None:
    with pytest.raises(DataError) as caught:
        encode(table(labels), tokenizer, task=task, label_names=NAMES)
    assert str(caught.value) == message
