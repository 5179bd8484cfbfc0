import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.losses import SimilarityPreserving, similarity_preserving

from .contract import BatchContract, LossContract, memory, randn


def similarities(rows: list[list[float]]) -> list[list[float]]:
    gram = [[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows]
    return [[each / math.hypot(*row) if any(row) else 0.0 for each in row] for row in gram]


def naive(student: list[list[float]], teacher: list[list[float]]) -> float:
    mine, theirs, n = similarities(student), similarities(teacher), len(student)
    return sum((mine[i][j] - theirs[i][j]) ** 2 for i in range(n) for j in range(n)) / n**2


class TestSimilarityPreserving(BatchContract):
    function = staticmethod(similarity_preserving)
    shape = (5, 4)

    def test_one_row_of_zeros_has_none_either(self) -> None:
        student, teacher = self.draw()
        assert self.function(0 * student[:1], teacher[:1]) == 0
        assert self.function(student[:1], 0 * teacher[:1]) == 0


class TestFirst(LossContract):
    def make(self) -> SimilarityPreserving:
        return SimilarityPreserving()


class TestMean(LossContract):
    def make(self) -> SimilarityPreserving:
        return SimilarityPreserving(pooling="mean")


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_it_is_what_loops_over_the_examples_give(scale):
    student, teacher = randn(6, 3) * scale, randn(6, 5, seed=1).exp()
    student[4], student[5] = student[2], 0.0
    expected = naive(student.double().tolist(), teacher.double().tolist())
    torch.testing.assert_close(similarity_preserving(student, teacher), torch.tensor(expected))


def test_by_hand():
    """Two equal rows against two at a right angle: rows (1, 1) / sqrt(2) against (1, 0) and (0, 1)."""
    student, teacher = torch.tensor([[2.0], [2.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0]])
    expected = (2 * (1 - math.sqrt(0.5)) ** 2 + 2 * 0.5) / 4
    torch.testing.assert_close(similarity_preserving(student, teacher), torch.tensor(expected))


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), order=st.permutations(range(5)))
@settings(deadline=None, max_examples=40)
def test_scale_and_rotation_are_free_and_both_sides_count_alike(seed, scale, order):
    student, teacher = randn(5, 4, seed=seed), randn(5, 3, seed=seed + 5000)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved, plain = student @ rotation * scale, similarity_preserving(student, teacher)
    torch.testing.assert_close(similarity_preserving(moved[order], teacher[order]), plain, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(similarity_preserving(teacher, student), plain)
    assert similarity_preserving(moved, student) < 1e-6
    assert plain <= 4 / 5


def test_nothing_of_the_size_batch_squared_times_width_is_made_or_kept():
    largest, kept = memory(similarity_preserving, randn(48, 64).requires_grad_(), randn(48, 64, seed=1))
    assert largest <= 48 * 64
    assert kept < 48 * 48 * 12


def test_its_name():
    assert SimilarityPreserving().name == "similarity_preserving"
