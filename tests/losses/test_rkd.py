import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import RKDAngle, RKDDistance, rkd, rkd_angle, rkd_distance
from hf_distill.signals import pooled
from hf_distill.tasks import Task

from .contract import BatchContract, LossContract, memory, randn

BOTH = pytest.mark.parametrize("function", [rkd_distance, rkd_angle])


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distances(rows: list[list[float]]) -> list[list[float]]:
    every = [[math.dist(a, b) for b in rows] for a in rows]
    apart = [distance for row in every for distance in row if distance > 0]
    mean = sum(apart) / len(apart) if apart else 1.0
    return [[distance / mean for distance in row] for row in every]


def naive_distance(student: list[list[float]], teacher: list[list[float]]) -> float:
    mine, theirs, n = distances(student), distances(teacher), len(student)
    return sum(huber(mine[i][j] - theirs[i][j]) for i in range(n) for j in range(n)) / n**2


def cosine(rows: list[list[float]], pivot: int, one: int, other: int) -> float:
    a = [x - y for x, y in zip(rows[one], rows[pivot], strict=True)]
    b = [x - y for x, y in zip(rows[other], rows[pivot], strict=True)]
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0


def naive_angle(student: list[list[float]], teacher: list[list[float]]) -> float:
    n = len(student)
    triplets = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    return sum(huber(cosine(student, *each) - cosine(teacher, *each)) for each in triplets) / n**3


class TestDistance(BatchContract):
    function = staticmethod(rkd_distance)
    shape = (5, 4)


class TestAngle(BatchContract):
    function = staticmethod(rkd_angle)
    shape = (5, 4)


class TestAngleInBlocks(TestAngle):
    @pytest.fixture(autouse=True)
    def _one_pivot_at_a_time(self, monkeypatch):
        monkeypatch.setattr(rkd, "PIVOT_BLOCK_ELEMENTS", 1)


class TestDistanceLoss(LossContract):
    def make(self) -> RKDDistance:
        return RKDDistance(pooling="first")


class TestAngleLoss(LossContract):
    def make(self) -> RKDAngle:
        return RKDAngle(pooling="last")


class TestAngleOfMeans(LossContract):
    def make(self) -> RKDAngle:
        return RKDAngle(pooling="mean")


@pytest.mark.parametrize(("function", "naive"), [(rkd_distance, naive_distance), (rkd_angle, naive_angle)])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_it_is_what_loops_over_the_examples_give(function, naive, scale):
    student, teacher = randn(6, 3) * scale, randn(6, 5, seed=1).exp()
    student[4] = student[2]  # a duplicate: no distance, no angle
    expected = naive(student.double().tolist(), teacher.double().tolist())
    torch.testing.assert_close(function(student, teacher), torch.tensor(expected))


def test_by_hand():
    """Points at 0, 1, 3 against 0, 1, 2 on a line: means 2 and 4/3, all angles equal."""
    student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    gaps = [1 / 2 - 3 / 4, 2 / 2 - 3 / 4, 3 / 2 - 6 / 4]
    torch.testing.assert_close(rkd_distance(student, teacher), torch.tensor(2 * sum(0.5 * g**2 for g in gaps) / 9))
    assert rkd_angle(student, teacher) == 0
    # a right angle instead of a straight one at the middle: 2 of 27 cosines differ by 1, 4 by 1 - sqrt(1/2)
    bent = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    straight = torch.tensor([[0.0], [1.0], [2.0]])
    expected = (2 * 0.5 + 4 * 0.5 * (1 - math.sqrt(0.5)) ** 2) / 27
    torch.testing.assert_close(rkd_angle(bent, straight), torch.tensor(expected))


@BOTH
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
@settings(deadline=None, max_examples=40)
def test_scale_place_and_rotation_are_free(function, seed, scale, shift):
    student, teacher = randn(5, 4, seed=seed), randn(5, 3, seed=seed + 5000)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved = (student @ rotation + shift) * scale
    torch.testing.assert_close(function(moved, teacher), function(student, teacher), rtol=1e-3, atol=1e-4)
    assert function(moved, student) < 1e-6


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_both_sides_count_alike(seed):
    student, teacher = randn(5, 4, seed=seed), randn(5, 3, seed=seed + 5000)
    for function in (rkd_distance, rkd_angle):
        torch.testing.assert_close(function(student, teacher), function(teacher, student))


@BOTH
def test_a_duplicate_but_for_rounding_is_a_duplicate(function):
    """Two equal texts come out of a model with other last bits, wherever they stand in the batch."""
    student, teacher = randn(5, 3), randn(5, 4, seed=1)
    student[1], teacher[1] = student[0], teacher[0]
    expected = function(student, teacher)
    student[1] = torch.nextafter(student[0], torch.tensor(9.0))
    torch.testing.assert_close(function(student, teacher), expected)


@BOTH
def test_a_large_common_mean_costs_no_digits(function):
    """Embeddings share a mean; from a Gram matrix the distances would be rounding alone."""
    student, teacher = randn(8, 16).double(), randn(8, 16, seed=1).double()
    moved = (student + 1000).float()
    # compared with the moved points themselves, as float32 holds them
    expected = (naive_distance if function is rkd_distance else naive_angle)(moved.tolist(), teacher.tolist())
    torch.testing.assert_close(function(moved, teacher.float()), torch.tensor(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("elements", [1, 7 * 7 * 5, 7 * 7 * 5 * 2])
def test_blocks_of_pivots_change_neither_value_nor_gradient(monkeypatch, elements):
    student, teacher = randn(7, 4).requires_grad_(), randn(7, 5, seed=1)
    whole = rkd_angle(student, teacher)
    (expected,) = torch.autograd.grad(whole, student)
    monkeypatch.setattr(rkd, "PIVOT_BLOCK_ELEMENTS", elements)
    blocks = rkd_angle(student, teacher)
    (found,) = torch.autograd.grad(blocks, student)
    torch.testing.assert_close((blocks, found), (whole, expected))


def test_nothing_of_the_size_batch_cubed_is_made_or_kept(monkeypatch):
    """48 rows, two pivots at a time: no tensor beyond 2 x 48 x 48, and none of the blocks is kept for backward."""
    monkeypatch.setattr(rkd, "PIVOT_BLOCK_ELEMENTS", 2 * 48 * 48)
    largest, kept = memory(rkd_angle, randn(48, 8).requires_grad_(), randn(48, 8, seed=1))
    assert largest <= 2 * 48 * 48
    assert kept < 48 * 48


@pytest.mark.parametrize("pivots", [1, 3, 7])
def test_the_gradient_of_angles_is_that_of_the_plain_formula(monkeypatch, pivots):
    monkeypatch.setattr(rkd, "PIVOT_BLOCK_ELEMENTS", pivots * 7 * 7)
    student, teacher = randn(7, 4).requires_grad_(), randn(7, 5, seed=1)
    with torch.no_grad():
        student[5] = student[2]
    plain = student.detach().double().requires_grad_()

    def cosines(rows):
        edges = rows[None] - rows[:, None]
        lengths = edges.square().sum(-1, keepdim=True)
        edges = torch.where(lengths > 0, edges / torch.where(lengths > 0, lengths, 1.0).sqrt(), 0.0)
        return torch.einsum("ijd,ikd->ijk", edges, edges)

    torch.nn.functional.smooth_l1_loss(cosines(plain), cosines(teacher.double())).backward()
    (3 * rkd_angle(student, teacher)).backward()
    assert student.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(student.grad.double(), 3 * plain.grad, rtol=1e-5, atol=1e-8)


def test_angles_are_differentiated_once_and_not_at_all_where_nobody_asks():
    student, teacher = randn(5, 4), randn(5, 4, seed=1)
    assert not rkd_angle(student, teacher).requires_grad
    loss = rkd_angle(student.requires_grad_(), teacher).square()
    (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_distances_hold_nothing_of_the_size_batch_squared_times_width():
    largest, kept = memory(rkd_distance, randn(48, 64).requires_grad_(), randn(48, 64, seed=1))
    assert largest <= 48 * 64
    assert kept < 48 * 48 * 12


@BOTH
def test_rows_that_differ_by_rounding_alone_have_a_small_gradient(function):
    """A student that gives every text the same vector, but for the last bit."""
    student = randn(1, 4).expand(5, 4).clone()
    student[::2] = torch.nextafter(student[::2], torch.tensor(9.0))
    student.requires_grad_()
    function(student, randn(5, 4, seed=1)).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1


@pytest.mark.parametrize("kind", [RKDDistance, RKDAngle])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_it_looks_at_the_pooled_output(kind, pooling):
    signal, function = pooled(pooling), {RKDDistance: rkd_distance, RKDAngle: rkd_angle}[kind]
    loss, batch = kind(pooling), Batch({"input_ids": torch.ones(5, 2)}, Task.SINGLE_LABEL)
    assert loss.pairs() == [(signal, signal)]
    student, teacher = randn(5, 6), randn(5, 9, seed=1)
    torch.testing.assert_close(loss({signal: student}, {signal: teacher}, batch), function(student, teacher))


def test_their_names():
    assert [RKDDistance().name, RKDAngle().name] == ["rkd_distance", "rkd_angle"]


def test_in_float16_the_gradient_is_scaled_before_it_is_rounded():
    student, teacher = (20 * randn(64, 16)).half().requires_grad_(), randn(64, 16, seed=1)
    wide = student.detach().float().requires_grad_()
    for rows in (student, wide):
        (65536 * rkd_angle(rows, teacher)).backward()
    assert student.grad is not None
    assert wide.grad is not None
    assert (student.grad.float() - wide.grad).norm() < 1e-3 * wide.grad.norm()


@BOTH
def test_rows_close_to_each_other_keep_their_digits(function):
    student, teacher = randn(6, 8), randn(6, 8, seed=1)
    student[1] = student[0] + 1e-4 * randn(8, seed=2)
    wide = student.double().requires_grad_()
    student.requires_grad_()
    for rows in (student, wide):
        function(rows, teacher).backward()
    assert student.grad is not None
    assert wide.grad is not None
    assert (student.grad - wide.grad).norm() < 1e-6 * wide.grad.norm()
