import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.losses import HiddenMSE, hidden_mse

from .contract import LossContract, PositionContract, randn


class TestFunction(PositionContract):
    function = staticmethod(hidden_mse)
    shape, positions = (3, 4, 7), (3, 4)


class TestLoss(LossContract):
    def make(self) -> HiddenMSE:
        return HiddenMSE({0: 1, -1: -1, "embeddings": "embeddings"})


class TestProjected(LossContract):
    def make(self) -> HiddenMSE:
        return HiddenMSE("last", projection="linear")


def test_each_position_is_what_a_loop_gives():
    student, teacher = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    expected = [
        [sum((a - b) ** 2 for a, b in zip(mine, theirs, strict=True)) / 4 for mine, theirs in zip(s, t, strict=True)]
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    torch.testing.assert_close(hidden_mse(student, teacher), torch.tensor(expected))


def test_both_sides_count_alike():
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    torch.testing.assert_close(hidden_mse(student, teacher), hidden_mse(teacher, student))


def test_its_name():
    assert HiddenMSE().name == "hidden_mse"


@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e2))
@settings(deadline=None, max_examples=30)
def test_both_sides_count_alike_and_it_grows_with_the_square(seed, scale):
    student, teacher, moved = (randn(2, 3, 4, seed=seed + part) for part in range(3))
    expected = hidden_mse(student, teacher)
    torch.testing.assert_close(hidden_mse(teacher, student), expected)
    torch.testing.assert_close(hidden_mse(scale * student, scale * teacher), scale**2 * expected)
    torch.testing.assert_close(hidden_mse(student + moved, teacher + moved), expected, rtol=1e-4, atol=1e-4)
