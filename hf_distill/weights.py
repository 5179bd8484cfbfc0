"""What a weight is kept as in memory, and by what a model's weights are told apart."""

from hashlib import blake2b

import torch
from torch import Tensor, nn


def stored(weight: Tensor) -> list[Tensor]:
    """The plain tensors that a weight is kept as: itself, or of a quantised one its integers and scales."""
    if not hasattr(weight, "__tensor_flatten__"):
        return [weight]
    parts = (getattr(weight, name) for name in weight.__tensor_flatten__()[0])
    return [part for part in parts if part is not None]


def digest(model: nn.Module, leave_out: str = " ") -> str | None:
    """A hash of all weights and buffers that are saved; None of a model whose weights are not loaded.

    Args:
        model: read, and left where it is.
        leave_out: weights whose names begin so do not count.
    """
    content = blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(leave_out):
            continue
        if tensor.is_meta:
            return None
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in stored(tensor):
            content.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()
