import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import NST, nst, states
from hf_distill.signals import hidden
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, memory, randn


class TestFunction(PositionContract):
    function = staticmethod(nst)
    shape, positions = (3, 4, 7), (3,)


class TestInBlocks(TestFunction):
    @pytest.fixture(autouse=True)
    def _one_token_at_a_time(self, monkeypatch):
        monkeypatch.setattr(states, "BLOCK_ELEMENTS", 1)


class TestLoss(LossContract):
    def make(self) -> NST:
        return NST({0: 1, -1: -1, "embeddings": "embeddings"})


class TestDefault(LossContract):
    def make(self) -> NST:
        return NST()


def neurons(tokens: list[list[float]]) -> list[list[float]]:
    """One pattern a neuron: what it says at each token, over its length."""
    patterns = []
    for channel in zip(*tokens, strict=True):
        length = sum(entry**2 for entry in channel) ** 0.5
        patterns.append([entry / length for entry in channel])
    return patterns


def mean_kernel(some: list[list[float]], others: list[list[float]]) -> float:
    kernels = [sum(a * b for a, b in zip(one, other, strict=True)) ** 2 for one in some for other in others]
    return sum(kernels) / len(kernels)


def naive(student: list[list[float]], teacher: list[list[float]]) -> float:
    mine, theirs = neurons(student), neurons(teacher)
    return mean_kernel(mine, mine) + mean_kernel(theirs, theirs) - 2 * mean_kernel(mine, theirs)


@pytest.mark.parametrize(("tokens", "mine", "theirs"), [(4, 7, 9), (8, 2, 3), (5, 1, 4)])
def test_each_example_is_what_loops_over_the_neurons_give(tokens, mine, theirs):
    mask = torch.ones(3, tokens)
    mask[1, ::2] = 0
    student, teacher = randn(3, tokens, mine), randn(3, tokens, theirs, seed=1)
    kept = [[side[row][mask[row].bool()].double().tolist() for row in range(3)] for side in (student, teacher)]
    expected = torch.tensor([naive(*each) for each in zip(*kept, strict=True)])
    torch.testing.assert_close(nst(student, teacher, mask), expected)
    torch.testing.assert_close(nst(student, teacher)[[0, 2]], expected[[0, 2]])


def test_by_hand():
    """One neuron at the first token alone against one at the second: 1 + 1 - 0; against one at both: 1 + 1 - 2 / 2."""
    first, second, both = (torch.tensor([[[float(a)], [float(b)]]]) for a, b in ((3, 0), (0, 2), (5, 5)))
    torch.testing.assert_close(nst(first, second), torch.tensor([2.0]))
    torch.testing.assert_close(nst(first, both), torch.tensor([1.0]))
    torch.testing.assert_close(nst(torch.cat([first, second], -1), both), torch.tensor([0.5 + 1 - 2 * 0.5]))


def test_nothing_of_what_is_masked_is_seen():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0]]).bool()
    student = torch.where(mask[..., None], randn(3, 3, 4), float("nan")).requires_grad_()
    found = nst(student, torch.where(mask[..., None], randn(3, 3, 5, seed=1), float("inf")), mask)
    found.sum().backward()
    assert found[0] > 0.01
    assert found[1] == 0
    assert found[2] < 1e-12  # one token has no pattern
    assert student.grad is not None
    assert student.grad[0, :2].abs().min() > 0
    assert student.grad[~mask].abs().max() == 0


def test_zeros_and_equal_tokens_have_a_finite_gradient():
    for student in (torch.zeros(2, 3, 4), randn(1, 1, 4).expand(2, 3, 4).clone()):
        found = nst(student.requires_grad_(), randn(2, 3, 4, seed=1))
        found.sum().backward()
        assert found.isfinite().all()
        assert student.grad is not None
        assert student.grad.abs().max() < 10


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_scale_sign_order_and_copies_of_neurons_are_free(seed):
    student, teacher = randn(2, 5, 4, seed=seed), randn(2, 5, 3, seed=seed + 5000)
    expected = nst(student, teacher)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    moved = student[..., order] * randn(4, seed=seed + 9000).sign() * (randn(4, seed=seed + 9001).exp())
    torch.testing.assert_close(nst(moved, teacher), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(nst(torch.cat([student, student], -1), teacher), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(nst(teacher, student), expected)
    tokens = torch.randperm(5, generator=torch.Generator().manual_seed(seed + 1))
    torch.testing.assert_close(nst(student[:, tokens], teacher[:, tokens]), expected, rtol=1e-4, atol=1e-6)
    assert 0 <= expected.min() <= expected.max() <= 2


def test_nothing_of_the_size_tokens_squared_is_made_or_kept_beyond_a_block(monkeypatch):
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", 2 * 3 * 64)
    student, teacher = randn(2, 64, 4).requires_grad_(), randn(2, 64, 6, seed=1)
    largest, kept = memory(lambda *sides: nst(*sides).sum(), student, teacher)
    assert largest <= 2 * 64 * 6
    assert kept < 2 * 64 * 40


def test_examples_without_tokens_count_as_zero():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    loss = NST("last")
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(2, 3, 6), randn(2, 3, 9, seed=1)
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SINGLE_LABEL)
    found = loss({hidden(1): student}, {hidden(3): teacher}, batch)
    torch.testing.assert_close(found, nst(student[:1, :2], teacher[:1, :2]).sum() / 2)


def test_other_numbers_of_patches_are_refused():
    message = (
        "nst: the student has 5 positions and the teacher 7, and they are compared one by one. "
        "Give both the same tokens or patches, or take a loss on pooled outputs (RKDDistance)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        nst(randn(2, 5, 6), randn(2, 7, 6))


def test_its_name():
    assert NST().name == "nst"
