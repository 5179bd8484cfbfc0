"""What a weight is kept as in memory."""

from torch import Tensor


def stored(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight is kept as: itself, or of a quantised one its integers and scales."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    parts = (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
    return [part for part in parts if part is not None]
