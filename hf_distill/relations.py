"""How alike the tokens of an example are by their queries, keys or values: all that MiniLM and its successor look at.

Torch only. The cache of a teacher keeps these products where they are fewer numbers than the states.
"""

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relations:
    """What a teacher says of `query(i)`, `key(i)` or `value(i)` where it kept the products of tokens and no states.

    Args:
        products: (batch, relation heads, tokens * (tokens + 1) / 2), from `triangle`; anything in padding.
    """

    products: Tensor

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, relation heads, tokens, tokens), as `whole` makes it."""
        tokens = _side(self.products.shape[-1])
        return (*self.products.shape[:-1], tokens, tokens)


def in_heads(states: Tensor, heads: int) -> Tensor:
    """The same width in other heads: (batch, heads of its own, tokens, width) -> (batch, heads, tokens, width)."""
    batch, _, tokens, _ = states.shape
    return states.transpose(1, 2).reshape(batch, tokens, heads, -1).transpose(1, 2)


def products(states: Tensor) -> Tensor:
    """Of each token with each, over the root of the width: (..., tokens, width) -> (..., tokens, tokens), float32."""
    states = states.float()
    with torch.autocast(states.device.type, enabled=False):
        return (states * states.shape[-1] ** -0.5) @ states.transpose(-1, -2)


def triangle(states: Tensor, heads: int) -> Tensor:
    """`products` in other heads, each pair once: of token 0 with itself, of token 1 with 0 and itself, and so on.

    Args:
        states: queries, keys or values, (batch, heads of its own, tokens, head width of its own).
        heads: relation heads, which divide the whole width.

    Returns:
        (batch, heads, tokens * (tokens + 1) / 2), float32. Of fewer tokens they are the first of these.
    """
    both = products(in_heads(states, heads))
    rows, columns = torch.tril_indices(*both.shape[-2:], device=both.device)
    return both[..., rows, columns]


def whole(products: Tensor) -> Tensor:
    """From `triangle` to the products of each token with each: (..., pairs) -> (..., tokens, tokens)."""
    place = torch.arange(_side(products.shape[-1]), device=products.device)
    later, earlier = torch.maximum(place[:, None], place), torch.minimum(place[:, None], place)
    return products[..., later * (later + 1) // 2 + earlier]


def _side(pairs: int) -> int:
    """How many tokens have so many pairs."""
    return (isqrt(8 * pairs + 1) - 1) // 2
