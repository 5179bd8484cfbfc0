import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import SoftTargets, binary_kl_divergence, kl_divergence, standardize
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, randn, refuses

LOGIT_ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def softmax(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    powers = [math.exp((logit - top) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def naive_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive_binary_kl(student: list[float], teacher: list[float], temperature: float) -> float:
    pairs = zip(student, teacher, strict=True)
    return sum(naive_kl([mine, 0.0], [theirs, 0.0], temperature) for mine, theirs in pairs)


class TestKLDivergence(PositionContract):
    function = staticmethod(kl_divergence)
    shape, positions = (3, 4, 7), (3, 4)


class TestBinaryKLDivergence(PositionContract):
    function = staticmethod(binary_kl_divergence)
    shape, positions = (3, 7), (3,)


class TestTokens(LossContract):
    def make(self) -> SoftTargets:
        return SoftTargets(temperature=3.0)


class TestStandardized(LossContract):
    def make(self) -> SoftTargets:
        return SoftTargets(standardize=True)


class TestCausalWithoutLabels(LossContract):
    task, labelled = Task.CAUSAL_LM, False

    def make(self) -> SoftTargets:
        return SoftTargets()


class TestCausalWithLabels(LossContract):
    task = Task.CAUSAL_LM

    def make(self) -> SoftTargets:
        return SoftTargets()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("function", "naive"), [(kl_divergence, naive_kl), (binary_kl_divergence, naive_binary_kl)])
def test_each_row_is_what_a_loop_gives(function, naive, temperature):
    student, teacher = randn(6, 5) * 3, randn(6, 5, seed=1) * 3
    expected = [naive(*rows, temperature) for rows in zip(student.tolist(), teacher.tolist(), strict=True)]
    torch.testing.assert_close(function(student, teacher, temperature), torch.tensor(expected))


def test_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2): KL(p || q) = log 2 + 3/4 log 3/4 + 1/4 log 1/4, in nats, T^2 = 4 times."""
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    teacher, student = torch.tensor([2 * math.log(3.0), 0.0]), torch.zeros(2)
    torch.testing.assert_close(kl_divergence(student, teacher, 2.0), torch.tensor(4 * expected))
    one_label = binary_kl_divergence(student[:1], teacher[:1], 2.0)
    torch.testing.assert_close(one_label, torch.tensor(4 * expected))


@given(LOGIT_ROWS, LOGIT_ROWS, st.permutations(range(5)), st.floats(-10, 10), st.floats(0.5, 10))
@settings(deadline=None, max_examples=50)
def test_kl_does_not_care_about_class_order_or_a_constant(student, teacher, order, constant, temperature):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    plain = kl_divergence(mine, theirs, temperature)
    assert plain >= -1e-4
    for function in (kl_divergence, binary_kl_divergence):
        changed = function(mine[order], theirs[order], temperature)
        torch.testing.assert_close(changed, function(mine, theirs, temperature), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(kl_divergence(mine + constant, theirs, temperature), plain, rtol=1e-3, atol=1e-3)


def test_the_gradient_is_the_papers():
    """Hinton, equation 2: T^2 / T (q - p), so that it does not fade with the temperature."""
    student, teacher = randn(4, 5).requires_grad_(), randn(4, 5, seed=1)
    kl_divergence(student, teacher, 3.0).sum().backward()
    torch.testing.assert_close(student.grad, 3.0 * ((student / 3).softmax(-1) - (teacher / 3).softmax(-1)).detach())


def test_two_classes_are_one_label():
    student, teacher = randn(6, 1), randn(6, 1, seed=1)
    two = kl_divergence(*(torch.cat([side, torch.zeros(6, 1)], 1) for side in (student, teacher)))
    torch.testing.assert_close(binary_kl_divergence(student, teacher), two)


def test_standardize_by_hand():
    torch.testing.assert_close(standardize(torch.tensor([1.0, 2.0, 3.0])), torch.tensor([-1.0, 0.0, 1.0]))
    rows = randn(3, 5)
    torch.testing.assert_close(standardize(rows * 7 - 3), standardize(rows), rtol=1e-4, atol=1e-5)
    assert (standardize(torch.ones(2, 5)) == 0).all()


def test_standardized_targets_ignore_scale_and_shift():
    loss, batch = SoftTargets(standardize=True), Batch({"input_ids": torch.ones(3, 4)}, Task.SINGLE_LABEL)
    student = randn(3, 5)
    assert loss({LOGITS: student}, {LOGITS: student * 9 + 4}, batch) < 1e-6


@pytest.mark.parametrize(
    ("task", "shape", "expected"),
    [
        (Task.SINGLE_LABEL, (3, 5), lambda s, t: sum(naive_kl(*rows, 2.0) for rows in zip(s, t, strict=True)) / 3),
        (Task.MULTI_LABEL, (3, 5), lambda s, t: sum(naive_binary_kl(*row, 2.0) for row in zip(s, t, strict=True)) / 3),
        (Task.REGRESSION, (3, 1), lambda s, t: sum((a[0] - b[0]) ** 2 for a, b in zip(s, t, strict=True)) / 3),
    ],
)
def test_the_task_decides_the_formula(task, shape, expected):
    student, teacher = randn(*shape), randn(*shape, seed=1)
    found = SoftTargets(temperature=2.0)({LOGITS: student}, {LOGITS: teacher}, Batch({"x": torch.ones(3, 4)}, task))
    torch.testing.assert_close(found, torch.tensor(expected(student.tolist(), teacher.tolist())))


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_the_start_of_a_span_is_not_looked_for_in_padding(temperature):
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 0]])
    student, teacher = randn(2, 2, 5), randn(2, 2, 5, seed=1)
    kept = [[row[:, m] for row, m in zip(side, mask.bool(), strict=True)] for side in (student, teacher)]
    rows = [(a.tolist(), b.tolist()) for s, t in zip(*kept, strict=True) for a, b in zip(s, t, strict=True)]
    expected = sum(naive_kl(*row, temperature) for row in rows) / 4  # half the start's, half the end's
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SPAN)
    spoiled = student.masked_fill(mask[:, None] == 0, float("nan")).requires_grad_()
    found = SoftTargets(temperature)({LOGITS: spoiled}, {LOGITS: teacher}, batch)
    found.backward()
    torch.testing.assert_close(found, torch.tensor(expected))
    assert spoiled.grad is not None
    assert spoiled.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    refuses(SoftTargets(temperature=0), "SoftTargets: temperature is 0; it must be above 0.")
    embedding = "SoftTargets needs logits: an embedding model has none. Use HiddenMSE or RKDDistance."
    refuses(SoftTargets(), embedding, Task.EMBEDDING)
    for task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN):
        message = f"SoftTargets(standardize=True) is for classes, and the task is {task}. Leave it out."
        refuses(SoftTargets(standardize=True), message, task)
    two = replace(STUDENT, classes=2)
    message = "SoftTargets(standardize=True): of two classes only the sign is left. Leave it out."
    refuses(SoftTargets(standardize=True), message, student=two)


def test_its_name():
    assert SoftTargets().name == "soft_targets"


@pytest.mark.parametrize(
    ("arguments", "task", "sources"),
    [
        ({}, Task.SINGLE_LABEL, ["1503.02531"]),
        ({"standardize": True}, Task.SINGLE_LABEL, ["1503.02531", "2403.01427"]),
        ({}, Task.MULTI_LABEL, ["2308.06453"]),
    ],
)
def test_the_card_names_the_papers_of_what_was_used(arguments, task, sources):
    loss = SoftTargets(**arguments)
    loss.setup(STUDENT, TEACHER, task)
    assert re.findall(r"arXiv:(\d+\.\d+)", loss.citation) == sources
