"""What losses on the tokens of an example share: valid tokens alone, vectors of length 1, and blocks."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK_ELEMENTS = 2**23  # of one side in a block: 32 MiB in float32
SMALLEST = 1e-12  # of a vector's largest entry: below it there is no direction


def valid(states: Tensor, mask: Tensor | None) -> Tensor:
    """States in float32, 0 where masked, whatever stands there.

    Args:
        states: shape (batch, tokens, dim).
        mask: shape (batch, tokens), True where a token counts; None: all do.

    Returns:
        The same shape.
    """
    return states.float() if mask is None else torch.where(mask.bool()[..., None], states.float(), 0.0)


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Vectors over their own length, in float32; a vector of zeros stays one, with a finite gradient.

    Args:
        vectors: any shape.
        dim: the axis along which one vector lies.

    Returns:
        The same shape.
    """
    vectors = vectors.float()
    largest = vectors.detach().abs().amax(dim, keepdim=True)  # first divided by it: no square overflows or vanishes
    vectors = vectors / torch.where(largest > SMALLEST, largest, 1.0)
    return vectors * vectors.square().sum(dim, keepdim=True).clamp(min=1.0).rsqrt()


def refuse_other_positions(student: int, teacher: int, who: str) -> None:
    """Raises a ValueError where the numbers of positions differ."""
    if student != teacher:
        raise ValueError(
            f"{who}: the student has {student} positions and the teacher {teacher}, and they are compared one by one. "
            "Give both the same tokens or patches, or take a loss on pooled outputs (RKDDistance)."
        )


def sum_in_blocks(
    function: Callable[..., Tensor], student: Tensor, teacher: Tensor, *whole: Tensor | None, each: int
) -> Tensor:
    """`function(student, teacher, *whole)`, a sum over axis 1 of the two, block by block.

    More than one block are computed again in backward: what a function holds then exists for one block only.

    Args:
        function: gives a sum over axis 1 of its first two arguments.
        student: split along axis 1.
        teacher: split along axis 1, where it is as long.
        whole: given to every block as they are.
        each: elements that the function makes of one side for each index of axis 1.

    Returns:
        What the function gives at once.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, each))
    if student.shape[1] <= size:
        return function(student, teacher, *whole)
    parts = [
        cast(Tensor, checkpoint(function, *block, *whole, use_reentrant=False, preserve_rng_state=False))
        for block in zip(torch.split(student, size, dim=1), torch.split(teacher, size, dim=1), strict=True)
    ]
    return torch.stack(parts).sum(0)
