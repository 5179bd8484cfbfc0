import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import AttentionKL, AttentionMSE, MiniLM, MiniLMv2, attention_kl, attention_mse
from hf_distill.signals import attention, attention_scores
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, randn, refuses


class TestAttentionKL(PositionContract):
    function = staticmethod(attention_kl)
    shape, positions = (3, 2, 4, 4), (3, 4)

    def valid(self, values):
        return values.softmax(-1)


class TestAttentionMSE(PositionContract):
    function = staticmethod(attention_mse)
    shape, positions = (3, 2, 4, 4), (3, 4, 4)


class TestKLLoss(LossContract):
    def make(self) -> AttentionKL:
        return AttentionKL({0: 1, 1: 3})


class TestKLOfMeans(LossContract):
    def make(self) -> AttentionKL:
        return AttentionKL("last", heads="mean")


class TestKLOfGroups(LossContract):
    def make(self) -> AttentionKL:
        return AttentionKL(heads="grouped")


class TestMSELoss(LossContract):
    def make(self) -> AttentionMSE:
        return AttentionMSE("uniform")


class TestCausalMSELoss(LossContract):
    task = Task.CAUSAL_LM

    def make(self) -> AttentionMSE:
        return AttentionMSE("last", heads="mean")


def test_kl_by_a_loop():
    student, teacher = randn(2, 3, 4, 4).softmax(-1), randn(2, 3, 4, 4, seed=1).softmax(-1)
    expected = torch.zeros(2, 4)
    for b in range(2):
        for q in range(4):
            for head in range(3):
                for k in range(4):
                    p = float(teacher[b, head, q, k])
                    expected[b, q] += p * math.log(p / float(student[b, head, q, k])) / 3
    torch.testing.assert_close(attention_kl(student, teacher), expected)


def test_mse_by_hand_and_symmetric():
    student, teacher = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    torch.testing.assert_close(attention_mse(student, teacher), torch.tensor([[[5.0, 10.0]]]))
    torch.testing.assert_close(attention_mse(teacher, student), torch.tensor([[[5.0, 10.0]]]))


def test_keys_that_nobody_looks_at_add_nothing_and_have_a_finite_gradient():
    teacher = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(1, 1, 1, 4)
    student = torch.tensor([0.25, 0.25, 0.5, 0.0]).expand(1, 1, 1, 4).clone().requires_grad_()
    found = attention_kl(student, teacher)
    found.sum().backward()
    torch.testing.assert_close(found, torch.tensor([[math.log(2.0)]]))
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_key_that_only_the_teacher_looks_at_costs_a_finite_amount():
    student = torch.tensor([1.0, 0.0]).expand(1, 1, 1, 2).clone().requires_grad_()
    found = attention_kl(student, torch.tensor([0.5, 0.5]).expand(1, 1, 1, 2))
    found.sum().backward()
    assert 40 < found.item() < 50
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_masked_scores_may_be_infinite():
    student, teacher = randn(1, 2, 3, 3), randn(1, 2, 3, 3, seed=1)
    mask = torch.tensor([1, 1, 0])[None, None, None]
    expected = attention_mse(student, teacher)
    found_in = student.masked_fill(mask == 0, -torch.inf).requires_grad_()
    found = attention_mse(found_in, teacher.masked_fill(mask == 0, -torch.inf), mask)
    found.sum().backward()
    torch.testing.assert_close(found, expected * mask[0])
    assert found_in.grad is not None
    assert found_in.grad.isfinite().all()


def test_scores_are_averaged_over_attended_pairs():
    """Two lengths, 3 and 2: 9 and 4 pairs for an encoder, 6 and 3 for a causal model."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    student, teacher = randn(2, 2, 3, 3), randn(2, 2, 3, 3, seed=1)
    for task, total in ((Task.SINGLE_LABEL, 13), (Task.CAUSAL_LM, 9)):
        loss, expected = AttentionMSE({1: 2}), 0.0
        loss.setup(STUDENT, TEACHER, task)
        for b, length in enumerate((3, 2)):
            for q in range(length):
                for k in range(q + 1 if task is Task.CAUSAL_LM else length):
                    expected += float((student[b, :, q, k] - teacher[b, :, q, k]).square().mean()) / total
        batch = Batch({"input_ids": mask, "attention_mask": mask}, task)
        found = loss({attention_scores(1): student}, {attention_scores(2): teacher}, batch)
        torch.testing.assert_close(found, torch.tensor(expected))


def test_heads_of_other_counts_are_compared_by_their_means():
    loss = AttentionKL({0: 0}, heads="mean")
    loss.setup(STUDENT, replace(TEACHER, heads=4), Task.TOKENS)
    student, teacher = randn(2, 2, 3, 3).softmax(-1), randn(2, 4, 3, 3, seed=1).softmax(-1)
    found = loss({attention(0): student}, {attention(0): teacher}, Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS))
    torch.testing.assert_close(found, attention_kl(student.mean(1)[:, None], teacher.mean(1)[:, None]).mean())


@pytest.mark.parametrize(("mine", "theirs"), [(2, 6), (6, 2), (3, 3)])
def test_groups_are_consecutive_heads_of_the_side_that_has_more(mine, theirs):
    batch = Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS)
    student, teacher = randn(2, mine, 3, 3).softmax(-1), randn(2, theirs, 3, 3, seed=1).softmax(-1)
    fewer = min(mine, theirs)
    means = []
    for maps in (student, teacher):
        size = maps.shape[1] // fewer
        groups = [maps[:, start : start + size] for start in range(0, maps.shape[1], size)]
        means.append(torch.stack([sum(group[:, head] for head in range(size)) / size for group in groups], dim=1))
    for kind, signal, expected in (
        (AttentionKL, attention, attention_kl(*means)),
        (AttentionMSE, attention_scores, attention_mse(*means)),
    ):
        loss = kind({0: 0}, heads="grouped")
        loss.setup(replace(STUDENT, heads=mine), replace(TEACHER, heads=theirs), Task.TOKENS)
        torch.testing.assert_close(loss({signal(0): student}, {signal(0): teacher}, batch), expected.mean())


@pytest.mark.parametrize("kind", [AttentionKL, AttentionMSE])
def test_what_does_not_fit_is_refused(kind):
    who = kind.__name__
    message = (
        f"{who}: the student has 2 attention heads, the teacher 4. "
        f'Pass {who}(heads="mean") to compare averages over heads.'
    )
    refuses(kind(), message, teacher=replace(TEACHER, heads=4))
    refuses(kind(heads="max"), f'{who}: heads=\'max\' is not "matched", "grouped" or "mean".')
    message = (
        f"{who}: the student has 2 attention heads, the teacher 5: 5 heads make no 2 equal groups. "
        f'Pass {who}(heads="mean") to compare averages over heads.'
    )
    refuses(kind(heads="grouped"), message, teacher=replace(TEACHER, heads=5))
    message = message.replace("has 2", "has 3").replace("teacher 5: 5 heads make no 2", "teacher 2: 3 heads make no 2")
    refuses(kind(heads="grouped"), message, student=replace(STUDENT, heads=3))
    refuses(kind({"embeddings": 0}), f"{who}: student layer 'embeddings' is no layer; use 0 to 1.")


def test_their_names():
    assert [AttentionKL().name, AttentionMSE().name] == ["attention_kl", "attention_mse"]


@pytest.mark.parametrize("kind", [AttentionKL, AttentionMSE, MiniLM, MiniLMv2])
def test_a_model_whose_attention_cannot_be_recorded_is_refused_for_that(kind):
    blind = replace(STUDENT, name="BlindModel", heads=0)
    said = "the attention of BlindModel does not go through transformers' attention interface, so it cannot be"
    refuses(kind(), f"{kind.__name__}: {said} recorded. Use HiddenMSE or HiddenCosine.", student=blind)


@given(seed=st.integers(0, 1000), order=st.permutations([0, 1, 2]))
@settings(deadline=None, max_examples=30)
def test_the_order_of_the_heads_does_not_matter_and_scores_count_alike(seed, order):
    student, teacher = randn(2, 3, 4, 4, seed=seed), randn(2, 3, 4, 4, seed=seed + 5000)
    expected = attention_mse(student, teacher)
    torch.testing.assert_close(attention_mse(student[:, order], teacher[:, order]), expected)
    torch.testing.assert_close(attention_mse(teacher, student), expected)
    mine, theirs = student.softmax(-1), teacher.softmax(-1)
    torch.testing.assert_close(attention_kl(mine[:, order], theirs[:, order]), attention_kl(mine, theirs))
