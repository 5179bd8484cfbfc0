"""Tensors that were not computed yet: who knows them reads what they would be made of, and nobody else notices.

Torch only.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

_KNOWN_BEFORE = (Tensor.dim, Tensor.size, Tensor.is_floating_point, Tensor.__len__)
_METADATA = {getter.__get__ for getter in (Tensor.shape, Tensor.dtype, Tensor.device, Tensor.ndim, Tensor.layout)}  # type: ignore[union-attr]


class Uncomputed(Tensor):
    """Stands for a tensor that `whole` makes. Shape, type and device are known; any operation gets the tensor itself.

    Attributes:
        made: the tensor, once it was asked for.
    """

    made: Tensor | None

    @classmethod
    def stand_in(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Any:
        """One that holds no memory."""
        found = torch.empty((), dtype=dtype, device=device).expand(*shape).as_subclass(cls)
        found.made = None
        return found

    def whole(self) -> Tensor:
        """The tensor itself."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _METADATA or func in _KNOWN_BEFORE:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        return func(*tree_map(_whole, args), **tree_map(_whole, dict(kwargs or {})))


def _whole(value: Any) -> Any:
    return value.whole() if isinstance(value, Uncomputed) else value
