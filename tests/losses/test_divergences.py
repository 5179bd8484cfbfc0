import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import (
    GeneralizedJSD,
    ReverseKL,
    SkewKL,
    TotalVariation,
    generalized_jsd,
    kl_divergence,
    reverse_kl,
    skew_kl,
    total_variation,
)
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import LossContract, PositionContract, randn, refuses

KINDS = pytest.mark.parametrize("kind", [ReverseKL, GeneralizedJSD, SkewKL, TotalVariation])
LOGIT_ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def softmax(logits, temperature=1.0):
    top = max(logits)
    powers = [math.exp((logit - top) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mix(share, p, q):
    return [share * a + (1 - share) * b for a, b in zip(p, q, strict=True)]


def naive_reverse(q, p, temperature):
    return temperature**2 * kl(q, p)


def naive_jsd(beta):
    def value(q, p, temperature):
        middle = mix(beta, p, q)
        return beta * kl(p, middle) + (1 - beta) * kl(q, middle)

    return value


def naive_skew(alpha):
    return lambda q, p, temperature: kl(p, mix(alpha, p, q))


def naive_variation(q, p, temperature):
    """The largest difference over all events, of which there are 2^5."""
    events = [[index for index in range(5) if event >> index & 1] for event in range(32)]
    return max(abs(sum(p[i] - q[i] for i in event)) for event in events)


def jsd(beta):
    return lambda student, teacher, temperature=1.0: generalized_jsd(student, teacher, beta, temperature)


def skew(alpha):
    return lambda student, teacher, temperature=1.0: skew_kl(student, teacher, alpha, temperature)


class TestReverseKL(PositionContract):
    function = staticmethod(reverse_kl)
    shape, positions = (3, 4, 7), (3, 4)


class TestGeneralizedJSD(PositionContract):
    function = staticmethod(generalized_jsd)
    shape, positions = (3, 4, 7), (3, 4)


class TestAllOfTheTeacher(TestGeneralizedJSD):
    function = staticmethod(jsd(0.0))


class TestAllOfTheStudent(TestGeneralizedJSD):
    function = staticmethod(jsd(1.0))


class TestSkewKL(PositionContract):
    function = staticmethod(skew_kl)
    shape, positions = (3, 4, 7), (3, 4)


class TestSkewWithoutSkew(TestSkewKL):
    function = staticmethod(skew(0.0))


class TestTotalVariation(PositionContract):
    function = staticmethod(total_variation)
    shape, positions = (3, 4, 7), (3, 4)


class TestReverseKLLoss(LossContract):
    def make(self):
        return ReverseKL(temperature=2.0)


class TestJSDLoss(LossContract):
    task = Task.CAUSAL_LM

    def make(self):
        return GeneralizedJSD(beta=0.3, chunk_size=2)


class TestReverseJSDLoss(LossContract):
    def make(self):
        return GeneralizedJSD(beta=1.0)


class TestSkewKLLoss(LossContract):
    task, labelled = Task.CAUSAL_LM, False

    def make(self):
        return SkewKL(alpha=0.2, chunk_size=3)


class TestTotalVariationLoss(LossContract):
    def make(self):
        return TotalVariation()


class TestSeveralLabels(LossContract):
    task = Task.MULTI_LABEL

    def make(self):
        return GeneralizedJSD()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    ("function", "naive"),
    [
        (reverse_kl, naive_reverse),
        (jsd(0.5), naive_jsd(0.5)),
        (jsd(0.1), naive_jsd(0.1)),
        (jsd(0.0), lambda q, p, temperature: kl(p, q)),
        (jsd(1.0), lambda q, p, temperature: kl(q, p)),
        (skew(0.1), naive_skew(0.1)),
        (skew(0.9), naive_skew(0.9)),
        (skew(0.0), lambda q, p, temperature: kl(p, q)),
        (total_variation, naive_variation),
    ],
)
def test_each_row_is_what_a_loop_gives(function, naive, temperature):
    student, teacher = randn(6, 5) * 3, randn(6, 5, seed=1) * 3
    rows = zip(student.double().tolist(), teacher.double().tolist(), strict=True)
    expected = [naive(softmax(mine, temperature), softmax(theirs, temperature), temperature) for mine, theirs in rows]
    torch.testing.assert_close(function(student, teacher, temperature), torch.tensor(expected))


def test_by_hand():
    """p = (3/4, 1/4) of the teacher, q = (1/2, 1/2), at temperature 2."""
    student, teacher = torch.zeros(2), torch.tensor([2 * math.log(3.0), 0.0])
    torch.testing.assert_close(reverse_kl(student, teacher, 2.0), torch.tensor(4 * 0.5 * math.log(4 / 3)))
    torch.testing.assert_close(total_variation(student, teacher, 2.0), torch.tensor(0.25))
    half = 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)  # to the mixture (5/8, 3/8)
    torch.testing.assert_close(skew_kl(student, teacher, 0.5, 2.0), torch.tensor(half))
    other = 0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)
    torch.testing.assert_close(generalized_jsd(student, teacher, 0.5, 2.0), torch.tensor((half + other) / 2))


@given(LOGIT_ROWS, LOGIT_ROWS, st.permutations(range(5)), st.floats(-10, 10), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=60)
def test_order_and_constants_are_free_and_bounds_hold(student, teacher, order, constant, share):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    for function in (reverse_kl, jsd(share), skew(share), total_variation):
        plain = function(mine, theirs)
        assert plain >= -1e-5
        torch.testing.assert_close(function(mine[order] + constant, theirs[order]), plain, rtol=1e-3, atol=1e-4)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert generalized_jsd(mine, theirs, share) <= entropy + 1e-5 <= math.log(2) + 2e-5
    assert skew_kl(mine, theirs, share) <= -math.log(share) + 1e-5
    assert total_variation(mine, theirs) <= 1 + 1e-6


@given(LOGIT_ROWS, LOGIT_ROWS, st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=60)
def test_what_happens_when_the_sides_change_places(student, teacher, share):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(reverse_kl(mine, theirs), kl_divergence(theirs, mine), **close)
    torch.testing.assert_close(total_variation(mine, theirs), total_variation(theirs, mine), **close)
    swapped = generalized_jsd(theirs, mine, 1 - share)
    torch.testing.assert_close(generalized_jsd(mine, theirs, share), swapped, **close)


def test_the_ends_are_the_limits_over_beta_and_the_scale_jumps_there():
    student, teacher = randn(4, 5).double(), randn(4, 5, seed=1).double()
    near = 1e-3
    torch.testing.assert_close(jsd(near)(student, teacher) / near, jsd(0)(student, teacher), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(jsd(1 - near)(student, teacher) / near, jsd(1)(student, teacher), rtol=1e-2, atol=1e-2)
    assert (jsd(near)(student, teacher) < 0.01 * jsd(0)(student, teacher)).all()


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_certain_and_wrong_is_finite_at_any_temperature(kind, dtype):
    teacher = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4]], dtype=dtype)
    for temperature in (0.1, 1.0, 10.0):
        student = (-teacher).clone().requires_grad_()
        batch = Batch({"x": torch.ones(2, 3)}, Task.SINGLE_LABEL)
        found = kind(temperature=temperature)({LOGITS: student}, {LOGITS: teacher}, batch)
        found.backward()
        assert found.isfinite()
        assert student.grad.isfinite().all()


@KINDS
def test_a_label_is_a_distribution_over_yes_and_no(kind):
    student, teacher, loss = randn(3, 4), randn(3, 4, seed=1), kind()
    found = loss({LOGITS: student}, {LOGITS: teacher}, Batch({"labels": torch.zeros(3, 4)}, Task.MULTI_LABEL))
    yes_and_no = [torch.stack([side, torch.zeros_like(side)], -1) for side in (student, teacher)]
    torch.testing.assert_close(found, loss.values(*yes_and_no).sum() / 3)


@KINDS
def test_the_places_of_a_span_are_its_classes(kind):
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    student, teacher, loss = randn(2, 2, 4), randn(2, 2, 4, seed=1), kind()
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SPAN)
    expected = (loss.values(student[0, :, :3], teacher[0, :, :3]) + loss.values(student[1], teacher[1])).sum() / 4
    found = loss({LOGITS: student.requires_grad_()}, {LOGITS: teacher}, batch)
    found.backward()
    torch.testing.assert_close(found, expected)
    assert student.grad.isfinite().all()
    assert (student.grad[0, :, 3] == 0).all()


@pytest.mark.parametrize(
    ("loss", "function"),
    [
        (ReverseKL(3.0), lambda s, t: reverse_kl(s, t, 3.0)),
        (GeneralizedJSD(0.2, 3.0), lambda s, t: generalized_jsd(s, t, 0.2, 3.0)),
        (SkewKL(0.3, 3.0), lambda s, t: skew_kl(s, t, 0.3, 3.0)),
        (TotalVariation(3.0), lambda s, t: total_variation(s, t, 3.0)),
    ],
)
def test_the_arguments_reach_the_formula(loss, function):
    student, teacher = randn(4, 5), randn(4, 5, seed=1)
    torch.testing.assert_close(loss.values(student, teacher), function(student, teacher))


@KINDS
def test_what_does_not_fit_is_refused(kind):
    who = kind.__name__
    refuses(kind(), f"{who} is not for regression. Use SoftTargets or LogitMSE.", Task.REGRESSION)
    embedding = f"{who} needs logits: an embedding model has none. Use HiddenMSE or RKDDistance."
    refuses(kind(), embedding, Task.EMBEDDING)
    refuses(kind(temperature=-1.0), f"{who}: temperature is -1.0; it must be above 0.")
    refuses(kind(chunk_size=0), f"{who}: chunk_size is 0; it must be at least 1.")


def test_shares_out_of_range_are_refused():
    for beta in (-0.1, 1.1):
        refuses(GeneralizedJSD(beta), f"GeneralizedJSD: beta is {beta}; it must be between 0 and 1.")
    for alpha in (-0.1, 1.0):
        refuses(SkewKL(alpha), f"SkewKL: alpha is {alpha}; it must be at least 0 and below 1.")


def test_their_names():
    names = [kind().name for kind in (ReverseKL, GeneralizedJSD, SkewKL, TotalVariation)]
    assert names == ["reverse_kl", "generalized_jsd", "skew_kl", "total_variation"]
