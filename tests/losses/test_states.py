import pytest
import torch

from hf_distill.losses import states
from hf_distill.losses.states import sum_in_blocks, unit, valid

from .contract import randn


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e30])
def test_unit_vectors_have_length_one_at_any_scale(scale):
    vectors = (randn(3, 4) * scale).requires_grad_()
    found = unit(vectors)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(
        found.detach() * vectors.detach().double().norm(dim=-1)[:, None].float(), vectors.detach()
    )
    found.sum().backward()
    expected = torch.autograd.functional.jacobian(
        lambda rows: (rows / rows.norm(dim=-1, keepdim=True)).sum(), randn(3, 4)
    )
    torch.testing.assert_close(vectors.grad * scale, expected)


def test_unit_along_another_axis():
    vectors = randn(2, 3, 4)
    torch.testing.assert_close(unit(vectors, dim=1), unit(vectors.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(unit(torch.tensor([3.0, -4.0])), torch.tensor([0.6, -0.8]))


def test_a_vector_of_zeros_stays_one_with_a_small_gradient():
    for tiny in (0.0, 1e-30):
        vector = torch.full((1, 3), tiny, requires_grad=True)
        found = unit(vector)
        found.sum().backward()
        torch.testing.assert_close(found, torch.zeros(1, 3))
        assert vector.grad.abs().max() <= 1


def test_half_precision_is_computed_in_float32():
    vector = torch.full((1, 8), 6e4, dtype=torch.float16)
    torch.testing.assert_close(unit(vector), torch.full((1, 8), 8**-0.5))


def test_valid_takes_out_what_is_masked():
    seen = torch.tensor([[[1.0], [float("nan")]]]).half()
    assert valid(seen, torch.tensor([[1, 0]])).tolist() == [[[1.0], [0.0]]]
    assert valid(seen, None).dtype is torch.float32


@pytest.mark.parametrize(("elements", "calls"), [(1, 7), (4, 4), (14, 1)])
def test_blocks_give_what_one_call_gives(monkeypatch, elements, calls):
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", elements)
    seen = []

    def products(mine, theirs, factor):
        seen.append(mine.shape[1])
        return (mine * theirs * factor).sum(1)

    mine, theirs, factor = (each.requires_grad_() for each in (randn(3, 7), randn(3, 7, seed=1), randn(3, 1, seed=2)))
    found = sum_in_blocks(products, mine, theirs, factor, each=2)
    assert len(seen) == calls
    expected = (mine * theirs * factor).sum(1)
    torch.testing.assert_close(found, expected)
    leaves = (mine, theirs, factor)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves))
    assert len(seen) == (calls if calls == 1 else 2 * calls)  # again in backward
