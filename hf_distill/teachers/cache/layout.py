"""How one signal of one example lies in a file: its numbers in a row, as many as its tokens ask for."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.signals import Signal

TOKENS = -1  # stands in a shape for the number of tokens of the example
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Layout:
    """Of one signal.

    Args:
        signal: which.
        shape: of one example, `TOKENS` where its number of tokens stands.
        dtype: in the file; what is read is float32.
    """

    signal: Signal
    shape: tuple[int, ...]
    dtype: str

    def shape_of(self, tokens: int) -> tuple[int, ...]:
        """The shape of an example with so many tokens."""
        return tuple(tokens if size == TOKENS else size for size in self.shape)

    def start(self, example: int, tokens: int, pairs: int) -> int:
        """How many numbers lie before an example.

        Args:
            example: how many examples lie before it in its file.
            tokens: how many tokens those have together.
            pairs: the sum of the squares of their numbers of tokens.
        """
        before = (example, tokens, pairs)[self.shape.count(TOKENS)]
        return before * prod(size for size in self.shape if size != TOKENS)

    def cut(self, row: np.ndarray, start: int, end: int) -> np.ndarray:
        """The tokens from `start` to `end` of one row of a batch."""
        return row[tuple(slice(start, end) if size == TOKENS else slice(None) for size in self.shape)]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        signal = {name: value for name, value in asdict(self.signal).items() if value is not None}
        return {"signal": signal, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Layout":
        """The inverse of `plain`."""
        return cls(Signal(**plain["signal"]), tuple(plain["shape"]), plain["dtype"])


def layout_of(signal: Signal, seen: Tensor, batch: Batch, dtype: str) -> Layout:
    """The layout of a signal that was seen on a batch.

    Raises:
        ValueError: it has another number of tokens than the batch.
    """
    axes = batch.token_axes(signal)
    for axis in axes:
        if batch.tokens is None or seen.shape[axis] != batch.tokens.shape[1]:
            raise ValueError(
                f"{signal} has {seen.shape[axis]} positions and the mask of the batch another number, so it is not "
                "known which are padding. It cannot be cached: pass the model itself as the teacher."
            )
    shape = tuple(TOKENS if axis in axes else size for axis, size in enumerate(seen.shape) if axis)
    return Layout(signal, shape, dtype)
