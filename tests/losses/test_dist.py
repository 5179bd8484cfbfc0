import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import DIST, binary_dist, dist
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import BatchContract, LossContract, randn, refuses

BOTH = pytest.mark.parametrize("function", [dist, binary_dist])


def softmax(logits, temperature):
    powers = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logits, temperature):
    return [1 / (1 + math.exp(-logit / temperature)) for logit in logits]


def pearson(one, other):
    a, b = ([x - sum(side) / len(side) for x in side] for side in (one, other))
    lengths = math.hypot(*a) * math.hypot(*b)
    return sum(x * y for x, y in zip(a, b, strict=True)) / lengths


def mean_distance(mine, theirs):
    return sum(1 - pearson(*row) for row in zip(mine, theirs, strict=True)) / len(mine)


def naive(student, teacher, beta, gamma, temperature, answer):
    mine, theirs = ([answer(row, temperature) for row in side] for side in (student, teacher))
    inter = mean_distance(mine, theirs)
    intra = mean_distance(list(zip(*mine, strict=True)), list(zip(*theirs, strict=True)))
    return temperature**2 * (beta * inter + gamma * intra)


class TestDist(BatchContract):
    function = staticmethod(dist)
    shape = (5, 4)
    test_widths_may_differ = None

    def test_one_row_has_no_relations(self):
        """Within the row there are some, between rows there are none."""
        student, teacher = (side[:1] for side in self.draw())
        self.finite_gradient(student, teacher)
        assert self.function(student, teacher, beta=0.0) == 0
        student.requires_grad_()
        self.function(student, teacher, beta=0.0).backward()
        assert student.grad.abs().max() == 0
        torch.testing.assert_close(self.function(student, teacher), self.function(student, teacher, gamma=0.0))


class TestBinaryDist(TestDist):
    function = staticmethod(binary_dist)


class TestSingleLabel(LossContract):
    task = Task.SINGLE_LABEL

    def make(self):
        return DIST(beta=0.5, gamma=2.0)


class TestMultiLabel(LossContract):
    task = Task.MULTI_LABEL

    def make(self):
        return DIST(temperature=4.0)


@pytest.mark.parametrize(("function", "answer"), [(dist, softmax), (binary_dist, sigmoid)])
@pytest.mark.parametrize(("beta", "gamma", "temperature"), [(1.0, 1.0, 1.0), (2.0, 0.0, 0.5), (0.0, 3.0, 4.0)])
def test_it_is_what_loops_give(function, answer, beta, gamma, temperature):
    student, teacher = randn(6, 5), randn(6, 5, seed=1)
    expected = naive(student.double().tolist(), teacher.double().tolist(), beta, gamma, temperature, answer)
    found = function(student, teacher, beta, gamma, temperature)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_by_hand():
    """The student turns (1/2, 1/3, 1/6) around: -1 in the row. Between rows all classes move the same way."""
    teacher = torch.tensor([[3.0, 2.0, 1.0]]).log()
    torch.testing.assert_close(dist(teacher.flip(1), teacher), torch.tensor(2.0))
    rows = torch.tensor([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0]]).log()
    # a row in which the teacher is constant adds 0; the middle class is 1/3 in both rows, and adds 0 too
    torch.testing.assert_close(dist(rows.flip(1), rows), torch.tensor(2 / 2 + (2 + 0 + 2) / 3))
    torch.testing.assert_close(dist(rows.flip(1), rows, 1.0, 0.0, 1.0), torch.tensor(1.0))


def test_a_student_that_is_constant_is_uncorrelated():
    teacher = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]]).log()
    student = torch.zeros(2, 3).requires_grad_()
    found = dist(student, teacher, 1.0, 1.0)
    found.backward()
    torch.testing.assert_close(found, torch.tensor(2.0))
    assert student.grad.abs().max() == 0


@BOTH
@given(seed=st.integers(0, 1000), rows=st.permutations(range(5)), classes=st.permutations(range(4)))
@settings(deadline=None, max_examples=40)
def test_order_is_free_and_both_sides_count_alike(function, seed, rows, classes):
    student, teacher = randn(5, 4, seed=seed), randn(5, 4, seed=seed + 5000)
    plain = function(student, teacher)
    moved = function(student[rows][:, classes], teacher[rows][:, classes])
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(function(teacher, student), plain, rtol=1e-4, atol=1e-5)
    assert 0 <= plain <= 4 + 1e-5


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 0.9))
@settings(deadline=None, max_examples=40)
def test_only_proportions_count(seed, scale):
    """Probabilities drawn towards 1/2, or towards their mean, correlate fully with what they were."""
    teacher = randn(5, 4, seed=seed).sigmoid()
    student = 0.5 + scale * (teacher - 0.5)
    assert binary_dist(student.logit(), teacher.logit()) < 1e-4
    student, teacher = 0.25 + scale * (teacher.softmax(-1) - 0.25), teacher.softmax(-1)
    assert dist(student.log(), teacher.log()) < 1e-4


@pytest.mark.parametrize("low", [-10.0, -40.0, -60.0, -80.0, -100.0, -1000.0])
def test_classes_of_tiny_probability_correlate_too_and_have_a_finite_gradient(low):
    """Where eps beside the product of the deviations would call them uncorrelated, and squares would be 0."""
    logits = torch.tensor([[0.0, 1.0, low], [1.0, 0.0, low + 1], [0.5, 0.5, low + 3]])
    assert dist(logits, logits.clone()) == 0
    student = logits.roll(1, 0).requires_grad_()
    dist(student, logits).backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10
    if low > -60:
        small = dist(student, logits, beta=0.0) * 3 - dist(student[:, :2], logits[:, :2], beta=0.0) * 2
        expected = 1 - pearson(logits[:, 2].exp().tolist(), logits[:, 2].roll(1).exp().tolist())
        assert abs(small.item() - expected) < 0.5


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_certain_answers_are_finite(function, dtype, temperature):
    teacher = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, -1e4], [-1e4, -1e4, -1e4]], dtype=dtype)
    student = (-teacher).clone().requires_grad_()
    found = function(student, teacher, temperature=temperature)
    found.backward()
    assert found.isfinite()
    assert student.grad.isfinite().all()


@BOTH
def test_constant_but_for_rounding_is_constant(function):
    """Equal texts come out of a model with other last bits."""
    equal = randn(1, 4) * (1 + 1e-7 * randn(5, 4))
    assert function(randn(5, 4, seed=1), equal, beta=0.0) == 0
    student = equal.clone().requires_grad_()
    found = function(student, randn(5, 4, seed=1), beta=0.0)
    found.backward()
    torch.testing.assert_close(found, torch.tensor(1.0))
    assert student.grad.abs().max() == 0


@BOTH
def test_one_class_has_nothing_to_correlate(function):
    student = randn(4, 1).requires_grad_()
    found = function(student, randn(4, 1, seed=1), gamma=0.0)
    found.backward()
    assert found == 0
    assert student.grad.abs().max() == 0


@pytest.mark.parametrize(("task", "function"), [(Task.SINGLE_LABEL, dist), (Task.MULTI_LABEL, binary_dist)])
def test_the_task_decides_the_probabilities(task, function):
    student, teacher = randn(4, 5), randn(4, 5, seed=1)
    found = DIST(2.0, 0.5, 3.0)({LOGITS: student}, {LOGITS: teacher}, Batch({"x": torch.ones(4, 2)}, task))
    torch.testing.assert_close(found, function(student, teacher, 2.0, 0.5, 3.0))


def test_what_does_not_fit_is_refused():
    for task in (Task.TOKENS, Task.CAUSAL_LM, Task.MASKED_LM, Task.SEQ2SEQ, Task.SPAN, Task.REGRESSION):
        message = f"DIST is not for {task}: it correlates the classes of whole examples. Use SoftTargets."
        refuses(DIST(), message, task)
    refuses(DIST(), "DIST needs logits: an embedding model has none. Use RKDDistance.", Task.EMBEDDING)
    refuses(DIST(temperature=0), "DIST: temperature is 0; it must be above 0.", Task.SINGLE_LABEL)


def test_its_name_and_that_it_belongs_to_the_batch():
    assert DIST().name == "dist"
    assert DIST.relational
