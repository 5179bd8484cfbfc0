import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import Sobolev, gradient_match
from hf_distill.signals import ModelShape, input_gradient
from hf_distill.tasks import Task

from .contract import LossContract, PositionContract, randn, refuses


class TestRaw(PositionContract):
    function = staticmethod(gradient_match)
    shape = (4, 3, 5)
    positions = (4,)


class TestNormalized(PositionContract):
    @staticmethod
    def function(student, teacher):
        return gradient_match(student, teacher, normalize=True)

    shape = (4, 3, 5)
    positions = (4,)


class TestLoss(LossContract):
    def make(self) -> Sobolev:
        return Sobolev(order=2, projections=2)


class TestAlongTheLoss(LossContract):
    def make(self) -> Sobolev:
        return Sobolev(along="loss")


def test_by_hand():
    student, teacher = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    assert gradient_match(student, teacher).tolist() == [9.0 + 4.0]
    # of lengths 5 and 2: (0.6, 0.8) against (0, 1)
    assert gradient_match(student, teacher, normalize=True).tolist() == pytest.approx([0.36 + 0.04])


@given(seed=st.integers(0, 1000), scale=st.floats(1e-6, 1e6))
@settings(deadline=None, max_examples=30)
def test_lengths_are_free_where_they_are_taken_out(seed, scale):
    student, teacher = randn(2, 3, 4, seed=seed), randn(2, 3, 4, seed=seed + 5000)
    plain = gradient_match(student, teacher, normalize=True)
    torch.testing.assert_close(gradient_match(student * scale, teacher, normalize=True), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient_match(teacher, student, normalize=True), plain)


def test_opposite_directions_are_four_apart_and_nothing_is_one_from_everything():
    teacher = randn(2, 3, 4)
    torch.testing.assert_close(gradient_match(-teacher, teacher, normalize=True), torch.full((2,), 4.0))
    student = torch.zeros(2, 3, 4, requires_grad=True)
    found = gradient_match(student, teacher, normalize=True)
    torch.testing.assert_close(found, torch.ones(2))
    found.sum().backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "signals"),
    [
        (Sobolev(), [input_gradient(0)]),
        (Sobolev(projections=2), [input_gradient(0), input_gradient(1)]),
        (Sobolev(order=2), [input_gradient(0, 1), input_gradient(0, 2)]),
        (Sobolev(along="loss"), [input_gradient("loss")]),
    ],
)
def test_what_it_looks_at(loss, signals):
    assert loss.pairs() == [(signal, signal) for signal in signals]
    assert loss.needs_labels == (loss.along == "loss")


def test_projections_are_averaged_and_orders_added():
    batch = Batch({"input_ids": torch.ones(2, 3)}, Task.SINGLE_LABEL)
    loss = Sobolev(order=2, projections=2)
    sides = [
        {signal: randn(2, 3, 4, seed=10 * side + i) for i, (signal, _) in enumerate(loss.pairs())} for side in (0, 1)
    ]
    expected = sum(
        math.fsum(((sides[0][signal] - sides[1][signal]) ** 2).flatten().tolist()) / 2 / 2 for signal in sides[0]
    )
    torch.testing.assert_close(loss(*sides, batch), torch.tensor(expected))


def test_what_cannot_work_is_refused():
    refuses(Sobolev(order=3), "Sobolev: order is 3; it must be 1 or 2.")
    refuses(Sobolev(projections=0), "Sobolev: projections is 0; it must be at least 1.")
    refuses(Sobolev(along="line"), 'Sobolev: along=\'line\' is not "random" or "loss".')
    refuses(
        Sobolev(),
        "Sobolev needs logits: an embedding model has none. Use HiddenMSE or RKDDistance.",
        Task.EMBEDDING,
    )
    refuses(
        Sobolev(),
        "Sobolev needs the derivatives of a teacher model, and this teacher is not one. Leave it out.",
        teacher=None,
    )
    refuses(
        Sobolev(),
        "Sobolev: the student is 3 wide, the teacher 6, and derivatives by embeddings of other widths cannot be "
        "compared. Make the student from the teacher (students.keep_layers, students.from_teacher), or use HiddenMSE.",
        student=ModelShape("SmallModel", layers=2, width=3, heads=2, classes=5),
    )
