import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import AttentionTransfer, attention_transfer
from hf_distill.signals import hidden
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, randn


class TestFunction(PositionContract):
    function = staticmethod(attention_transfer)
    shape, positions = (3, 4, 7), (3,)


class TestLoss(LossContract):
    def make(self) -> AttentionTransfer:
        return AttentionTransfer({0: 1, -1: -1, "embeddings": "embeddings"})


class TestDefault(LossContract):
    def make(self) -> AttentionTransfer:
        return AttentionTransfer()


def naive(student: list[list[float]], teacher: list[list[float]]) -> float:
    """The tokens of one example, those that count."""
    maps = []
    for tokens in (student, teacher):
        energy = [sum(entry**2 for entry in token) for token in tokens]
        length = math.hypot(*energy)
        maps.append([each / length for each in energy])
    return sum((a - b) ** 2 for a, b in zip(*maps, strict=True)) / len(student)


def test_each_example_is_what_a_loop_over_its_tokens_gives():
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1, 0]])
    student, teacher = randn(3, 5, 4), randn(3, 5, 6, seed=1)
    kept = [[side[row][mask[row].bool()].tolist() for row in range(3)] for side in (student, teacher)]
    expected = torch.tensor([naive(mine, theirs) for mine, theirs in zip(*kept, strict=True)])
    found = attention_transfer(student, teacher, mask)
    torch.testing.assert_close(found, expected)
    assert found[2] == 0  # one token: the whole energy is at it on both sides
    everywhere = torch.tensor([naive(*each) for each in zip(student.tolist(), teacher.tolist(), strict=True)])
    torch.testing.assert_close(attention_transfer(student, teacher), everywhere)


def test_by_hand():
    """Energies 3 and 4 against 1 and 0: (0.6 - 1)^2 and 0.8^2, mean of two."""
    student = torch.tensor([[[3.0**0.5, 0.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[5.0], [0.0]]])
    torch.testing.assert_close(attention_transfer(student, teacher), torch.tensor([(0.16 + 0.64) / 2]))


def test_nothing_of_what_is_masked_is_seen():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()
    student = torch.where(mask[..., None], randn(2, 3, 4), float("nan")).requires_grad_()
    found = attention_transfer(student, torch.where(mask[..., None], randn(2, 3, 5, seed=1), float("inf")), mask)
    found.sum().backward()
    assert found[0] > 0
    assert found[1] == 0
    assert student.grad is not None
    assert student.grad[0, :2].abs().min() > 0
    assert student.grad[~mask].abs().max() == 0


def test_zeros_have_a_finite_gradient():
    for student in (torch.zeros(2, 3, 4), randn(1, 1, 4).expand(2, 3, 4).clone()):
        attention_transfer(student.requires_grad_(), randn(2, 3, 4, seed=1)).sum().backward()
        assert student.grad is not None
        assert student.grad.isfinite().all()


@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_scale_rotation_and_the_order_of_tokens_are_free(seed, scale):
    student, teacher = randn(2, 5, 4, seed=seed), randn(2, 5, 3, seed=seed + 5000)
    expected = attention_transfer(student, teacher)
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(attention_transfer(student @ rotation * scale, teacher), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention_transfer(student[:, order], teacher[:, order]), expected)
    torch.testing.assert_close(attention_transfer(teacher, student), expected)
    assert expected.max() <= 2 / 5


def test_examples_without_tokens_count_as_zero():
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    loss = AttentionTransfer("last")
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(2, 3, 6), randn(2, 3, 9, seed=1)
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SINGLE_LABEL)
    found = loss({hidden(1): student}, {hidden(3): teacher}, batch)
    torch.testing.assert_close(found, attention_transfer(student[:1, :2], teacher[:1, :2]).sum() / 2)


def test_patches_of_images_are_tokens_and_other_numbers_of_them_are_refused():
    loss = AttentionTransfer("last")
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(2, 5, 6), randn(2, 5, 6, seed=1)
    batch = Batch({"pixel_values": torch.zeros(2, 3, 4, 4)}, Task.SINGLE_LABEL)
    found = loss({hidden(1): student}, {hidden(3): teacher}, batch)
    torch.testing.assert_close(found, attention_transfer(student, teacher).mean())
    message = (
        "attention_transfer: the student has 5 positions and the teacher 7, and they are compared one by one. "
        "Give both the same tokens or patches, or take a loss on pooled outputs (RKDDistance)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loss({hidden(1): student}, {hidden(3): randn(2, 7, 6)}, batch)


def test_its_name():
    assert AttentionTransfer().name == "attention_transfer"
