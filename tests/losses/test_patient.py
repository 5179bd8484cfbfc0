import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import Patient, patient
from hf_distill.signals import EMBEDDINGS, hidden
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, randn, refuses


class TestFunction(PositionContract):
    function = staticmethod(patient)
    shape, positions = (3, 4, 7), (3, 4)


class TestLoss(LossContract):
    def make(self) -> Patient:
        return Patient({0: 1, -1: -1, "embeddings": "embeddings"})


class TestDefault(LossContract):
    def make(self) -> Patient:
        return Patient()


class TestProjected(LossContract):
    def make(self) -> Patient:
        return Patient("last", projection="linear")


def naive(student: list[float], teacher: list[float]) -> float:
    mine, theirs = math.hypot(*student), math.hypot(*teacher)
    return sum((a / mine - b / theirs) ** 2 for a, b in zip(student, teacher, strict=True))


def test_each_vector_is_what_a_loop_gives():
    student, teacher = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    expected = [
        [naive(a, b) for a, b in zip(mine, theirs, strict=True)]
        for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    torch.testing.assert_close(patient(student, teacher), torch.tensor(expected))


def test_by_hand():
    east = torch.tensor([2.0, 0.0])
    for other, expected in (([0.0, 5.0], 2.0), ([-3.0, 0.0], 4.0), ([7.0, 0.0], 0.0), ([0.0, 0.0], 1.0)):
        torch.testing.assert_close(patient(east, torch.tensor(other)), torch.tensor(expected))


def test_zeros_have_a_finite_gradient():
    student = torch.zeros(2, 4, requires_grad=True)
    patient(student, torch.stack([torch.zeros(4), randn(4)])).sum().backward()
    assert student.grad is not None
    assert student.grad.abs().max() <= 2


@given(seed=st.integers(0, 1000), mine=st.floats(1e-3, 1e3), theirs=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_lengths_are_free_and_both_sides_count_alike(seed, mine, theirs):
    student, teacher = randn(3, 4, seed=seed), randn(3, 4, seed=seed + 5000)
    expected = patient(student, teacher)
    torch.testing.assert_close(patient(student * mine, teacher * theirs), expected)
    torch.testing.assert_close(patient(teacher, student), expected)
    torch.testing.assert_close(expected, 2 - 2 * torch.cosine_similarity(student, teacher))


def test_uniform_leaves_out_the_last_layer():
    """PKD-Skip: six layers of twelve learn from 2, 4, 6, 8, 10, counted from 1."""
    for projection, projections in (("auto", 0), ("linear", 5), ("shared", 1)):
        loss = Patient(projection=projection)
        loss.setup(replace(STUDENT, layers=6), replace(TEACHER, layers=12), Task.SINGLE_LABEL)
        assert loss.matched == {0: 1, 1: 3, 2: 5, 3: 7, 4: 9}
        assert len(loss.projections) == projections
    loss = Patient()
    loss.setup(replace(STUDENT, layers=3), replace(TEACHER, width=9), Task.SINGLE_LABEL)
    assert [tuple(each.weight.shape) for each in loss.projections] == [(9, 6)] * 2
    last = Patient("last")
    last.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    assert last.matched == {1: 3}


def test_it_is_the_first_attended_token_averaged_over_examples():
    mask = torch.tensor([[0, 1, 1], [1, 1, 0], [0, 0, 0]])  # the last has no token: it adds 0 and counts
    loss = Patient({"embeddings": 0})
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(3, 3, 6).requires_grad_(), randn(3, 3, 6, seed=1)
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SINGLE_LABEL)
    found = loss({hidden(EMBEDDINGS): student}, {hidden(0): teacher}, batch)
    expected = naive(student[0, 1].tolist(), teacher[0, 1].tolist())
    expected += naive(student[1, 0].tolist(), teacher[1, 0].tolist())
    torch.testing.assert_close(found, torch.tensor(expected / 3))
    found.backward()
    assert student.grad is not None
    assert student.grad.abs().sum(-1).gt(0).tolist() == [[False, True, False], [True, False, False], [False] * 3]


def test_a_student_of_one_layer_is_refused():
    message = (
        'Patient: layers="uniform" leaves out the last layer, and the student SmallModel has no other. '
        'Pass layers="last" to match it.'
    )
    refuses(Patient(), message, student=replace(STUDENT, layers=1))


@pytest.mark.parametrize("rows", [1, 2])
def test_images_have_a_first_patch(rows):
    loss = Patient("last")
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(rows, 5, 6), randn(rows, 5, 6, seed=1)
    batch = Batch({"pixel_values": torch.zeros(rows, 3, 4, 4)}, Task.SINGLE_LABEL)
    found = loss({hidden(1): student}, {hidden(3): teacher}, batch)
    torch.testing.assert_close(found, patient(student[:, 0], teacher[:, 0]).mean())


def test_its_name():
    assert Patient().name == "patient"
