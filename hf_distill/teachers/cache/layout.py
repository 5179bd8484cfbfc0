"""How one signal of one example lies in a file: its numbers in a row, as many as its tokens ask for."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, MAPS, RELATED, ModelShape, Signal

TOKENS = -1  # stands in a shape for the number of tokens of the example
COUNTED = -2  # likewise for the number of its tokens whose logits count
PAIRS = -3  # likewise for the number of pairs of its tokens, each with itself among them
DTYPES = ("float32", "float16")
CLASSES = Signal("logit_classes")  # beside the largest logits: which classes they are of; the losses see one `TopK`


@dataclass(frozen=True)
class Layout:
    """Of one signal.

    Args:
        signal: which.
        shape: of one example, `TOKENS` where its number of tokens stands, `COUNTED` where that of those that count,
            `PAIRS` where that of pairs of tokens.
        dtype: in the file; what is read is float32, and of classes int64.
    """

    signal: Signal
    shape: tuple[int, ...]
    dtype: str

    def shape_of(self, tokens: int, counted: int = 0) -> tuple[int, ...]:
        """The shape of an example with so many tokens, so many of which count."""
        named = {TOKENS: tokens, COUNTED: counted, PAIRS: pairs_of(tokens)}
        return tuple(named.get(size, size) for size in self.shape)

    def start(self, before: Any) -> Any:
        """How many numbers lie before an example.

        Args:
            before: of the examples before it in its file: how many, their tokens, the sum of the squares of their
                numbers of tokens, and those of their tokens that count; four numbers, or an array of each.
        """
        of_one = prod(size for size in self.shape if size > 0)
        if PAIRS in self.shape:
            return (before[1] + before[2]) // 2 * of_one
        return before[3 if COUNTED in self.shape else self.shape.count(TOKENS)] * of_one

    def inside(self, start: int, end: int, counted: Any = None) -> tuple[Any, ...]:
        """The index of what is stored of one row of a batch.

        Args:
            start: the position of its first attended token.
            end: the one after its last.
            counted: which positions of the row count, bool (tokens,); for `COUNTED` only.
        """
        named = {TOKENS: slice(start, end), COUNTED: counted, PAIRS: slice(pairs_of(end))}
        if PAIRS in self.shape and start:  # what padding stands before is no beginning of the batch's pairs
            later, earlier = (each + start for each in np.tril_indices(end - start))
            named[PAIRS] = pairs_of(later) + earlier
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


def pairs_of(tokens: Any) -> Any:
    """How many pairs so many tokens make, each with itself among them; a number or an array."""
    return tokens * (tokens + 1) // 2


def related_of(layout: Layout, heads: int) -> Layout:
    """The layout of the relations of queries, keys or values in so many heads, each pair of tokens once."""
    return Layout(layout.signal, (heads, PAIRS), layout.dtype)


def enough(heads: Mapping[Signal, int], lengths: np.ndarray, shape: ModelShape) -> dict[Signal, int]:
    """What is stored in other heads than the teacher's: averages of maps, and relations where they are smaller.

    Args:
        heads: see `Teacher.compared_heads`.
        lengths: tokens of each example that is to be stored, (examples,); 0 where inputs have none.
        shape: of the teacher.

    Returns:
        The same without the queries, keys and values whose states are fewer numbers than their relations.
    """
    pairs, tokens = int(pairs_of(lengths).sum()), int(lengths.sum())
    width = {"query": shape.heads * shape.head_width}
    return {
        signal: count
        for signal, count in heads.items()
        if signal.kind in MAPS or count * pairs < width.get(signal.kind, shape.key_heads * shape.head_width) * tokens
    }


def largest_of(layout: Layout, k: int) -> tuple[Layout, Layout]:
    """The layouts of the `k` largest logits with the rest as one more, and of the classes that they are of."""
    *positions, classes = layout.shape
    number = "uint16" if classes <= 2**16 else "int32"
    return Layout(LOGITS, (*positions, k + 1), layout.dtype), Layout(CLASSES, (*positions, k), number)


def top_k_of(layouts: Iterable[Layout]) -> int | None:
    """How many logits of each position are kept; None where all are."""
    return next((layout.shape[-1] for layout in layouts if layout.signal == CLASSES), None)


def heads_of(layouts: Iterable[Layout]) -> dict[Signal, int]:
    """{attention map: of how many groups of heads the averages are kept}, as many groups as heads where all are; and
    {queries, keys or values: in how many heads their relations are kept}, none where they themselves are."""
    kept = (layout for layout in layouts if layout.signal.kind in MAPS or PAIRS in layout.shape)
    return {layout.signal: layout.shape[0] for layout in kept}


def is_related(layout: Layout) -> bool:
    """Whether relations of queries, keys or values are kept in their place."""
    return layout.signal.kind in RELATED and PAIRS in layout.shape


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
