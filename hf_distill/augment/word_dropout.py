"""Words that are hidden at random."""

from collections.abc import Collection

import torch
from torch import Tensor


def word_dropout(
    ids: Tensor, share: float, mask_id: int, special: Collection[int], generator: torch.Generator
) -> Tensor:
    """Replaces each token by the mask with some probability; the number of tokens stays as it is.

    Args:
        ids: token ids, of any shape.
        share: the probability, 0 to 1.
        mask_id: what stands where a token was.
        special: ids that are left alone, such as those of the first and the last token.
        generator: what is drawn from, on the processor.

    Returns:
        The same shape; `ids` itself is left as it is.
    """
    drawn = torch.rand(ids.shape, generator=generator) < share
    kept = torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype))
    return ids.masked_fill(drawn & ~kept, mask_id)
