"""Hits, given and true labels of each column, and the F1, precision and recall that follow from them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Counts:
    """True positives, given and true labels per column. F1 is not asked of scikit-learn for multi-label: with a single
    column it takes the problem for a binary one and averages over both classes."""

    def __init__(self, given: NDArray[np.bool_], true: NDArray[np.bool_]) -> None:
        self.hits, self.given, self.true = (x.sum(axis=0) for x in (given & true, given, true))

    def f1(self) -> Any:
        return _ratio(2 * self.hits, self.given + self.true)

    def total(self) -> Counts:
        """The same over all columns together."""
        whole = Counts.__new__(Counts)
        whole.hits, whole.given, whole.true = self.hits.sum(), self.given.sum(), self.true.sum()
        return whole

    def of(self, column: int) -> dict[str, float | int | None]:
        hits, given, true = self.hits[column], self.given[column], self.true[column]
        return {
            "f1": float(_ratio(2 * hits, given + true)),
            "precision": float(_ratio(hits, given)),
            "recall": float(_ratio(hits, true)),
            "support": int(true),
        }


def _ratio(part: Any, whole: Any) -> Any:
    """part / whole, and 0.0 where there is no whole."""
    return np.where(np.asarray(whole) > 0, part / np.maximum(whole, 1), 0.0)
