"""What a user hands over as logits or labels, as a finite float64 matrix (examples, columns), or refused."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def as_array(values: Any) -> Array:
    """Anything array-like as float64: also tensors that require a gradient, are in bfloat16 or on another device."""
    if hasattr(values, "detach"):
        values = values.detach().float().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def matrix(values: Any, name: str) -> Array:
    """Finite float64 of shape (examples, columns); one column where there was a plain list of numbers."""
    if values is None:
        raise ValueError(f"{name} are missing.")
    if isinstance(values, tuple) and len(values) > 1 and any(np.ndim(value) > 1 for value in values):
        raise ValueError(f"{name} are a tuple of {len(values)} arrays; pass the logits alone, usually {name}[0].")
    try:
        array = as_array(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} are no array of numbers with one shape for every example: {error}") from None
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} have shape {array.shape}; expected (examples, columns), at least one of each.")
    finite = np.isfinite(array)
    if not finite.all():
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {array[row, column]}; {int((~finite).sum())} of {array.size} values are not "
            "finite."
        )
    return array


def only_zero_and_one(targets: Array, name: str = "references") -> None:
    wrong = (targets != 0) & (targets != 1)
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name}[{row}, {column}] is {targets[row, column]:g}; multi-label {name} are 0 or 1, shape (examples, "
            "labels)."
        )
