"""The rows of one file, each knowing its line; and what makes a row or its columns unusable.

A bad row is never dropped: it becomes a line of the error, with its file and line.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset

from hf_distill.data.error import DataError, short
from hf_distill.recipe import DatasetSpec
from hf_distill.recipe.did_you_mean import closest, did_you_mean


def read_rows(file: Path, spec: DatasetSpec, bad: list[str]) -> Dataset:
    """One file's rows; `bad` gets a line for each row that cannot be used."""
    reader, before = READERS.get(file.suffix), len(bad)
    if reader is None:
        raise DataError(f"{file}: a '{file.suffix}' file; expected {kinds()}")
    try:
        rows, place, columns = reader(file, spec, bad)
        if columns is not None:
            rows = Dataset.from_dict({name: [row.get(name) for row in rows] for name in columns})
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text (byte {error.start})") from error
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(f"{file}: {' '.join(str(error).split())}") from error
    if not len(rows):
        bad += [] if len(bad) > before else [f"{file}: no rows"]
        return rows
    check_columns(rows, spec, str(file), None)
    bad += bad_texts(rows, spec, place)
    return rows


Read = tuple[Any, Callable[[int], str], list[str] | None]
"""Rows (dicts, or a Dataset), where the i-th of them is, and the columns' names (None beside a Dataset)."""


def _at_lines(file: Path, lines: list[int]) -> Callable[[int], str]:
    return lambda index: f"{file}:{lines[index]}"


def _at_rows(file: Path) -> Callable[[int], str]:
    return lambda index: f"{file}, row {index + 1}"


def _read_tsv(file: Path, spec: DatasetSpec, bad: list[str]) -> Read:
    # Only a line feed ends a row: str.splitlines would also split at the rarer breaks that texts contain.
    lines = file.read_bytes().decode("utf-8-sig").split("\n")
    cells = (
        (number, line.removesuffix("\r").split("\t")) for number, line in enumerate(lines, 1) if line not in ("", "\r")
    )
    return _table(file, cells, spec, bad)


def _read_csv(file: Path, spec: DatasetSpec, bad: list[str]) -> Read:
    with open(file, encoding="utf-8-sig", newline="") as stream:
        return _table(file, _csv_rows(file, stream), spec, bad)


def _csv_rows(file: Path, stream: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(stream, strict=True)
    while True:
        line = reader.line_num + 1  # a quoted cell may span lines: a row is where it begins
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{file}:{line}: {error}") from error
        if cells:
            yield line, cells


def _table(file: Path, numbered: Iterator[tuple[int, list[str]]], spec: DatasetSpec, bad: list[str]) -> Read:
    columns = spec.columns or next(numbered, (0, []))[1]
    if len(set(columns)) != len(columns):
        raise DataError(f"{file}:1: a column is named twice: {', '.join(columns)}")
    rows, lines = [], []
    for line, cells in numbered:
        if cells == spec.columns:
            raise DataError(f"{file}:{line}: the file has a header; leave dataset.columns out")
        if len(cells) != len(columns):
            names = ", ".join(map(short, columns))
            bad.append(f"{file}:{line}: {len(cells)} columns; expected {len(columns)} ({names})")
            continue
        rows.append(dict(zip(columns, cells, strict=True)))
        lines.append(line)
    return rows, _at_lines(file, lines), list(columns)


def _read_jsonl(file: Path, spec: DatasetSpec, bad: list[str]) -> Read:
    rows, lines = [], []
    for number, line in enumerate(file.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(f"{file}:{number}: not JSON: {error.msg}")
            continue
        if isinstance(row, dict):
            rows.append(row)
            lines.append(number)
        else:
            bad.append(f"{file}:{number}: {short(row)}; expected an object with a key for each column")
    return rows, _at_lines(file, lines), list(dict.fromkeys(key for row in rows for key in row))


def _read_json(file: Path, spec: DatasetSpec, bad: list[str]) -> Read:
    """A list of objects; or one object a line, as many tools write under this name."""
    try:
        rows = json.loads(file.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError:
        return _read_jsonl(file, spec, bad)
    if not (isinstance(rows, list) and all(isinstance(row, dict) for row in rows)):
        raise DataError(f"{file}: expected a list of objects, or one object a line")
    return rows, _at_rows(file), list(dict.fromkeys(key for row in rows for key in row))


def _read_parquet(file: Path, spec: DatasetSpec, bad: list[str]) -> Read:
    rows = Dataset(pyarrow.parquet.read_table(file))
    return rows, _at_rows(file), None


READERS: dict[str, Callable[[Path, DatasetSpec, list[str]], Read]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def kinds() -> str:
    """The suffixes of files that can be read, for an error."""
    return ", ".join(suffix.removeprefix(".") for suffix in READERS)


def check_columns(rows: Dataset, spec: DatasetSpec, where: str, split: str | None) -> None:
    """Texts must be there; labels too if the recipe names them, in every split but test."""
    for key, name in (("text", spec.text), ("text_pair", spec.text_pair)):
        if name is not None and name not in rows.column_names:
            hint = "" if spec.columns else "; a file without a header needs dataset.columns"
            raise DataError(f"{where}: {_no_column(name, rows, f'dataset.{key}')}{hint}")
    if spec.labels is None or spec.labels in rows.column_names or split not in ("train", "validation"):
        return
    if "labels" in spec.model_fields_set or closest(spec.labels, rows.column_names):
        found = _no_column(spec.labels, rows, "dataset.labels")
        raise DataError(f"{where}: {found}; say 'labels: null' if there are none")


def _no_column(name: str, rows: Dataset, key: str) -> str:
    found = ", ".join(map(short, rows.column_names))
    return f"no column '{name}' ({key}) among {found}{did_you_mean(name, rows.column_names, False)}"


def bad_texts(rows: Dataset, spec: DatasetSpec, place: Callable[[int], str]) -> Iterator[str]:
    """A line for each text that is none or empty."""
    for index, value in enumerate(rows[spec.text][:]):
        if not isinstance(value, str):
            yield f"{place(index)}: '{spec.text}' is {short(value)}; expected a text"
        elif not value.strip():
            yield f"{place(index)}: '{spec.text}' is empty"
    if spec.text_pair is not None:
        for index, value in enumerate(rows[spec.text_pair][:]):
            if not isinstance(value, str):
                yield f"{place(index)}: '{spec.text_pair}' is {short(value)}; expected a text"


def refuse_rows(bad: list[str]) -> None:
    """One error for all bad rows; the first five are named."""
    if bad:
        raise DataError("\n".join(bad[:5] + [f"... and {len(bad) - 5} more"] * (len(bad) > 5)))
