import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.losses import CorrelationCongruence, correlation_congruence
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, BatchContract, LossContract, memory, randn, refuses

consecutive = partial(correlation_congruence, kernel="consecutive")


def kernel(a: list[float], b: list[float], gamma: float) -> float:
    """The Gaussian of the paper itself, without a series."""
    one, other = ([x / math.hypot(*row) for x in row] for row in (a, b))
    return math.exp(-gamma * math.dist(one, other) ** 2)


def series(a: list[float], b: list[float], gamma: float, order: int) -> float:
    cosine = sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))
    return sum(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1))


def naive(student: list[list[float]], teacher: list[list[float]], correlate) -> float:
    n = len(student)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    return sum((correlate(student[i], student[j]) - correlate(teacher[i], teacher[j])) ** 2 for i, j in pairs) / n**2


class TestGaussian(BatchContract):
    function = staticmethod(correlation_congruence)
    shape = (5, 4)


class TestConsecutive(BatchContract):
    function = staticmethod(consecutive)
    shape = (5, 4)

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        """It does: each row is compared with the next one. Turned round they have the same neighbours."""
        student, teacher = self.draw()
        torch.testing.assert_close(consecutive(student.flip(0), teacher.flip(0)), consecutive(student, teacher))
        order = [0, 2, 4, 1, 3]
        assert not torch.isclose(consecutive(student[order], teacher[order]), consecutive(student, teacher))

    def test_widths_may_differ(self) -> None:
        """They may not: it subtracts. `CorrelationCongruence.setup` refuses."""
        student, teacher = self.draw()
        with pytest.raises(RuntimeError):
            consecutive(student[:, :2], teacher)


class TestFirst(LossContract):
    def make(self) -> CorrelationCongruence:
        return CorrelationCongruence()


class TestConsecutiveMeans(LossContract):
    def make(self) -> CorrelationCongruence:
        return CorrelationCongruence("consecutive", pooling="mean")


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (1.0, 1), (2.0, 5)])
def test_it_is_what_loops_over_the_examples_give(gamma, order):
    student, teacher = randn(6, 3), randn(6, 5, seed=1).exp()
    student[4] = student[2]
    rows = [side.double().tolist() for side in (student, teacher)]
    expected = naive(*rows, partial(series, gamma=gamma, order=order))
    found = correlation_congruence(student, teacher, gamma=gamma, order=order)
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("gamma", [0.4, 2.0])
def test_a_long_series_is_the_gaussian_kernel(gamma):
    student, teacher = randn(6, 3), randn(6, 5, seed=1)
    expected = naive(student.double().tolist(), teacher.double().tolist(), partial(kernel, gamma=gamma))
    found = correlation_congruence(student, teacher, gamma=gamma, order=25)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_by_hand():
    """Equal directions against a right angle at gamma 1/2: 2 of 4 entries differ by (1 + 1/2) / e."""
    student, teacher = torch.tensor([[2.0], [7.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0]])
    found = correlation_congruence(student, teacher, gamma=0.5, order=2)
    torch.testing.assert_close(found, torch.tensor(0.5 * (1.5 / math.e) ** 2))


def test_consecutive_by_hand():
    """|d| = (1, 2), (3, 0), (2, 5): products (3, 0) and (6, 0), of two neighbours."""
    student = torch.tensor([[1.0, -2.0], [3.0, 0.0], [-2.0, 5.0]])
    torch.testing.assert_close(consecutive(student, torch.zeros(3, 2)), torch.tensor(4.5))


def test_a_row_without_a_direction_correlates_with_nothing():
    """Cosine 0 where the others' are 1, at gamma 1/2 and order 1: 2 of 4 entries differ by 1 / e."""
    student = torch.tensor([[1.0], [0.0]], requires_grad=True)
    found = correlation_congruence(student, torch.ones(2, 1), gamma=0.5, order=1)
    torch.testing.assert_close(found, torch.tensor(0.5 * math.exp(-2)))
    (gradient,) = torch.autograd.grad(found, student)
    assert gradient[1] == 0


@given(seed=st.integers(0, 1000), order=st.permutations(range(5)))
@settings(deadline=None, max_examples=40)
def test_lengths_and_rotation_are_free_and_both_sides_count_alike(seed, order):
    student, teacher = randn(5, 4, seed=seed), randn(5, 3, seed=seed + 5000)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved = student @ rotation * randn(5, 1, seed=seed + 7000).exp()
    plain = correlation_congruence(student, teacher)
    torch.testing.assert_close(correlation_congruence(moved[order], teacher[order]), plain, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(correlation_congruence(teacher, student), plain)
    assert correlation_congruence(moved, student) < 1e-6


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
@settings(deadline=None, max_examples=20)
def test_consecutive_is_symmetric_and_of_degree_two_and_knows_no_place(seed, scale, shift):
    student, teacher = randn(5, 4, seed=seed), randn(5, 4, seed=seed + 5000)
    plain = consecutive(student, teacher)
    torch.testing.assert_close(consecutive(teacher, student), plain)
    torch.testing.assert_close(consecutive(student * scale, teacher * scale), plain * scale**2)
    torch.testing.assert_close(consecutive(student + shift, teacher + shift), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("function", [correlation_congruence, consecutive])
def test_nothing_of_the_size_batch_squared_times_width_is_made_or_kept(function):
    largest, kept = memory(function, randn(48, 64).requires_grad_(), randn(48, 64, seed=1))
    assert largest <= 48 * 64
    assert kept < 48 * 48 * 12


def test_its_arguments_reach_the_formula():
    student, teacher = randn(5, 6), randn(5, 6, seed=1)
    found = CorrelationCongruence(gamma=1.5, order=3).relate(student, teacher)
    torch.testing.assert_close(found, correlation_congruence(student, teacher, gamma=1.5, order=3))
    found = CorrelationCongruence("consecutive").relate(student, teacher)
    torch.testing.assert_close(found, consecutive(student, teacher))


def test_what_does_not_fit_is_refused():
    who, wide = "CorrelationCongruence", replace(TEACHER, width=9)
    refuses(CorrelationCongruence("rbf"), f'{who}: kernel=\'rbf\' is not "gaussian" or "consecutive".')
    refuses(CorrelationCongruence(gamma=0), f"{who}: gamma is 0; it must be above 0.")
    refuses(CorrelationCongruence(order=0), f"{who}: order is 0; it must be at least 1.")
    message = (
        f'{who}: the student is 6 wide, the teacher 9, and kernel="consecutive" subtracts one from the other. '
        'Pass kernel="gaussian".'
    )
    refuses(CorrelationCongruence("consecutive"), message, teacher=wide)
    CorrelationCongruence().setup(STUDENT, wide, Task.TOKENS)
    CorrelationCongruence("consecutive").setup(STUDENT, TEACHER, Task.TOKENS)


def test_its_name():
    assert CorrelationCongruence().name == "correlation_congruence"
