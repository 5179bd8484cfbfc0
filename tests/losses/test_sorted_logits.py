import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import SortedLogits, sorted_logits
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import LossContract, PositionContract, randn, refuses

LOGIT_ROWS = st.lists(st.floats(-20, 20, width=32), min_size=5, max_size=5)


def naive(student, teacher):
    sides = []
    for logits in (student, teacher):
        powers = [math.exp(logit) for logit in logits]
        sides.append(sorted((power / sum(powers) for power in powers), reverse=True))
    longest = max(map(len, sides))
    mine, theirs = ([*side, *[0.0] * (longest - len(side))] for side in sides)
    return sum(abs(a - b) for a, b in zip(mine, theirs, strict=True))


class TestFunction(PositionContract):
    function = staticmethod(sorted_logits)
    shape, positions = (3, 4, 7), (3, 4)


class TestTokens(LossContract):
    def make(self):
        return SortedLogits()


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self):
        return SortedLogits(chunk_size=2)


def test_each_row_is_what_a_loop_gives_whichever_side_is_longer():
    for mine, theirs in ((5, 5), (5, 8), (8, 5), (1, 4)):
        student, teacher = randn(6, mine) * 3, randn(6, theirs, seed=1) * 3
        rows = zip(student.double().tolist(), teacher.double().tolist(), strict=True)
        torch.testing.assert_close(sorted_logits(student, teacher), torch.tensor([naive(*row) for row in rows]))


def test_by_hand():
    """(1/4, 3/4) against (1/2, 1/6, 1/3): 1/4 + 1/12 + 1/6."""
    student, teacher = torch.tensor([1.0, 3.0]).log(), torch.tensor([3.0, 1.0, 2.0]).log()
    torch.testing.assert_close(sorted_logits(student, teacher), torch.tensor(0.5))


@given(LOGIT_ROWS, LOGIT_ROWS, st.permutations(range(5)), st.permutations(range(5)), st.floats(-10, 10))
@settings(deadline=None, max_examples=60)
def test_each_side_may_call_its_classes_as_it_likes(student, teacher, order, other, constant):
    mine, theirs = torch.tensor(student), torch.tensor(teacher)
    plain = sorted_logits(mine, theirs)
    assert 0 <= plain <= 2 + 1e-5
    torch.testing.assert_close(sorted_logits(mine[order] + constant, theirs[other]), plain, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(sorted_logits(theirs, mine), plain)
    assert sorted_logits(mine[order], mine) < 1e-6


def test_another_number_of_classes_goes_through_the_chunks():
    student, teacher = randn(2, 5, 4), randn(2, 5, 9, seed=1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.TOKENS)
    found = SortedLogits(chunk_size=3)({LOGITS: student}, {LOGITS: teacher}, batch)
    torch.testing.assert_close(found, sorted_logits(student, teacher)[mask.bool()].mean())


def test_ties_have_a_finite_gradient():
    student = torch.zeros(2, 5).requires_grad_()
    sorted_logits(student, randn(2, 5)).sum().backward()
    assert student.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    several = "SortedLogits is not for multi_label. Its labels are no distribution to sort. Use SoftTargets."
    refuses(SortedLogits(), several, Task.MULTI_LABEL)
    value = "SortedLogits is not for regression. A value has nothing to sort. Use SoftTargets or LogitMSE."
    refuses(SortedLogits(), value, Task.REGRESSION)
    span = "SortedLogits is not for span. Sorted positions no longer say where the answer is. Use SoftTargets."
    refuses(SortedLogits(), span, Task.SPAN)
    embedding = "SortedLogits needs logits: an embedding model has none. Use HiddenMSE or RKDDistance."
    refuses(SortedLogits(), embedding, Task.EMBEDDING)


def test_its_name():
    assert SortedLogits().name == "sorted_logits"
