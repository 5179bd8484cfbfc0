"""From the user's table to what the Trainer eats: `load` reads the rows, `encode` makes token ids and labels of them.

    raw = load(recipe.dataset, recipe.folder)        # DatasetDict: train, validation, perhaps test, as written
    names = read_label_names(recipe.dataset.label_names, recipe.folder) or label_names_of(raw, "multi_label")
    encoded = encode(raw, tokenizer, task="multi_label", label_names=names, id2label=teacher.config.id2label)

Nothing is dropped or changed in silence: a bad row is an error with its file and line, a text that is cut is counted
in the log. Nothing is padded: that is the collator's, which knows the batch.
"""

import csv
import difflib
import glob
import json
import logging
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_distill.recipe import DatasetSpec

logger = logging.getLogger(__name__)

SEED = 0
"""Of the rows that are held out or drawn: the same ones whatever the seed of a training."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
"""The splits of a data set, with the words in a file's name that say which one it is."""


class DataError(ValueError):
    """Data that cannot be used. The message names the file and line, or the split and row, and what was expected."""


def load(spec: DatasetSpec, base_dir: str | Path = ".") -> DatasetDict:
    """Read the rows of a data set, as they were written and in their order.

    Files are grouped into splits by their names (`train.tsv`, `dev.tsv`); files whose names say nothing are training
    rows. Without a validation split, `spec.eval_fraction` of the training rows is held out, drawn with a fixed seed.
    tsv files know no quotes, csv files do; both have a header unless `spec.columns` names the columns, and all their
    values are text. What is no local file is a Hub id.

    Args:
        spec: the `dataset` part of a recipe.
        base_dir: where relative paths are tried first; the current folder is next.

    Returns:
        `train`, and `validation` and `test` where there are any.

    Raises:
        DataError: nothing at the path; a row with another number of columns or without a text; a column that is not
            there. The first five bad rows are named with file and line.
    """
    local = _local_files(spec.path, Path(base_dir))
    found = _from_hub(spec) if local is None else _from_files(local, spec)
    for split, rows in found.items():
        _check_columns(rows, spec, split, split)
    if "validation" not in found and spec.eval_fraction > 0:
        found = _hold_out(found, spec.eval_fraction)
    for split in found:
        found[split] = _draw(found[split], spec.max_train_rows if split == "train" else spec.max_eval_rows)
    return DatasetDict({split: found[split] for split in SPLITS if split in found})


def read_label_names(label_names: Sequence[str] | str | Path | None, base_dir: str | Path = ".") -> list[str] | None:
    """The names of a recipe: a list as it is, a text file read, one name a line; None stays None.

    Raises:
        DataError: there is no such file, it is empty, or a name is in it twice.
    """
    if label_names is None:
        return None
    names = _lines_of(Path(label_names), Path(base_dir)) if isinstance(label_names, str | Path) else label_names
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if not names or twice:
        raise DataError(f"dataset.label_names: {f'{twice[0]!r} is named twice' if twice else 'no names'}")
    return [str(name) for name in names]


def _lines_of(path: Path, base_dir: Path) -> list[str]:
    for file in (base_dir / path.expanduser(), path.expanduser()):
        if file.is_file():
            return [line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    raise DataError(f"dataset.label_names: no file '{path}' (looked in '{base_dir}', then in the current folder)")


def label_names_of(dataset: DatasetDict, task: str, labels: str = "labels") -> list[str]:
    """The label set of a data set, where neither the teacher nor the recipe names it.

    Args:
        dataset: from `load`.
        task: `multi_label`, `single_label` or `regression`.
        labels: the column.

    Returns:
        The names of the `ClassLabel` column if it is one; else the names that occur, sorted; else, where labels are
        ids or multi-hot, `LABEL_0` to the highest one, as transformers writes them.

    Raises:
        DataError: there are no labels to find names in.
    """
    if task == "regression":
        return ["LABEL_0"]
    stated = _stated_names(dataset, labels)
    if stated:
        return stated
    values = _all_values(dataset, labels)
    if task == "multi_label" and _is_multi_hot(values, None):
        return _numbered(len(values[0]))
    try:
        found = {part for value in values for part in _parts(value, task, ()) if part not in (None, -1)}
    except _BadLabel as error:
        raise DataError(f"column '{labels}': {error}") from error
    if not found:
        raise DataError(f"no labels in column '{labels}'; name them with dataset.label_names")
    if all(_as_id(part) is not None for part in found):
        return _numbered(max(_as_id(part) or 0 for part in found) + 1)
    return sorted(str(part) for part in found)


def encode(
    dataset: DatasetDict,
    tokenizer: Callable[..., Mapping[str, Any]],
    *,
    task: str,
    text: str = "text",
    text_pair: str | None = None,
    labels: str | None = "labels",
    label_names: Sequence[str] | None = None,
    id2label: Mapping[int, str] | Sequence[str] | None = None,
    max_length: int | None = None,
) -> DatasetDict:
    """Texts to token ids, labels to what the task's loss takes. One row stays one row, in its place.

    A label is a name, an id, or an id as text, and a text is looked up as a name first; several are a list, a text
    with commas, or a multi-hot row (of a whole column: then every row is one). An id means a place in `label_names`,
    or in the column's own `ClassLabel` names, and is brought into the model's order through the name.

    Args:
        dataset: from `load`.
        tokenizer: of transformers.
        task: `multi_label`, `single_label` or `regression`.
        text: the column of texts.
        text_pair: the column of second texts.
        labels: the column of labels; None, or a column that is not there, leaves the split without labels, which the
            log says.
        label_names: what ids in the data mean.
        id2label: the model's labels in the order of its outputs; `label_names`' own order where it is left out.
        max_length: longer texts are cut to so many tokens; by default to what the tokenizer takes. The log counts
            them.

    Returns:
        The same splits with `input_ids`, `attention_mask`, `token_type_ids` where the tokenizer gives them, and
        `labels`: multi_label a float32 list with one 0 or 1 a label, single_label an int, regression a float.

    Raises:
        DataError: a label that the model does not have, or none at all; names the split, the row and the value.
    """
    reader = None if labels is None else _reader(dataset, task, labels, label_names, id2label)
    limit = max_length or _limit_of(tokenizer)
    encoded = {}
    for split, rows in dataset.items():
        has_labels = labels in rows.column_names
        if not has_labels:
            logger.warning("%s: no labels (columns: %s)", split, ", ".join(rows.column_names))
        if has_labels and reader is not None and labels is not None:
            _check_labels(rows, reader, labels, text, split)
        encoded[split] = _encode_split(
            rows, split, tokenizer, (text, text_pair), labels if has_labels else None, reader, limit
        )
    return DatasetDict(encoded)


def _local_files(path: str, base_dir: Path) -> list[Path] | None:
    """The files that a path names; None if it must be a Hub id."""
    pattern = Path(path).expanduser()
    for root in (base_dir, Path()):
        files = _expand(root, pattern)
        if files:
            return files
        if (root / pattern).is_dir():
            raise DataError(f"dataset.path: no {_kinds()} file in '{root / pattern}'")
    if glob.has_magic(path) or path.startswith((".", "/", "~")) or path.count("/") > 1 or pattern.suffix in READERS:
        looked = f"looked in '{base_dir}', then in the current folder"
        raise DataError(f"dataset.path: nothing at '{path}' ({looked})")
    return None


def _expand(root: Path, pattern: Path) -> list[Path]:
    target = root / pattern
    if target.is_dir():
        files = [path for path in target.iterdir() if path.suffix in READERS]
        return sorted(files or [path for path in target.rglob("*") if path.suffix in READERS])
    if target.is_file():
        return [target]
    found = [root / name for name in glob.glob(str(pattern), root_dir=root, recursive=True)]
    return sorted(path for path in found if path.is_file())


def _from_files(files: list[Path], spec: DatasetSpec) -> dict[str, Dataset]:
    bad: list[str] = []
    read = {split: [_read(file, spec, bad) for file in members] for split, members in _by_split(files, spec).items()}
    _refuse_rows(bad)
    found: dict[str, Dataset] = {}
    for split, parts in read.items():
        try:
            found[split] = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        except (ValueError, pa.ArrowException) as error:
            raise DataError(f"the files of {split} do not fit together: {error}") from error
    return found


def _refuse_rows(bad: list[str]) -> None:
    if bad:
        raise DataError("\n".join(bad[:5] + [f"... and {len(bad) - 5} more"] * (len(bad) > 5)))


def _by_split(files: list[Path], spec: DatasetSpec) -> dict[str, list[Path]]:
    """Which files are which split: by the recipe's split names, then by the words in the files' names."""
    wanted = {"train": spec.train_split, "validation": spec.eval_split, "test": spec.test_split}
    if not any(wanted.values()) and all(_split_of(file.stem) is None for file in files):
        return {"train": files}
    found: dict[str, list[Path]] = {}
    for split, name in wanted.items():
        exact = [file for file in files if file.stem == name]
        alike = [
            file for file in files if _split_of(file.stem) == (split if name is None else _split_of(name) or name)
        ]
        if exact or alike:
            found[split] = exact or alike
        elif name is not None:
            raise DataError(f"dataset: no file for the split '{name}' among {', '.join(file.name for file in files)}")
    lost = [file.name for file in files if not any(file in members for members in found.values())]
    if lost and not any(wanted.values()):
        raise DataError(f"dataset.path: '{lost[0]}' is neither train, dev nor test by its name; narrow the pattern")
    if "train" not in found and len(files) == 1:
        return {"train": files}
    if "train" not in found:
        names = ", ".join(file.name for file in files)
        raise DataError(f"dataset: no training file among {names}; name dataset.train_split")
    return found


def _split_of(stem: str) -> str | None:
    """`goemotions_train-00000-of-00002` is train."""
    words = re.split(r"[^a-z]+", stem.lower())
    return next((split for split, names in SPLITS.items() if any(name in words for name in names)), None)


def _from_hub(spec: DatasetSpec) -> dict[str, Dataset]:
    try:
        loaded = datasets.load_dataset(spec.path, spec.name)
    except Exception as error:  # the Hub's client raises what it likes; the user needs the name and the reason
        reason = " ".join(str(error).split())
        raise DataError(f"dataset.path: '{spec.path}' is no file here, and not on the Hub: {reason}") from error
    found: dict[str, Dataset] = {}
    for split, name in (("train", spec.train_split), ("validation", spec.eval_split), ("test", spec.test_split)):
        names = [name] if name else list(SPLITS[split])
        present = next((candidate for candidate in names if candidate in loaded), None)
        if present is not None:
            found[split] = loaded[present]
        elif name or split == "train":
            raise DataError(f"dataset: '{spec.path}' has no split '{names[0]}'; it has {', '.join(loaded)}")
    bad = [f"{split} {line}" for split, rows in found.items() for line in _bad_texts(rows, spec, "row {}".format)]
    _refuse_rows(bad)
    return found


def _hold_out(found: dict[str, Dataset], fraction: float) -> dict[str, Dataset]:
    """A part of train as validation; both keep the order of the rows."""
    rows = found["train"]
    count = max(1, round(len(rows) * fraction))
    if count >= len(rows):
        raise DataError(f"{len(rows)} training rows are too few to hold out {fraction:.0%} of them for validation")
    held = set(random.Random(SEED).sample(range(len(rows)), count))
    logger.info("no validation split: %d of %d training rows are held out", count, len(rows))
    train = rows.select([index for index in range(len(rows)) if index not in held])
    return {**found, "train": train, "validation": rows.select(sorted(held))}


def _draw(rows: Dataset, limit: int | None) -> Dataset:
    """So many rows, drawn over the whole (files are often sorted by label) and kept in order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(sorted(random.Random(SEED).sample(range(len(rows)), limit)))


def _read(file: Path, spec: DatasetSpec, bad: list[str]) -> Dataset:
    """One file's rows; `bad` gets a line for each row that cannot be used."""
    reader, before = READERS.get(file.suffix), len(bad)
    if reader is None:
        raise DataError(f"{file}: a '{file.suffix}' file; expected {_kinds()}")
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
    _check_columns(rows, spec, str(file), None)
    bad += _bad_texts(rows, spec, place)
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
            names = ", ".join(map(_short, columns))
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
            bad.append(f"{file}:{number}: {_short(row)}; expected an object with a key for each column")
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


def _kinds() -> str:
    return ", ".join(suffix.removeprefix(".") for suffix in READERS)


def _check_columns(rows: Dataset, spec: DatasetSpec, where: str, split: str | None) -> None:
    """Texts must be there; labels too if the recipe names them, in every split but test."""
    for key, name in (("text", spec.text), ("text_pair", spec.text_pair)):
        if name is not None and name not in rows.column_names:
            hint = "" if spec.columns else "; a file without a header needs dataset.columns"
            raise DataError(f"{where}: {_no_column(name, rows, f'dataset.{key}')}{hint}")
    if spec.labels is None or spec.labels in rows.column_names or split not in ("train", "validation"):
        return
    if "labels" in spec.model_fields_set or _close(spec.labels, rows.column_names):
        found = _no_column(spec.labels, rows, "dataset.labels")
        raise DataError(f"{where}: {found}; say 'labels: null' if there are none")


def _no_column(name: str, rows: Dataset, key: str) -> str:
    found = ", ".join(map(_short, rows.column_names))
    close = _close(name, rows.column_names)
    return f"no column '{name}' ({key}) among {found}" + (f"; did you mean '{close}'?" if close else "")


def _bad_texts(rows: Dataset, spec: DatasetSpec, place: Callable[[int], str]) -> Iterator[str]:
    for index, value in enumerate(rows[spec.text][:]):
        if not isinstance(value, str):
            yield f"{place(index)}: '{spec.text}' is {_short(value)}; expected a text"
        elif not value.strip():
            yield f"{place(index)}: '{spec.text}' is empty"
    if spec.text_pair is not None:
        for index, value in enumerate(rows[spec.text_pair][:]):
            if not isinstance(value, str):
                yield f"{place(index)}: '{spec.text_pair}' is {_short(value)}; expected a text"


class _BadLabel(Exception):
    """What is wrong with one label."""


@dataclass(frozen=True)
class _LabelReader:
    """One cell of the labels' column as the target of one row.

    Attributes:
        ids: the model's output for each name.
        order: the model's output for each id in the data.
    """

    task: str
    ids: dict[str, int]
    order: tuple[int, ...]
    multi_hot: bool

    def __call__(self, value: Any) -> float | int | list[float]:
        if self.task == "regression":
            return _number(value)
        if self.multi_hot:
            found = [self.order[place] for place, on in enumerate(value) if on]
        else:
            found = [self._id(part) for part in _parts(value, self.task, self.ids)]
        if self.task == "single_label":
            return found[0]
        row = [0.0] * len(self.ids)
        for label in found:
            row[label] = 1.0
        return row

    def _id(self, part: Any) -> int:
        if part is None:
            raise _BadLabel("no label")
        if isinstance(part, str) and part in self.ids:
            return self.ids[part]
        number = _as_id(part)
        if number is not None and 0 <= number < len(self.order):
            return self.order[number]
        raise _BadLabel(self._unknown(part, number))

    def _unknown(self, part: Any, number: int | None) -> str:
        if number == -1:
            return "-1, which marks a hidden label: this split cannot be used"
        if number is not None:
            return f"there is no label {number}; ids are 0 to {len(self.order) - 1}"
        names = list(self.ids)
        known = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
        close = _close(str(part), names)
        return f"unknown label {_short(part)}; known: {known}" + (f"; did you mean '{close}'?" if close else "")


def _reader(
    dataset: DatasetDict,
    task: str,
    labels: str,
    label_names: Sequence[str] | None,
    id2label: Mapping[int, str] | Sequence[str] | None,
) -> _LabelReader | None:
    """How this column is read; None where no split has it."""
    if not any(labels in rows.column_names for rows in dataset.values()):
        return None
    if task == "regression":
        return _LabelReader(task, {}, (), False)
    source = list(label_names) if label_names else _stated_names(dataset, labels)
    target = _ordered(id2label) or source or label_names_of(dataset, task, labels)
    source = source or target
    values = _all_values(dataset, labels)
    multi_hot = task == "multi_label" and _is_multi_hot(values, len(source))
    return _LabelReader(task, *_matched(source, target), multi_hot)


def _matched(source: list[str], target: list[str]) -> tuple[dict[str, int], tuple[int, ...]]:
    """The data's names brought to the model's outputs: by name; by place where one side only has LABEL_0 and so on."""
    if source != target and (_is_numbered(source) or _is_numbered(target)):
        if len(source) != len(target):
            raise DataError(f"the data has {len(source)} labels, the model {len(target)}")
        logger.info("labels are matched by their place: the data's and the model's do not both have names")
        names = source if _is_numbered(target) else target
        return {name: place for place, name in enumerate(names)}, tuple(range(len(names)))
    ids = {name: place for place, name in enumerate(target)}
    unknown = [name for name in source if name not in ids]
    if unknown:
        close = _close(unknown[0], target)
        raise DataError(
            f"the data's label '{unknown[0]}' is none of the model's {len(target)}"
            + (f"; did you mean '{close}'?" if close else f": {', '.join(target[:8])}")
        )
    return ids, tuple(ids[name] for name in source)


def _ordered(id2label: Mapping[int, str] | Sequence[str] | None) -> list[str] | None:
    if id2label is None or not isinstance(id2label, Mapping):
        return list(id2label) if id2label else None
    by_id = {int(number): name for number, name in id2label.items()}  # a config.json has its ids as text
    return [by_id[number] for number in sorted(by_id)]


def _check_labels(rows: Dataset, reader: _LabelReader, labels: str, text: str, split: str) -> None:
    """All rows are read once before any is tokenized, so that the error comes at once and counts them."""
    first, count = "", 0
    for index, value in enumerate(rows[labels][:]):
        try:
            reader(value)
        except _BadLabel as error:
            count += 1
            first = first or f"row {index + 1} of {split} ({_short(rows[index][text])}): {error}, in {_short(value)}"
    if count:
        raise DataError(first + (f"; {count} rows of {split} have such labels" if count > 1 else ""))


def _encode_split(
    rows: Dataset,
    split: str,
    tokenizer: Callable[..., Mapping[str, Any]],
    columns: tuple[str, str | None],
    labels: str | None,
    reader: _LabelReader | None,
    limit: int | None,
) -> Dataset:
    def encode_batch(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        texts = [batch[column] for column in columns if column is not None]
        result = _tokenized(tokenizer, texts, limit)
        if labels is not None and reader is not None:
            result["labels"] = [reader(value) for value in batch[labels]]
        return result

    # An empty column of the old name but another type would make `map` keep the old type.
    kept = [name for name in dict.fromkeys((*columns, labels)) if name is not None]
    features = _features(encode_batch(rows[:1]), reader if labels is not None else None)
    rows = rows.select_columns(kept)
    encoded = rows.map(encode_batch, batched=True, remove_columns=kept, features=features, desc=f"encoding {split}")
    cut = 0 if limit is None else sum(length > limit for length in encoded["full_length"][:])
    if cut:
        message = "%s: %d of %d texts (%.1f %%) are longer than %d tokens and were cut (dataset.max_length)"
        logger.warning(message, split, cut, len(encoded), 100 * cut / len(encoded), limit)
    return encoded.remove_columns("full_length")


def _tokenized(
    tokenizer: Callable[..., Mapping[str, Any]], texts: list[list[str]], limit: int | None
) -> dict[str, Any]:
    """Token ids, cut to the limit, and `full_length`: what they would have been."""
    result = {name: list(values) for name, values in tokenizer(*texts, truncation=False, verbose=False).items()}
    lengths = [len(ids) for ids in result["input_ids"]]
    long = [] if limit is None else [index for index, length in enumerate(lengths) if length > limit]
    if long:  # again, since only the tokenizer knows which tokens must stay at the end
        cut = tokenizer(*[[column[index] for index in long] for column in texts], truncation=True, max_length=limit)
        for name in result:
            for place, index in enumerate(long):
                result[name][index] = cut[name][place]
    return {**result, "full_length": lengths}


def _features(example: Mapping[str, Any], reader: _LabelReader | None) -> Features:
    types: dict[str, Any] = {name: List(Value("int32")) for name in example if name not in ("full_length", "labels")}
    for name in ("token_type_ids", "attention_mask"):
        if name in types:
            types[name] = List(Value("int8"))
    types["full_length"] = Value("int32")
    if reader is not None:
        types["labels"] = {
            "multi_label": List(Value("float32")),
            "single_label": Value("int64"),
            "regression": Value("float32"),
        }[reader.task]
    return Features(types)


def _limit_of(tokenizer: Any) -> int | None:
    """transformers writes 1e30 for a tokenizer that does not know its model's limit."""
    limit = getattr(tokenizer, "model_max_length", None)
    return int(limit) if limit is not None and limit < 1e6 else None


def _stated_names(dataset: DatasetDict, labels: str) -> list[str] | None:
    for rows in dataset.values():
        feature = rows.features.get(labels)
        feature = getattr(feature, "feature", feature)  # a list of ClassLabel
        if isinstance(feature, ClassLabel):
            return list(feature.names)
    return None


def _all_values(dataset: DatasetDict, labels: str) -> list[Any]:
    return [value for rows in dataset.values() if labels in rows.column_names for value in rows[labels][:]]


def _is_multi_hot(values: Sequence[Any], width: int | None) -> bool:
    """Whether every row is a list of so many zeros and ones; of one row alone that could be ids as well."""
    if not values or not isinstance(values[0], list) or len(values[0]) < 2:
        return False
    width = width or len(values[0])
    return all(isinstance(row, list) and len(row) == width and all(on in (0, 1) for on in row) for row in values)


def _parts(value: Any, task: str, names: Iterable[str]) -> list[Any]:
    """The labels in one cell. For a single label there is one, commas or not."""
    if isinstance(value, str):
        text = value.strip()
        if task == "single_label" or text in names:
            return [text or None]
        inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text  # a list that was written as text
        return [part.strip(" '\"") for part in inner.split(",") if part.strip()]
    if isinstance(value, list):
        if task == "single_label":
            if len(value) != 1:
                raise _BadLabel(f"{len(value)} labels; expected one")
            return value
        return [part.strip() if isinstance(part, str) else part for part in value]
    return [value]


def _as_id(part: Any) -> int | None:
    if isinstance(part, str):
        return int(part) if re.fullmatch(r"-?\d+", part) else None
    if isinstance(part, float):
        return int(part) if part.is_integer() else None
    return part if isinstance(part, int) else None


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise _BadLabel("expected a number")
    return number


def _numbered(count: int) -> list[str]:
    return [f"LABEL_{index}" for index in range(count)]


def _is_numbered(names: list[str]) -> bool:
    return names == _numbered(len(names))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:47]}..."


def _close(name: str, known: Iterable[str]) -> str | None:
    lowered = {entry.lower(): entry for entry in known}
    found = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
    return lowered[found[0]] if found else None
