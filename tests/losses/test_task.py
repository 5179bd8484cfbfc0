import math

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import TaskLoss
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import LossContract, randn, refuses


def term(logits, task, loss=None, **inputs):
    return (loss or TaskLoss())({LOGITS: logits}, {}, Batch(inputs, task))


class TestTokens(LossContract):
    def make(self) -> TaskLoss:
        return TaskLoss(label_smoothing=0.1)


class TestMaskedLM(LossContract):
    task = Task.MASKED_LM

    def make(self) -> TaskLoss:
        return TaskLoss()


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self) -> TaskLoss:
        return TaskLoss()


def test_by_hand():
    """A coin says 3/4 for class 0: -log 3/4 where that is the label, -log 1/4 where it is not."""
    logits = torch.tensor([[math.log(3.0), 0.0]] * 2)
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    torch.testing.assert_close(term(logits, Task.SINGLE_LABEL, labels=torch.tensor([0, 1])), torch.tensor(expected))
    values = term(torch.tensor([[2.0], [5.0]]), Task.REGRESSION, labels=torch.tensor([1.0, 3.0]))
    assert values == (1 + 4) / 2


def test_multi_label_counts_known_labels_only():
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0], [7.0, 7.0]])
    labels = torch.tensor([[1, 0], [-1, 0], [-100, -1]])
    first = (math.log(2) - math.log(0.25)) / 2
    expected = (first + math.log(2)) / 2  # the third example has no label at all
    torch.testing.assert_close(term(logits, Task.MULTI_LABEL, labels=labels), torch.tensor(expected))


def test_the_weight_of_positives():
    logits, labels = randn(3, 2), torch.tensor([[1, 0], [0, 0], [1, 1]])
    found = term(logits, Task.MULTI_LABEL, TaskLoss(pos_weight=[2.0, 5.0]), labels=labels)
    expected = 0.0
    for row, answers in zip(logits.tolist(), labels.tolist(), strict=True):
        for logit, answer, weight in zip(row, answers, [2.0, 5.0], strict=True):
            p = 1 / (1 + math.exp(-logit))
            expected -= (weight * math.log(p) if answer else math.log(1 - p)) / 6
    torch.testing.assert_close(found, torch.tensor(expected))


def test_label_smoothing_spreads_the_target():
    logits = randn(3, 4)
    logs = logits.log_softmax(-1)
    labels = torch.tensor([1, 0, 3])
    expected = -(0.8 * logs[torch.arange(3), labels] + 0.2 * logs.mean(-1)).mean()
    torch.testing.assert_close(term(logits, Task.SINGLE_LABEL, TaskLoss(0.2), labels=labels), expected)


def test_an_answer_in_padding_or_cut_off_is_none():
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    starts, ends = torch.tensor([1, 2]), torch.tensor([3, 9])  # the first's end is padding, the second's is cut off
    logits = randn(2, 2, 4).requires_grad_()
    found = term(logits, Task.SPAN, input_ids=mask, attention_mask=mask, start_positions=starts, end_positions=ends)
    found.backward()
    expected = -(logits[0, 0, :2].log_softmax(-1)[1] + logits[1, 0].log_softmax(-1)[2]) / 2
    torch.testing.assert_close(found, expected)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (Task.SINGLE_LABEL, torch.full((2,), -100)),
        (Task.SINGLE_LABEL, torch.full((2,), -1)),
        (Task.MULTI_LABEL, torch.full((2, 3), -1.0)),
    ],
)
def test_a_step_without_labels_gives_zero(task, labels):
    logits = torch.full((2, 3), 1e4, dtype=torch.float16).requires_grad_()
    found = term(logits, task, labels=labels)
    found.backward()
    assert found == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huge_logits_stay_finite(dtype):
    for task, labels in ((Task.SINGLE_LABEL, torch.tensor([0, 1])), (Task.MULTI_LABEL, torch.eye(2))):
        logits = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype, requires_grad=True)
        found = term(logits, task, labels=labels)
        found.backward()
        assert found.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_what_does_not_fit_is_refused():
    message = "TaskLoss needs a head and labels: an embedding model has none. Leave TaskLoss out."
    refuses(TaskLoss(), message, Task.EMBEDDING)
    refuses(TaskLoss(1.5), "TaskLoss: label_smoothing is 1.5; it must be between 0 and 1.")
    for task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN):
        message = f"TaskLoss(label_smoothing=...) is for class ids, and the task is {task}. Leave it out."
        refuses(TaskLoss(label_smoothing=0.1), message, task)
    weighted = TaskLoss(pos_weight=[1.0, 2.0])
    refuses(weighted, "TaskLoss(pos_weight=...) is for multi-label, and the task is tokens. Leave it out.")
    refuses(weighted, "TaskLoss: 2 values in pos_weight for 5 labels.", Task.MULTI_LABEL)
    with pytest.raises(ValueError, match="needs a labels column"):
        term(randn(2, 3), Task.SINGLE_LABEL, input_ids=torch.ones(2, 3))


def test_its_name_and_that_it_needs_labels():
    assert TaskLoss().name == "task_loss"
    assert TaskLoss().needs_labels
