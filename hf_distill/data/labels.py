"""One cell of a column of labels, however it is written, as what the loss takes; in the order of the model's outputs.

A label is a name, an id, or an id as text; several are a list, a text with commas, or a multi-hot row.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, DatasetDict

from hf_distill.data.error import DataError, short
from hf_distill.recipe.did_you_mean import did_you_mean

logger = logging.getLogger(__name__)


class BadLabel(Exception):
    """What is wrong with one label."""


@dataclass(frozen=True)
class LabelReader:
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
            found = [self._id(part) for part in parts_of(value, self.task, self.ids)]
        if self.task == "single_label":
            return found[0]
        row = [0.0] * len(self.ids)
        for label in found:
            row[label] = 1.0
        return row

    def _id(self, part: Any) -> int:
        if part is None:
            raise BadLabel("no label")
        if isinstance(part, str) and part in self.ids:
            return self.ids[part]
        number = as_id(part)
        if number is not None and 0 <= number < len(self.order):
            return self.order[number]
        raise BadLabel(self._unknown(part, number))

    def _unknown(self, part: Any, number: int | None) -> str:
        if number == -1:
            return "-1, which marks a hidden label: this split cannot be used"
        if number is not None:
            return f"there is no label {number}; ids are 0 to {len(self.order) - 1}"
        names = list(self.ids)
        known = ", ".join(names[:8]) + (f", ... ({len(names)})" if len(names) > 8 else "")
        return f"unknown label {short(part)}; known: {known}{did_you_mean(str(part), names, False)}"


def matched(source: list[str], target: list[str]) -> tuple[dict[str, int], tuple[int, ...]]:
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
        hint = did_you_mean(unknown[0], target, False) or f": {', '.join(target[:8])}"
        raise DataError(f"the data's label '{unknown[0]}' is none of the model's {len(target)}{hint}")
    return ids, tuple(ids[name] for name in source)


def ordered(id2label: Mapping[int, str] | Sequence[str] | None) -> list[str] | None:
    """The model's labels in the order of its outputs; None where it names none."""
    if id2label is None or not isinstance(id2label, Mapping):
        return list(id2label) if id2label else None
    by_id = {int(number): name for number, name in id2label.items()}  # a config.json has its ids as text
    return [by_id[number] for number in sorted(by_id)]


def stated_names(dataset: DatasetDict, labels: str) -> list[str] | None:
    """The names of a `ClassLabel` column; None of any other."""
    for rows in dataset.values():
        feature = rows.features.get(labels)
        feature = getattr(feature, "feature", feature)  # a list of ClassLabel
        if isinstance(feature, ClassLabel):
            return list(feature.names)
    return None


def all_values(dataset: DatasetDict, labels: str) -> list[Any]:
    """The cells of the column in all splits that have it."""
    return [value for rows in dataset.values() if labels in rows.column_names for value in rows[labels][:]]


def is_multi_hot(values: Sequence[Any], width: int | None) -> bool:
    """Whether every row is a list of so many zeros and ones; of one row alone that could be ids as well."""
    if not values or not isinstance(values[0], list) or len(values[0]) < 2:
        return False
    width = width or len(values[0])
    return all(isinstance(row, list) and len(row) == width and all(on in (0, 1) for on in row) for row in values)


def parts_of(value: Any, task: str, names: Iterable[str]) -> list[Any]:
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
                raise BadLabel(f"{len(value)} labels; expected one")
            return value
        return [part.strip() if isinstance(part, str) else part for part in value]
    return [value]


def as_id(part: Any) -> int | None:
    """The label's number; None where it is a name."""
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
        raise BadLabel("expected a number")
    return number


def numbered_names(count: int) -> list[str]:
    """The names that transformers gives to labels without any."""
    return [f"LABEL_{index}" for index in range(count)]


def _is_numbered(names: list[str]) -> bool:
    return names == numbered_names(len(names))
