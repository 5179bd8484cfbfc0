"""The `evaluate.Metric` that each metric of this package is: works offline, writes no file, checks what it stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
import evaluate

from hf_distill.metrics.matrices import Array, as_array, matrix

TASKS = ("multi_label", "single_label", "regression")
"""The tasks that have metrics."""


class MetricModule(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """What all modules here share: input that is checked and brought to (examples, columns) before it is stored."""

    summary: ClassVar[str] = ""

    def __init__(self, config_name: str | None = None, **kwargs: Any) -> None:
        kwargs.setdefault("keep_in_memory", True)
        super().__init__(config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        column = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.summary,
            citation="",
            inputs_description=self.__doc__ or "",
            features=datasets.Features({"predictions": column, "references": column}),
        )

    def _build_data_dir(self) -> str:
        # evaluate makes a folder in the cache even for modules that never write to it: that fails in a read-only home.
        return str(self._data_dir_root) if self.keep_in_memory else str(super()._build_data_dir())

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Store a batch, after checking it."""
        logits = matrix(predictions, "predictions")
        targets = self._targets(references, logits)
        super().add_batch(predictions=logits, references=targets, **kwargs)

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Store one example, after checking it."""
        self.add_batch(predictions=as_array(prediction)[None], references=as_array(reference)[None], **kwargs)

    def _targets(self, references: Any, logits: Array) -> Array:
        """References as (examples, columns), or a ValueError that names what does not fit."""
        targets = matrix(references, "references")
        if targets.shape != logits.shape:
            raise ValueError(
                f"shape mismatch: predictions are {logits.shape}, references {targets.shape} (examples, columns)."
            )
        return targets


def column_names(names: Sequence[str] | None, count: int) -> list[str]:
    """The names of the columns in "per_label"; their numbers where there are none."""
    if names is None:
        return [str(i) for i in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(
            f"label_names has {len(names)} names, {len(set(names))} different; expected {count} different."
        )
    return list(names)


def known_task(task: str) -> str:
    """The task itself, or a ValueError where it has no metrics."""
    if task not in TASKS:
        raise ValueError(f"no metrics for task {str(task)!r}; there are metrics for {', '.join(map(repr, TASKS))}.")
    return str(task)
