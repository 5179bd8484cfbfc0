import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import DecoupledKL, decoupled_kl, kl_divergence, warmup
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import STUDENT, LabelledExampleContract, LossContract, PositionContract, randn, refuses

LOGIT_ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def softmax(logits, temperature):
    powers = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    return [power / sum(powers) for power in powers]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def naive(student, teacher, label, alpha, beta, temperature):
    """The paper's two parts: b = (p_y, sum of the rest), and the softmax of the logits without y."""
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    target = kl([p[label], sum(p) - p[label]], [q[label], sum(q) - q[label]])
    q, p = (softmax([*side[:label], *side[label + 1 :]], temperature) for side in (student, teacher))
    return temperature**2 * (alpha * target + beta * kl(p, q))


class TestFunction(PositionContract):
    shape, positions = (3, 4, 7), (3, 4)

    @staticmethod
    def function(student, teacher):
        return decoupled_kl(student, teacher, torch.full(student.shape[:-1], 2))


class TestAtTemperatureOne(TestFunction):
    @staticmethod
    def function(student, teacher):
        return decoupled_kl(student, teacher, torch.full(student.shape[:-1], 2), temperature=1.0)


class TestTokens(LossContract):
    def make(self):
        return DecoupledKL()


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self):
        return DecoupledKL(alpha=0.5, beta=2.0, temperature=2.0, chunk_size=2)


class TestExamples(LabelledExampleContract):
    def make(self):
        return DecoupledKL(temperature=1.0)


@pytest.mark.parametrize(("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (0.5, 2.0, 1.0), (0.0, 1.0, 2.0)])
def test_each_row_is_what_a_loop_gives(alpha, beta, temperature):
    student, teacher, labels = randn(6, 5) * 3, randn(6, 5, seed=1) * 3, [0, 1, 2, 3, 4, 0]
    rows = zip(student.double().tolist(), teacher.double().tolist(), labels, strict=True)
    expected = torch.tensor([naive(*row, alpha, beta, temperature) for row in rows])
    found = decoupled_kl(student, teacher, torch.tensor(labels), alpha, beta, temperature)
    torch.testing.assert_close(found, expected)


def test_by_hand():
    """The teacher says (1/2, 3/8, 1/8), the student (1/2, 1/4, 1/4): they agree on the target, not on the others."""
    teacher, student = torch.tensor([4.0, 3.0, 1.0]).log(), torch.tensor([2.0, 1.0, 1.0]).log()
    others = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    found = decoupled_kl(student, teacher, torch.tensor(0), alpha=7.0, beta=2.0, temperature=1.0)
    torch.testing.assert_close(found, torch.tensor(2 * others))
    # and of the second class: 3/8 against 1/4, and (4/5, 1/5) against (2/3, 1/3)
    target = 0.375 * math.log(1.5) + 0.625 * math.log(0.625 / 0.75)
    others = 0.8 * math.log(1.2) + 0.2 * math.log(0.6)
    found = decoupled_kl(student, teacher, torch.tensor(1), alpha=7.0, beta=2.0, temperature=1.0)
    torch.testing.assert_close(found, torch.tensor(7 * target + 2 * others))


@given(LOGIT_ROWS, LOGIT_ROWS, st.integers(0, 4), st.floats(0.5, 10))
@settings(deadline=None, max_examples=60)
def test_the_two_parts_make_up_the_kl(student, teacher, label, temperature):
    """KL = target part + (1 - p_y) times the non-target part."""
    mine, theirs = torch.tensor(student).double(), torch.tensor(teacher).double()
    rest = 1 - (theirs / temperature).softmax(-1)[label].item()
    found = decoupled_kl(mine, theirs, torch.tensor(label), 1.0, rest, temperature)
    expected = kl_divergence(mine, theirs, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3, check_dtype=False)


@given(LOGIT_ROWS, LOGIT_ROWS, st.integers(0, 4), st.permutations(range(5)), st.floats(-10, 10))
@settings(deadline=None, max_examples=40)
def test_class_order_and_constants_are_free(student, teacher, label, order, constant):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    plain = decoupled_kl(mine, theirs, torch.tensor(label))
    assert plain >= -1e-4
    moved = decoupled_kl(mine[order] + constant, theirs[order], torch.tensor(order.index(label)))
    torch.testing.assert_close(moved, plain, rtol=1e-3, atol=1e-3)


def test_two_classes_leave_the_target_part_alone():
    student, teacher = randn(4, 2), randn(4, 2, seed=1)
    found = decoupled_kl(student, teacher, torch.tensor([0, 1, 0, 1]), alpha=1.0, beta=99.0, temperature=2.0)
    torch.testing.assert_close(found, kl_divergence(student, teacher, 2.0))


def test_logits_of_sixty_at_temperature_one_are_finite():
    """Where a softmax that is divided and logged gives inf."""
    student = torch.tensor([[-60.0, 60.0, -60.0, 0.0]]).requires_grad_()
    teacher = torch.tensor([[60.0, -60.0, -60.0, 0.0]])
    for label, expected in ((0, 120.0), (1, 60.0)):  # the odds: 60 against -120, and -120 against 60
        found = decoupled_kl(student, teacher, torch.tensor([label]), 1.0, 0.0, 1.0)
        found.sum().backward()
        torch.testing.assert_close(found, torch.tensor([expected]))
    assert student.grad.isfinite().all()


def test_it_can_be_warmed_up():
    assert DecoupledKL(weight=warmup(1.0, over=0.5)).weight(0.25) == 0.5


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (torch.zeros(3, 5), "float32 of shape (3, 5)"),
        (torch.zeros(3), "float32 of shape (3,)"),
        (torch.zeros(3, 5).long(), "int64 of shape (3, 5)"),
    ],
)
def test_labels_that_are_no_class_ids_are_refused(labels, found):
    batch = Batch({"x": torch.ones(3, 2), "labels": labels}, Task.SINGLE_LABEL)
    with pytest.raises(ValueError, match=r"^DecoupledKL needs") as error:
        DecoupledKL()({LOGITS: randn(3, 5)}, {LOGITS: randn(3, 5, seed=1)}, batch)
    assert str(error.value) == (
        f"DecoupledKL needs one class id for each of (3,) predictions, and the labels are {found}. "
        "Pass class ids, or use SoftTargets, which needs none."
    )


def test_a_batch_without_labels_is_refused():
    with pytest.raises(ValueError, match=r"^DecoupledKL needs") as error:
        DecoupledKL()({LOGITS: randn(3, 5)}, {LOGITS: randn(3, 5)}, Batch({"x": torch.ones(3, 2)}, Task.SINGLE_LABEL))
    message = "DecoupledKL needs a labels column, and the batch has none. Add it, or use SoftTargets."
    assert str(error.value) == message


def test_what_does_not_fit_is_refused():
    several = (
        "DecoupledKL is not for multi_label. It needs one class id an example. Use SoftTargets or LabelEmbeddings."
    )
    refuses(DecoupledKL(), several, Task.MULTI_LABEL)
    values = "DecoupledKL is not for regression. It needs classes. Use SoftTargets or LogitMSE."
    refuses(DecoupledKL(), values, Task.REGRESSION)
    span = (
        "DecoupledKL is not for span. Its classes are positions, of another number in every example. Use SoftTargets."
    )
    refuses(DecoupledKL(), span, Task.SPAN)
    two = (
        "DecoupledKL needs three classes or more, and SmallModel has 2: "
        "without the target nothing is left to compare. Use SoftTargets."
    )
    refuses(DecoupledKL(), two, Task.SINGLE_LABEL, student=replace(STUDENT, classes=2))
    refuses(DecoupledKL(temperature=0), "DecoupledKL: temperature is 0; it must be above 0.")
    DecoupledKL().setup(replace(STUDENT, classes=3), None, Task.SINGLE_LABEL)


def test_its_name_and_that_it_needs_labels():
    assert DecoupledKL().name == "decoupled_kl"
    assert DecoupledKL.needs_labels
