"""From the user's table to the Trainer's columns: what is read, what is refused, and where it says the mistake is."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_distill.data import DataError, encode, label_names_of, load, read_label_names
from hf_distill.recipe import DatasetSpec

SHARED = Path(__file__).parents[2] / "shared/data"
NAMES = ["anger", "joy", "love"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    return tmp_path


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def write(**files: str) -> None:
    """`train__tsv="..."` becomes train.tsv."""
    for name, text in files.items():
        Path(name.replace("__", ".")).write_bytes(text.encode("utf-8"))


def read(path: str, **fields: Any) -> DatasetDict:
    return load(DatasetSpec(path=path, **fields))


def refusal(path: str, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **fields)
    return str(caught.value)


def table(labels: list[Any], texts: list[str] | None = None, feature: Any = None) -> DatasetDict:
    columns = {"text": texts or [f"a {'b ' * index}".strip() for index in range(len(labels))], "labels": labels}
    features = None if feature is None else Features({"text": Value("string"), "labels": feature})
    return DatasetDict(train=Dataset.from_dict(columns, features=features))


def targets(dataset: DatasetDict, tokenizer: Any, task: str, **options: Any) -> list[Any]:
    return list(encode(dataset, tokenizer, task=task, **options)["train"]["labels"][:])


# What is read


def test_tsv_has_no_quotes_and_only_line_feeds_end_a_row() -> None:
    write(train__tsv='text\tlabels\r\nsaid "no\t0\r\none\x85two\u2028three\x0bfour\t1\r\n\r\nlast "\t\n')
    raw = read("train.tsv", eval_fraction=0)
    assert list(raw) == ["train"]
    assert raw["train"]["text"][:] == ['said "no', "one\x85two\u2028three\x0bfour", 'last "']
    assert raw["train"]["labels"][:] == ["0", "1", ""]


def test_csv_has_quotes_and_keeps_every_value_as_text() -> None:
    write(train__csv='\ufefftext,labels,n\n"a, ""b""\nc",NA,1\nnull,x,02\n')
    rows = read("train.csv", eval_fraction=0)["train"]
    assert rows[:] == {"text": ['a, "b"\nc', "null"], "labels": ["NA", "x"], "n": ["1", "02"]}


def test_files_without_a_header_take_the_recipes_columns() -> None:
    write(train__tsv="a\t0\tx1\nb\t1\tx2\n", dev__tsv="c\t2\tx3\n")
    raw = read("*.tsv", columns=["text", "labels", "id"])
    assert raw["train"][:] == {"text": ["a", "b"], "labels": ["0", "1"], "id": ["x1", "x2"]}
    assert raw["validation"][0] == {"text": "c", "labels": "2", "id": "x3"}


@pytest.mark.parametrize("name", ["train__jsonl", "train__json"])
def test_json_lines(name: str) -> None:
    write(**{name: '{"text": "a", "labels": ["joy", "love"]}\n\n{"labels": [], "text": "b", "more": 1}\n'})
    rows = read(name.replace("__", "."), eval_fraction=0)["train"]
    assert rows[:] == {"text": ["a", "b"], "labels": [["joy", "love"], []], "more": [None, 1]}


def test_json_lists_and_parquet() -> None:
    rows = [{"text": "a", "labels": 0.5}, {"text": "b", "labels": 2.0}]
    write(train__json=json.dumps(rows))
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), "dev.parquet")
    raw = read(".")
    assert raw["train"].to_list() == rows
    assert raw["validation"].to_list() == rows


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


# What is refused


@pytest.mark.parametrize(
    ("name", "text", "fields", "message"),
    [
        (
            "a.tsv",
            "text\tlabels\nx\t0\ny\t0\t1\n\nz\n",
            {},
            "a.tsv:3: 3 columns; expected 2 ('text', 'labels')\na.tsv:5: 1",
        ),
        ("a.tsv", "text\tlabels\nx\t0\n \t0\n", {}, "a.tsv:3: 'text' is empty"),
        ("a.tsv", "text\tlabels\nx\t0\n\t\n", {}, "a.tsv:3: 'text' is empty"),
        ("a.tsv", "x\t0\n", {}, "a.tsv: no rows"),
        (
            "a.tsv",
            "x\t0\ny\t1\n",
            {},
            "a.tsv: no column 'text' (dataset.text) among 'x', '0'; a file without a header",
        ),
        (
            "a.tsv",
            "texts\tlabels\ny\t1\n",
            {},
            "a.tsv: no column 'text' (dataset.text) among 'texts', 'labels'; did you mean 'texts'?",
        ),
        (
            "a.tsv",
            "t\tl\nx\t1\n",
            {"columns": ["t", "l"], "text": "t"},
            "a.tsv:1: the file has a header; leave dataset.columns out",
        ),
        ("a.tsv", "text\ttext\nx\ty\n", {}, "a.tsv:1: a column is named twice: text, text"),
        ("a.tsv", "", {}, "a.tsv: no rows"),
        ("a.csv", 'text,labels\n"x\ny",0\nz\n', {}, "a.csv:4: 1 columns; expected 2 ('text', 'labels')"),
        ("a.csv", 'text,labels\nx,0\n"y,0\nz,1\n', {}, "a.csv:3: unexpected end of data"),
        ("a.csv", 'text,labels\n"x\ny",0\n"",1\n', {}, "a.csv:4: 'text' is empty"),
        (
            "a.jsonl",
            '{"text": "x", "labels": 0}\n{"text"\n[1]\n',
            {},
            "a.jsonl:2: not JSON: Expecting ':' delimiter\na.jsonl:3: [1]",
        ),
        ("a.jsonl", '{"text": "x", "labels": 0}\n\n{"labels": 0}\n', {}, "a.jsonl:3: 'text' is None; expected a text"),
        ("a.jsonl", '{"text": "x", "labels": 0}\n{"text": "y", "labels": "z"}\n', {}, "a.jsonl: "),
        ("a.json", '[{"text": "x", "labels": 0}, {"text": "", "labels": 0}]', {}, "a.json, row 2: 'text' is empty"),
        ("a.json", '{"text": "x"}', {}, "a.json: expected a list of objects, or one object a line"),
        ("a.txt", "x", {}, "a.txt: a '.txt' file; expected tsv, csv, json, jsonl, parquet"),
        (
            "a.tsv",
            "text\tlabel\nx\t1\n",
            {},
            "train: no column 'labels' (dataset.labels) among 'text', 'label'; did you mean 'label'?; say",
        ),
        (
            "a.tsv",
            "text\nx\n",
            {"labels": "emotion"},
            "train: no column 'emotion' (dataset.labels) among 'text'; say 'labels: null'",
        ),
        (
            "a.tsv",
            "text\tlabels\nx\t1\n",
            {"text_pair": "other"},
            "a.tsv: no column 'other' (dataset.text_pair) among 'text', 'labels'",
        ),
        (
            "a.tsv",
            "text\tlabels\nx\t1\n",
            {"eval_fraction": 0.1},
            "1 training rows are too few to hold out 10% of them for validation",
        ),
    ],
)
def test_bad_files_are_named_with_file_and_line(name: str, text: str, fields: Any, message: str) -> None:
    write(**{name.replace(".", "__"): text})
    found = refusal(name, **{"eval_fraction": 0.0, **fields})
    assert found.startswith(message), found


def test_of_many_bad_rows_five_are_named_and_all_counted() -> None:
    write(train__tsv="text\tlabels\n" + "\t0\n" * 9, dev__tsv="text\tlabels\nx\n")
    lines = refusal("*.tsv").split("\n")
    assert lines[:2] == ["train.tsv:2: 'text' is empty", "train.tsv:3: 'text' is empty"]
    assert lines[5:] == ["... and 5 more"]


def test_bytes_that_are_no_utf8_are_named() -> None:
    Path("a.tsv").write_bytes(b"text\tlabels\nx\xff\t0\n")
    assert refusal("a.tsv") == "a.tsv: not UTF-8 text (byte 13)"


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


# Labels


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


# Tokens


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
