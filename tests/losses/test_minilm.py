from dataclasses import replace

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import MiniLM, attention_kl, relation_kl
from hf_distill.signals import attention, value
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, randn, refuses


class TestLoss(LossContract):
    def make(self) -> MiniLM:
        return MiniLM()


class TestSeveralLayers(LossContract):
    def make(self) -> MiniLM:
        return MiniLM({0: 1, 1: 3})


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self) -> MiniLM:
        return MiniLM()


def seen(rows, tokens, width, seed):
    return randn(rows, 2, tokens, tokens, seed=seed).softmax(-1), randn(rows, 2, tokens, width, seed=seed + 1)


def test_it_is_attention_and_value_relations_of_the_last_layers_over_tokens():
    loss = MiniLM()
    loss.setup(STUDENT, replace(TEACHER, width=10), Task.SINGLE_LABEL)
    assert loss.pairs() == [(attention(1), attention(3)), (value(1), value(3))]
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SINGLE_LABEL)
    (maps, values), (their_maps, their_values) = seen(2, 3, 3, 0), seen(2, 3, 5, 10)
    student, teacher = {attention(1): maps, value(1): values}, {attention(3): their_maps, value(3): their_values}
    total = attention_kl(maps, their_maps)[mask.bool()].sum() + relation_kl(values[:1], their_values[:1], 2).sum()
    total = total + relation_kl(values[1:, :, :2], their_values[1:, :, :2], 2).sum()
    torch.testing.assert_close(loss(student, teacher, batch), total / 5)


def test_patches_of_images_are_tokens():
    loss = MiniLM()
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    (maps, values), (their_maps, their_values) = seen(2, 3, 3, 0), seen(2, 3, 5, 10)
    student, teacher = {attention(1): maps, value(1): values}, {attention(3): their_maps, value(3): their_values}
    found = loss(student, teacher, Batch({"pixel_values": torch.zeros(2, 3, 4, 4)}, Task.SINGLE_LABEL))
    torch.testing.assert_close(found, (attention_kl(maps, their_maps) + relation_kl(values, their_values, 2)).mean())


def test_other_numbers_of_heads_are_refused():
    message = "MiniLM: the student has 2 {kind} heads, the teacher 4. Take MiniLMv2, which splits them anew."
    refuses(MiniLM(), message.format(kind="attention"), teacher=replace(TEACHER, heads=4))
    shared = {"student": replace(STUDENT, key_heads=2), "teacher": replace(TEACHER, key_heads=4)}
    refuses(MiniLM(), message.format(kind="value"), **shared)


def test_without_setup_it_says_so():
    with pytest.raises(ValueError, match=r"^MiniLM compares nothing; call its setup first\.$"):
        MiniLM()({}, {}, Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS))


def test_its_name():
    assert MiniLM().name == "mini_lm"
