import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import DecoupledKL, NormalizedKD, decoupled_kl, normalized_kd
from hf_distill.losses.target_class import split_target, target_odds
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import randn


def test_the_target_and_the_others_in_their_order():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [1.0, 1.0, 1.0]])
    target, others = split_target(logits, torch.tensor([0, 1, 2, -100]))
    assert target.tolist() == [1.0, 5.0, 9.0, 0.0]
    assert others.tolist() == [[2.0, 3.0], [4.0, 6.0], [7.0, 8.0], [0.0, 0.0]]


def test_any_number_of_axes_in_front():
    logits, labels = randn(2, 3, 4), torch.tensor([[0, 3, 1], [2, -1, 3]])
    target, others = split_target(logits, labels)
    for i in range(2):
        for j in range(3):
            row, label = logits[i, j].tolist(), int(labels[i, j])
            expected = [0.0] * 4 if label < 0 else [row.pop(label), *row]
            torch.testing.assert_close(torch.tensor([target[i, j], *others[i, j]]), torch.tensor(expected))


def test_no_label_no_gradient_whatever_stands_there():
    logits = torch.tensor([[float("nan"), float("inf"), 1.0], [1.0, 2.0, 3.0]]).requires_grad_()
    target, others = split_target(logits, torch.tensor([-100, 1]))
    (target.sum() + others.square().sum()).backward()
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [2.0, 1.0, 6.0]]


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_odds_are_the_logit_of_the_softmax(scale):
    logits, labels = randn(6, 5) * scale, torch.tensor([0, 1, 2, 3, 4, 0])
    expected = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(target_odds(*split_target(logits, labels)).sigmoid(), expected)


BOTH = pytest.mark.parametrize(("function", "kind"), [(decoupled_kl, DecoupledKL), (normalized_kd, NormalizedKD)])


@BOTH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_low_temperature_does_not_overflow_half_precision(function, kind, dtype):
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype).requires_grad_()
    found = function(student, torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype), torch.tensor([1]), temperature=0.1)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad.isfinite().all()


@BOTH
def test_no_label_is_no_target(function, kind):
    student, teacher = randn(3, 5).requires_grad_(), randn(3, 5, seed=1)
    found = function(student, teacher, torch.tensor([-100, 2, -1]))
    found.sum().backward()
    assert (found[[0, 2]] == 0).all()
    assert found[1] > 0
    assert (student.grad[[0, 2]] == 0).all()


@BOTH
def test_they_average_over_positions_with_a_label(function, kind):
    labels = torch.tensor([2, -100, 4])
    student, teacher = randn(3, 5), randn(3, 5, seed=1)
    batch = Batch({"x": torch.ones(3, 2), "labels": labels}, Task.SINGLE_LABEL)
    found = kind()({LOGITS: student}, {LOGITS: teacher}, batch)
    torch.testing.assert_close(found, function(student, teacher, labels).sum() / 2)
