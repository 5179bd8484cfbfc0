"""What is read of one file and what is refused, and where it says the mistake is."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from tables import read, refusal, write


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()


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
