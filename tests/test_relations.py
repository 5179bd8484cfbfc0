"""Products of tokens, each pair once."""

import pytest
import torch

from hf_distill.relations import Relations, triangle, whole


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def naive(states: torch.Tensor, heads: int, first: int, second: int) -> list[float]:
    """One example's scaled product of two tokens, one a relation head."""
    one, other = (states[:, token].flatten().tolist() for token in (first, second))
    size = len(one) // heads
    parts = [range(head * size, (head + 1) * size) for head in range(heads)]
    return [sum(one[i] * other[i] for i in part) / size**0.5 for part in parts]


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_each_pair_of_tokens_stands_there_once_in_the_order_of_the_later_one(heads):
    states = drawn(3, 2, 4, 4)
    found = triangle(states, heads)
    pairs = [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (3, 3)]
    expected = [[naive(row, heads, *pair) for pair in pairs] for row in states]
    torch.testing.assert_close(found, torch.tensor(expected).transpose(1, 2))
    square = whole(found)
    assert square.shape == Relations(found).shape == (3, heads, 4, 4)
    for first in range(4):
        for second in range(4):
            torch.testing.assert_close(
                square[1, :, first, second], torch.tensor(naive(states[1], heads, first, second))
            )


def test_fewer_tokens_are_the_first_of_more():
    states = drawn(1, 2, 6, 4)
    torch.testing.assert_close(triangle(states[:, :, :3], 2), triangle(states, 2)[..., :6])


@pytest.mark.parametrize("tokens", [1, 2, 3, 100, 511, 512])
def test_the_number_of_tokens_is_known_from_that_of_their_pairs(tokens):
    products = torch.empty(2, 3, tokens * (tokens + 1) // 2, device="meta")
    assert Relations(products).shape == (2, 3, tokens, tokens)


def test_half_precision_is_multiplied_in_full_also_under_autocast():
    states = drawn(1, 2, 4, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = triangle(states, 2)
    assert found.dtype == torch.float32
    assert torch.equal(found, triangle(states.float(), 2))
