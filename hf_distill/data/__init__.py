"""From the user's table to what the Trainer eats: `load` reads the rows, `encode` makes token ids and labels of them.

    raw = load(recipe.dataset, recipe.folder)        # DatasetDict: train, validation, perhaps test, as written
    names = read_label_names(recipe.dataset.label_names, recipe.folder) or label_names_of(raw, "multi_label")
    encoded = encode(raw, tokenizer, task="multi_label", label_names=names, id2label=teacher.config.id2label)

Nothing is dropped or changed in silence: a bad row is an error with its file and line, a text that is cut is counted
in the log. Nothing is padded: that is the collator's, which knows the batch.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Features, List, Value

from hf_distill.data.embedded import collator_for, embedded_rows
from hf_distill.data.error import DataError, short
from hf_distill.data.labels import (
    BadLabel,
    LabelReader,
    all_values,
    as_id,
    is_multi_hot,
    matched,
    numbered_names,
    ordered,
    parts_of,
    stated_names,
)
from hf_distill.data.rows import check_columns
from hf_distill.data.splits import SPLITS, draw, from_files, from_hub, hold_out, local_files
from hf_distill.recipe import DatasetSpec

__all__ = ["DataError", "collator_for", "embedded_rows", "encode", "label_names_of", "load", "read_label_names"]

logger = logging.getLogger(__name__)


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
    local = local_files(spec.path, Path(base_dir))
    found = from_hub(spec) if local is None else from_files(local, spec)
    for split, rows in found.items():
        check_columns(rows, spec, split, split)
    if "validation" not in found and spec.eval_fraction > 0:
        found = hold_out(found, spec.eval_fraction)
    for split in found:
        found[split] = draw(found[split], spec.max_train_rows if split == "train" else spec.max_eval_rows)
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
    stated = stated_names(dataset, labels)
    if stated:
        return stated
    values = all_values(dataset, labels)
    if task == "multi_label" and is_multi_hot(values, None):
        return numbered_names(len(values[0]))
    try:
        found = {part for value in values for part in parts_of(value, task, ()) if part not in (None, -1)}
    except BadLabel as error:
        raise DataError(f"column '{labels}': {error}") from error
    if not found:
        raise DataError(f"no labels in column '{labels}'; name them with dataset.label_names")
    if all(as_id(part) is not None for part in found):
        return numbered_names(max(as_id(part) or 0 for part in found) + 1)
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


def _reader(
    dataset: DatasetDict,
    task: str,
    labels: str,
    label_names: Sequence[str] | None,
    id2label: Mapping[int, str] | Sequence[str] | None,
) -> LabelReader | None:
    """How this column is read; None where no split has it."""
    if not any(labels in rows.column_names for rows in dataset.values()):
        return None
    if task == "regression":
        return LabelReader(task, {}, (), False)
    source = list(label_names) if label_names else stated_names(dataset, labels)
    target = ordered(id2label) or source or label_names_of(dataset, task, labels)
    source = source or target
    values = all_values(dataset, labels)
    multi_hot = task == "multi_label" and is_multi_hot(values, len(source))
    return LabelReader(task, *matched(source, target), multi_hot)


def _check_labels(rows: Dataset, reader: LabelReader, labels: str, text: str, split: str) -> None:
    """All rows are read once before any is tokenized, so that the error comes at once and counts them."""
    first, count = "", 0
    for index, value in enumerate(rows[labels][:]):
        try:
            reader(value)
        except BadLabel as error:
            count += 1
            first = first or f"row {index + 1} of {split} ({short(rows[index][text])}): {error}, in {short(value)}"
    if count:
        raise DataError(first + (f"; {count} rows of {split} have such labels" if count > 1 else ""))


def _encode_split(
    rows: Dataset,
    split: str,
    tokenizer: Callable[..., Mapping[str, Any]],
    columns: tuple[str, str | None],
    labels: str | None,
    reader: LabelReader | None,
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


def _features(example: Mapping[str, Any], reader: LabelReader | None) -> Features:
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
