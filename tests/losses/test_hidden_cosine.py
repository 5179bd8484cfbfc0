import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.losses import HiddenCosine, hidden_cosine

from .contract import LossContract, PositionContract, randn


class TestFunction(PositionContract):
    function = staticmethod(hidden_cosine)
    shape, positions = (3, 4, 7), (3, 4)


class TestLoss(LossContract):
    def make(self) -> HiddenCosine:
        return HiddenCosine("uniform")


class TestProjected(LossContract):
    def make(self) -> HiddenCosine:
        return HiddenCosine({0: 0, 1: 3}, projection="shared", bias=False)


def test_by_hand():
    student = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [-2.0, 0.0]])
    teacher = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 7.0], [1.0, 0.0]])
    expected = torch.tensor([0.0, 1 - math.sqrt(0.5), 1.0, 2.0])
    torch.testing.assert_close(hidden_cosine(student, teacher), expected)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_lengths_are_free_and_both_sides_count_alike(mine, theirs, seed):
    student, teacher = randn(3, 4, seed=seed), randn(3, 4, seed=seed + 1000)
    plain = hidden_cosine(student, teacher)
    torch.testing.assert_close(hidden_cosine(student * mine, teacher * theirs), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden_cosine(teacher, student), plain)


def test_a_zero_vector_is_at_right_angles_with_a_finite_gradient():
    student = torch.zeros(1, 3, requires_grad=True)
    found = hidden_cosine(student, torch.ones(1, 3))
    found.sum().backward()
    assert found == 1
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_its_name():
    assert HiddenCosine().name == "hidden_cosine"
