from dataclasses import replace

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE
from hf_distill.signals import hidden
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, randn, refuses

WIDE = replace(TEACHER, width=9)


@pytest.mark.parametrize(
    ("projection", "same", "differ"), [("auto", 0, 2), ("linear", 2, 2), ("shared", 1, 1), ("none", 0, None)]
)
def test_how_many_projections_there_are(projection, same, differ):
    loss = HiddenMSE({0: 0, 1: 3}, projection=projection)
    for teacher, expected in ((TEACHER, same), (WIDE, differ)):
        if expected is not None:
            loss.setup(STUDENT, teacher, Task.TOKENS)
            assert [tuple(each.weight.shape) for each in loss.projections] == [(teacher.width, 6)] * expected


def test_bias_is_optional():
    loss = HiddenMSE("last", projection="linear", bias=False)
    loss.setup(STUDENT, WIDE, Task.TOKENS)
    assert [name for name, _ in loss.named_parameters()] == ["projections.0.weight"]


@pytest.mark.parametrize("projection", ["linear", "shared"])
def test_each_pair_goes_through_its_own(projection):
    loss = HiddenMSE({0: 0, 1: 3}, projection=projection)
    loss.setup(STUDENT, WIDE, Task.TOKENS)
    batch = Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS)
    student = {hidden(0): randn(2, 3, 6), hidden(1): randn(2, 3, 6, seed=1)}
    teacher = {hidden(0): randn(2, 3, 9, seed=2), hidden(3): randn(2, 3, 9, seed=3)}
    first, last = loss.projections[0], loss.projections[-1]
    assert (first is last) == (projection == "shared")
    expected = (first(student[hidden(0)]) - teacher[hidden(0)]).square().mean()
    expected = expected + (last(student[hidden(1)]) - teacher[hidden(3)]).square().mean()
    found = loss(student, teacher, batch)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(weight.grad.abs().max() > 0 for weight in loss.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_student_is_projected_in_the_projections_own(dtype):
    loss = HiddenMSE("last", projection="linear")
    loss.setup(STUDENT, TEACHER, Task.TOKENS)
    assert loss.project(0, randn(2, 3, 6).to(dtype)).dtype is torch.float32


def test_setup_again_starts_again():
    loss = HiddenMSE("last", projection="linear")
    for teacher in (TEACHER, WIDE):
        loss.setup(STUDENT, teacher, Task.TOKENS)
    assert [tuple(each.weight.shape) for each in loss.projections] == [(9, 6)]


def test_what_does_not_fit_is_refused():
    known = '"auto", "linear", "shared" or "none"'
    refuses(HiddenMSE(projection="mlp"), f"HiddenMSE: projection='mlp' is not {known}.")
    message = (
        'HiddenMSE: the student is 6 wide, the teacher 9, and projection="none". '
        'Pass projection="linear", or compare relations instead (RKDDistance, AttentionKL).'
    )
    refuses(HiddenMSE(projection="none"), message, teacher=WIDE)
