"""How one signal of one example lies in a file: its numbers in a row, as many as its tokens ask for."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal

TOKENS = -1  # stands in a shape for the number of tokens of the example
COUNTED = -2  # likewise for the number of its tokens whose logits count
DTYPES = ("float32", "float16")
MAPS = ("attention", "attention_scores")
CLASSES = Signal("logit_classes")  # beside the largest logits: which classes they are of; the losses see one `TopK`


@dataclass(frozen=True)
class Layout:
    """Of one signal.

    Args:
        signal: which.
        shape: of one example, `TOKENS` where its number of tokens stands, `COUNTED` where that of those that count.
        dtype: in the file; what is read is float32, and of classes int64.
    """

    signal: Signal
    shape: tuple[int, ...]
    dtype: str

    def shape_of(self, tokens: int, counted: int = 0) -> tuple[int, ...]:
        """The shape of an example with so many tokens, so many of which count."""
        named = {TOKENS: tokens, COUNTED: counted}
        return tuple(named.get(size, size) for size in self.shape)

    def start(self, before: Any) -> Any:
        """How many numbers lie before an example.

        Args:
            before: of the examples before it in its file: how many, their tokens, the sum of the squares of their
                numbers of tokens, and those of their tokens that count; four numbers, or an array of each.
        """
        of_one = prod(size for size in self.shape if size > 0)
        return before[3 if COUNTED in self.shape else self.shape.count(TOKENS)] * of_one

    def inside(self, start: int, end: int, counted: Any = None) -> tuple[Any, ...]:
        """The index of what is stored of one row of a batch.

        Args:
            start: the position of its first attended token.
            end: the one after its last.
            counted: which positions of the row count, bool (tokens,); for `COUNTED` only.
        """
        named = {TOKENS: slice(start, end), COUNTED: counted}
        return tuple(named.get(size, slice(None)) for size in self.shape)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        signal = {name: value for name, value in asdict(self.signal).items() if value is not None}
        return {"signal": signal, "shape": list(self.shape), "dtype": self.dtype}

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> "Layout":
        """The inverse of `plain`."""
        return cls(Signal(**plain["signal"]), tuple(plain["shape"]), plain["dtype"])


def layout_of(signal: Signal, seen: Tensor, batch: Batch, dtype: str, counted: bool = False) -> Layout:
    """The layout of a signal that was seen on a batch.

    Args:
        signal: which.
        seen: of the whole batch.
        batch: says which axes are tokens.
        dtype: in the file.
        counted: whether of logits of tokens only those that count are stored.

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
    stored = COUNTED if counted and signal == LOGITS else TOKENS
    shape = tuple(stored if axis in axes else size for axis, size in enumerate(seen.shape) if axis)
    return Layout(signal, shape, dtype)


def largest_of(layout: Layout, k: int) -> tuple[Layout, Layout]:
    """The layouts of the `k` largest logits with the rest as one more, and of the classes that they are of."""
    *positions, classes = layout.shape
    number = "uint16" if classes <= 2**16 else "int32"
    return Layout(LOGITS, (*positions, k + 1), layout.dtype), Layout(CLASSES, (*positions, k), number)


def top_k_of(layouts: Iterable[Layout]) -> int | None:
    """How many logits of each position are kept; None where all are."""
    return next((layout.shape[-1] for layout in layouts if layout.signal == CLASSES), None)


def heads_of(layouts: Iterable[Layout]) -> dict[Signal, int]:
    """{attention map: of how many groups of heads the averages are kept}, as many groups as heads where all are."""
    return {layout.signal: layout.shape[0] for layout in layouts if layout.signal.kind in MAPS}


def before_each(lengths: np.ndarray) -> np.ndarray:
    """What `Layout.start` asks for, of every example of a file.

    Args:
        lengths: (examples, 2): tokens, and those that count.

    Returns:
        (examples, 4).
    """
    tokens, counted = lengths.T
    each = np.stack([np.ones_like(tokens), tokens, tokens**2, counted], 1)
    return np.cumsum(each, 0) - each
