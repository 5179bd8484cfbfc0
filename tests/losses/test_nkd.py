import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import NormalizedKD, normalized_kd
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import STUDENT, LabelledExampleContract, LossContract, PositionContract, randn, refuses

LOGIT_ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def softmax(logits, temperature=1.0):
    powers = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def naive(student, teacher, label, gamma, temperature):
    value = -softmax(teacher)[label] * math.log(softmax(student)[label])
    q, p = (softmax([*side[:label], *side[label + 1 :]], temperature) for side in (student, teacher))
    return value - gamma * temperature**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))


class TestFunction(PositionContract):
    shape, positions = (3, 4, 7), (3, 4)
    test_it_is_zero_where_both_agree = None  # a cross entropy: see below where it is least

    @staticmethod
    def function(student, teacher):
        return normalized_kd(student, teacher, torch.full(student.shape[:-1], 2))


class TestTokens(LossContract):
    def make(self):
        return NormalizedKD()


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self):
        return NormalizedKD(gamma=0.5, temperature=2.0, chunk_size=2)


class TestExamples(LabelledExampleContract):
    def make(self):
        return NormalizedKD()


@pytest.mark.parametrize(("gamma", "temperature"), [(1.5, 1.0), (0.5, 3.0), (0.0, 1.0)])
def test_each_row_is_what_a_loop_gives(gamma, temperature):
    student, teacher, labels = randn(6, 5) * 3, randn(6, 5, seed=1) * 3, [0, 1, 2, 3, 4, 0]
    rows = zip(student.double().tolist(), teacher.double().tolist(), labels, strict=True)
    expected = torch.tensor([naive(*row, gamma, temperature) for row in rows])
    torch.testing.assert_close(normalized_kd(student, teacher, torch.tensor(labels), gamma, temperature), expected)


def test_by_hand():
    """The teacher says (1/2, 3/8, 1/8), the student (1/2, 1/4, 1/4), and the label is the first."""
    teacher, student = torch.tensor([4.0, 3.0, 1.0]).log(), torch.tensor([2.0, 1.0, 1.0]).log()
    expected = 0.5 * math.log(2) + 3.0 * math.log(2)  # all that is not the target: one of two, log 2 either way
    torch.testing.assert_close(normalized_kd(student, teacher, torch.tensor(0), gamma=3.0), torch.tensor(expected))


@given(LOGIT_ROWS, LOGIT_ROWS, st.integers(0, 4), st.permutations(range(5)), st.floats(-10, 10))
@settings(deadline=None, max_examples=40)
def test_class_order_and_constants_are_free(student, teacher, label, order, constant):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    plain = normalized_kd(mine, theirs, torch.tensor(label))
    assert plain >= 0
    moved = normalized_kd(mine[order] + constant, theirs[order], torch.tensor(order.index(label)))
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-3)


def test_the_target_part_is_a_weighted_cross_entropy_and_pulls_on_where_both_agree():
    logits, labels = randn(4, 5), torch.tensor([1, 0, 4, 2])
    student = logits.clone().requires_grad_()
    normalized_kd(student, logits, labels, gamma=0.0).sum().backward()
    p = logits.softmax(-1)
    expected = p.gather(1, labels[:, None]) * (p - F.one_hot(labels, 5))
    torch.testing.assert_close(student.grad, expected)


def test_the_other_part_is_least_where_both_agree_on_the_others():
    logits, labels = randn(4, 5), torch.tensor([1, 0, 4, 2])

    def other_part(student):
        return normalized_kd(student, logits, labels, 1.0, 2.0) - normalized_kd(student, logits, labels, 0.0, 2.0)

    student = (logits + 3 * F.one_hot(labels, 5)).requires_grad_()  # another opinion of the target changes nothing
    least = other_part(student)
    least.sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros(4, 5), rtol=0, atol=1e-5)
    for seed in range(10):
        assert (other_part(logits + randn(4, 5, seed=seed)) >= least - 1e-5).all()


def test_what_does_not_fit_is_refused():
    several = (
        "NormalizedKD is not for multi_label. It needs one class id an example. Use SoftTargets or LabelEmbeddings."
    )
    refuses(NormalizedKD(), several, Task.MULTI_LABEL)
    values = "NormalizedKD is not for regression. It needs classes. Use SoftTargets or LogitMSE."
    refuses(NormalizedKD(), values, Task.REGRESSION)
    span = (
        "NormalizedKD is not for span. Its classes are positions, of another number in every example. Use SoftTargets."
    )
    refuses(NormalizedKD(), span, Task.SPAN)
    two = (
        "NormalizedKD needs three classes or more, and SmallModel has 2: "
        "without the target nothing is left to compare. Use SoftTargets."
    )
    refuses(NormalizedKD(), two, Task.SINGLE_LABEL, student=replace(STUDENT, classes=2))
    refuses(NormalizedKD(temperature=0), "NormalizedKD: temperature is 0; it must be above 0.")


def test_labels_that_are_no_class_ids_are_refused():
    batch = Batch({"x": torch.ones(3, 2), "labels": torch.zeros(3, 5)}, Task.SINGLE_LABEL)
    with pytest.raises(ValueError, match=r"^NormalizedKD needs") as error:
        NormalizedKD()({LOGITS: randn(3, 5)}, {LOGITS: randn(3, 5, seed=1)}, batch)
    assert str(error.value) == (
        "NormalizedKD needs one class id for each of (3,) predictions, and the labels are float32 of shape (3, 5). "
        "Pass class ids, or use SoftTargets, which needs none."
    )


def test_its_name_and_that_it_needs_labels():
    assert NormalizedKD().name == "normalized_kd"
    assert NormalizedKD.needs_labels
