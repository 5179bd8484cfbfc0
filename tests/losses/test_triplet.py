import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_distill.losses import RelativeSimilarity, relative_similarity, triplet

from .contract import BatchContract, LossContract, memory, randn, refuses


def with_one_teacher(student: Tensor, teacher: Tensor) -> Tensor:
    return relative_similarity(student, [teacher], margin=1.0)


def naive(student: list[list[float]], teachers: list[list[list[float]]], margin: float) -> float:
    n = len(student)
    apart = [math.dist(a, b) for a in student for b in student if a != b]
    mean, hinges = sum(apart) / len(apart), []
    for i in range(n):
        for j in range(n):
            for k in range(j + 1, n):
                if i in (j, k):
                    continue
                gaps = [math.dist(each[i], each[k]) - math.dist(each[i], each[j]) for each in teachers]
                votes = sum((gap > 1e-6) - (gap < -1e-6) for gap in gaps)
                if votes:
                    near, far = (j, k) if votes > 0 else (k, j)
                    gap = math.dist(student[i], student[near]) - math.dist(student[i], student[far])
                    hinges.append(max(0.0, margin + gap / mean))
    return sum(hinges) / max(1, len(hinges))


class TestOneTeacher(BatchContract):
    function = staticmethod(with_one_teacher)
    shape = (5, 4)

    def test_it_is_zero_where_both_agree(self) -> None:
        """It is not: it asks for a margin. Distances in the same order cost at most that, and nothing without one."""
        student, _ = self.draw()
        assert 0 < with_one_teacher(student, student) <= 1.0
        assert relative_similarity(student, [student], margin=0.0) == 0


class TestInBlocks(TestOneTeacher):
    @pytest.fixture(autouse=True)
    def _one_pivot_at_a_time(self, monkeypatch):
        monkeypatch.setattr(triplet, "PIVOT_BLOCK_ELEMENTS", 1)


class TestFirst(LossContract):
    def make(self) -> RelativeSimilarity:
        return RelativeSimilarity(margin=1.0)


class TestMean(LossContract):
    def make(self) -> RelativeSimilarity:
        return RelativeSimilarity(margin=1.0, pooling="mean")


@pytest.mark.parametrize("margin", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("teachers", [1, 2, 3])
def test_it_is_what_loops_over_the_triplets_give(teachers, margin):
    """With a duplicate on each side; two teachers draw, three do not."""
    student, others = randn(7, 3), [randn(7, 2 + seed, seed=seed) for seed in range(1, teachers + 1)]
    student[4] = student[2]
    for each in others:
        each[6] = each[1]
    expected = naive(student.tolist(), [each.tolist() for each in others], margin)
    torch.testing.assert_close(relative_similarity(student, others, margin), torch.tensor(expected))


def test_by_hand():
    """Points at 0, 1, 3 against 0, 2, 3 on a line, in units of the student's mean distance 2, margin 0.6.

    At 0 the one at 1 is nearer for both, by 1: no loss. At 1 the teacher finds the last one nearer, for the student
    it is farther by 0.5: 1.1. At 3 the middle one is nearer for both, by 0.5 of 0.6: 0.1.
    """
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    torch.testing.assert_close(relative_similarity(student, [teacher], 0.6), torch.tensor(1.2 / 3))


def test_the_majority_decides_and_a_draw_does_not():
    student, one, other = (randn(6, 3, seed=seed) for seed in range(3))
    torch.testing.assert_close(
        relative_similarity(student, [one, one, other], 0.3), relative_similarity(student, [one], 0.3)
    )
    bent, straight = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0], [3.0]])
    # they disagree at the middle point only, so two triplets are left
    expected = torch.tensor((max(0, 0.6 - 1) + 0.1) / 2)
    torch.testing.assert_close(relative_similarity(bent, [straight, bent], 0.6), expected)


def test_distances_that_are_equal_but_for_rounding_give_no_vote():
    """The corners of an equilateral triangle far from the origin have no order."""
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]]) + 100
    student = randn(3, 4).requires_grad_()
    found = relative_similarity(student, [corners], 0.5)
    found.backward()
    assert found == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


def test_rounding_does_not_outvote_another_teacher():
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]]) + 100
    student, other = randn(3, 4), randn(3, 4, seed=1)
    for order in ([0, 1, 2], [2, 1, 0]):  # the corners' last bits fall either way
        found = relative_similarity(student, [corners[order], other], 2.0)
        torch.testing.assert_close(found, relative_similarity(student, [other], 2.0))


def test_two_rows_have_no_order():
    student = randn(2, 4).requires_grad_()
    found = with_one_teacher(student, randn(2, 4, seed=1))
    found.backward()
    assert found == 0
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(deadline=None, max_examples=40)
def test_scale_place_and_rotation_of_both_sides_are_free(seed, scale, shift):
    student, teacher = randn(5, 4, seed=seed), randn(5, 3, seed=seed + 5000)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved, plain = (student @ rotation + shift) * scale, with_one_teacher(student, teacher)
    torch.testing.assert_close(with_one_teacher(moved, teacher), plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(with_one_teacher(student, teacher * scale), plain)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(with_one_teacher(student[order], teacher[order]), plain)


@pytest.mark.parametrize("elements", [1, 7 * 7 * 3])
def test_blocks_of_pivots_change_neither_value_nor_gradient(monkeypatch, elements):
    student, teachers = randn(7, 4).requires_grad_(), [randn(7, 5, seed=1), randn(7, 3, seed=2), randn(7, 3, seed=3)]
    whole = relative_similarity(student, teachers, 0.3)
    (expected,) = torch.autograd.grad(whole, student)
    monkeypatch.setattr(triplet, "PIVOT_BLOCK_ELEMENTS", elements)
    blocks = relative_similarity(student, teachers, 0.3)
    (found,) = torch.autograd.grad(blocks, student)
    torch.testing.assert_close((blocks, found), (whole, expected))


def test_nothing_of_the_size_batch_cubed_or_batch_squared_times_width_is_made_or_kept(monkeypatch):
    """48 rows, two pivots at a time."""
    monkeypatch.setattr(triplet, "PIVOT_BLOCK_ELEMENTS", 2 * 48 * 48)
    largest, kept = memory(with_one_teacher, randn(48, 64).requires_grad_(), randn(48, 64, seed=1))
    assert largest <= 2 * 48 * 48
    assert kept < 48 * 48 * 12


def test_no_teacher_gets_a_gradient():
    teachers = [randn(5, 3, seed=seed).requires_grad_() for seed in range(2)]
    relative_similarity(randn(5, 4).requires_grad_(), teachers, 0.5).backward()
    assert all(each.grad is None for each in teachers)


def test_the_margin_reaches_the_formula():
    student, teacher = randn(5, 6), randn(5, 9, seed=1)
    for margin in (0.0, 0.7):
        found = RelativeSimilarity(margin).relate(student, teacher)
        torch.testing.assert_close(found, relative_similarity(student, [teacher], margin))


def test_what_does_not_fit_is_refused():
    refuses(RelativeSimilarity(margin=-0.5), "RelativeSimilarity: margin is -0.5; it must be at least 0.")


def test_its_name():
    assert RelativeSimilarity().name == "relative_similarity"
