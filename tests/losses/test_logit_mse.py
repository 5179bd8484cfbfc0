import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import LogitMSE, logit_mse
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import LossContract, PositionContract, randn, refuses


class TestFunction(PositionContract):
    function = staticmethod(logit_mse)
    shape, positions = (3, 4, 7), (3, 4)


class TestTokens(LossContract):
    def make(self):
        return LogitMSE()


class TestCausal(LossContract):
    task, labelled = Task.CAUSAL_LM, False

    def make(self):
        return LogitMSE(chunk_size=2)


class TestSeveralLabels(LossContract):
    task = Task.MULTI_LABEL

    def make(self):
        return LogitMSE()


def test_by_hand():
    student, teacher = (
        torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]]),
    )
    torch.testing.assert_close(logit_mse(student, teacher), torch.tensor([5 / 3, 3.0]))


@given(seed=st.integers(0, 1000), constant=st.floats(-10, 10), scale=st.floats(0.1, 10))
@settings(deadline=None, max_examples=30)
def test_both_sides_count_alike_and_it_is_a_square(seed, constant, scale):
    student, teacher = randn(4, 5, seed=seed), randn(4, 5, seed=seed + 5000)
    plain = logit_mse(student, teacher)
    torch.testing.assert_close(logit_mse(teacher, student), plain)
    moved = logit_mse(student * scale + constant, teacher * scale + constant)
    torch.testing.assert_close(moved, plain * scale**2, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "shape"), [(Task.SINGLE_LABEL, (3, 5)), (Task.MULTI_LABEL, (3, 5)), (Task.REGRESSION, (3, 2))]
)
def test_the_logits_are_compared_as_they_are(task, shape):
    student, teacher = randn(*shape), randn(*shape, seed=1)
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    expected = sum(sum((a - b) ** 2 for a, b in zip(*row, strict=True)) / shape[1] for row in rows) / 3
    found = LogitMSE()({LOGITS: student}, {LOGITS: teacher}, Batch({"x": torch.ones(3, 4)}, task))
    torch.testing.assert_close(found, torch.tensor(expected))


def test_what_does_not_fit_is_refused():
    span = "LogitMSE is not for span. Its classes are positions, of another number in every example. Use SoftTargets."
    refuses(LogitMSE(), span, Task.SPAN)
    embedding = "LogitMSE needs logits: an embedding model has none. Use HiddenMSE or RKDDistance."
    refuses(LogitMSE(), embedding, Task.EMBEDDING)
    refuses(LogitMSE(chunk_size=0), "LogitMSE: chunk_size is 0; it must be at least 1.")


def test_its_name():
    assert LogitMSE().name == "logit_mse"
