import math

import pytest
import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses import BoundaryTargets, boundary_divergence
from hf_distill.losses.base import Loss
from hf_distill.signals import BOUNDARY, LOGITS
from hf_distill.tasks import Task

from .contract import LossContract, PositionContract, randn, refuses


class TestFunction(PositionContract):
    function = staticmethod(boundary_divergence)
    shape = (4, 5)
    positions = (4,)


class TestLoss(LossContract):
    task = Task.SINGLE_LABEL
    whole_examples = True

    def make(self) -> BoundaryTargets:
        return BoundaryTargets()

    def draw(self, loss: Loss, mask: Tensor) -> list[Tensor]:
        """The student's logits, and what a `BoundaryTeacher` says."""
        return [randn(len(mask), 5, seed=0), randn(len(mask), 2, 5, seed=1)]


class TestSeveralLabels(TestLoss):
    task = Task.MULTI_LABEL


def by_hand(student: list[float], teacher: list[float], temperature: float) -> float:
    def softmax(row: list[float]) -> list[float]:
        powers = [math.exp(each / temperature) for each in row]
        return [each / sum(powers) for each in powers]

    pairs = zip(softmax(teacher), softmax(student), strict=True)
    return temperature**2 * sum(p * math.log(p / q) for p, q in pairs)


def test_examples_without_a_sample_count_as_0_in_the_mean_and_have_no_gradient():
    said = torch.tensor([[[1.0, 0.0, 2.0], [0.5, 1.5, 0.0]], [[0.0] * 3] * 2, [[0.0] * 3] * 2], requires_grad=True)
    batch = Batch({"labels": torch.tensor([0, 1, 2])}, Task.SINGLE_LABEL)
    loss = BoundaryTargets(temperature=2.0)({LOGITS: torch.zeros(3, 3)}, {BOUNDARY: said}, batch)
    assert loss.item() == pytest.approx(by_hand([1.0, 0.0, 2.0], [0.5, 1.5, 0.0], 2.0) / 3, rel=1e-5)
    loss.backward()
    assert said.grad is not None
    assert said.grad[0, 0].abs().min() > 0
    assert said.grad[1:].abs().max() < 1e-7
    assert said.grad[:, 1].abs().max() == 0  # the teacher's side


def test_several_labels_are_a_distribution_each():
    student, teacher = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 0.5]])
    expected = sum(by_hand([s, 0.0], [t, 0.0], 3.0) for s, t in ((1.0, 0.5), (-2.0, 0.5)))
    assert boundary_divergence(student, teacher, binary=True).item() == pytest.approx(expected, rel=1e-5)


def test_what_cannot_work_is_refused():
    refuses(
        BoundaryTargets(),
        "BoundaryTargets is for classifiers of whole examples, and the task is tokens. Use SoftTargets.",
        task=Task.TOKENS,
    )
    refuses(
        BoundaryTargets(temperature=0.0),
        "BoundaryTargets: temperature is 0.0; it must be above 0.",
        task=Task.SINGLE_LABEL,
    )
