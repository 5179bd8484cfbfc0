"""One pass over the head gives what the plain formula gives on whole logits, value and gradients."""

import pytest
import torch
import torch.nn.functional as F

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses import NormalizedKD, SoftTargets, TaskLoss, fused, kl_divergence, normalized_kd, reverse_kl
from hf_distill.losses.fused import Head, Term, head_and_divergence, head_and_terms
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import Largest, randn

CLASSES = 11


def kl(student, teacher):
    """KL(teacher || student), written out, in the precision of what it is given."""
    log_q, log_p = student - student.logsumexp(-1, keepdim=True), teacher - teacher.logsumexp(-1, keepdim=True)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def heads(rows=7, dtype=torch.float64, bias=True):
    """A narrow student, with gradients, and a wide teacher."""
    student = [randn(rows, 4), randn(CLASSES, 4, seed=1), randn(CLASSES, seed=2) if bias else None]
    teacher = [randn(rows, 6, seed=3), randn(CLASSES, 6, seed=4), randn(CLASSES, seed=5) if bias else None]
    student = [None if each is None else each.to(dtype).requires_grad_() for each in student]
    return Head(*student), Head(*(None if each is None else each.to(dtype) for each in teacher))


def gradients(value, head):
    return torch.autograd.grad(value, [each for each in head if each is not None])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_it_is_the_plain_formula_in_float64(chunk_size, bias):
    student, teacher = heads(bias=bias)
    plain = kl(F.linear(*student), F.linear(*teacher)).sum()
    found = head_and_divergence(student, teacher, kl, chunk_size=chunk_size)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=0)
    for mine, theirs in zip(gradients(3 * found, student), gradients(3 * plain, student), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_any_formula_of_the_catalogue_goes_with_what_belongs_to_a_position():
    student, teacher = heads(dtype=torch.float32)
    labels = torch.tensor([0, 3, -100, 10, 2, 2, 5])
    plain = normalized_kd(F.linear(*student), F.linear(*teacher), labels).sum()
    found = head_and_divergence(student, teacher, normalized_kd, labels, chunk_size=2)
    torch.testing.assert_close((found, gradients(found, student)), (plain, gradients(plain, student)))


def test_several_losses_share_a_pass_and_have_factors_of_their_own():
    student, teacher = heads(dtype=torch.float32)
    labels = torch.arange(7)

    def labels_loss(logits, _, labels):
        return F.cross_entropy(logits, labels, reduction="none")

    mine, theirs = F.linear(*student), F.linear(*teacher)
    plain = torch.stack(
        [0.5 * kl_divergence(mine, theirs).sum(), 2.0 * F.cross_entropy(mine, labels, reduction="sum")]
    )
    terms = [Term(kl_divergence, 0.5), Term(labels_loss, torch.tensor(2.0), (labels,))]
    found = head_and_terms(student, teacher, terms, chunk_size=3)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(gradients(found.sum(), student), gradients(plain.sum(), student))


def test_one_of_several_cannot_be_differentiated_alone_nor_any_twice():
    student, teacher = heads(dtype=torch.float32)
    both = head_and_terms(student, teacher, [Term(kl_divergence), Term(reverse_kl)])
    assert all(each.isnan().all() for each in gradients(both[0], student))
    once = head_and_divergence(student, teacher)
    torch.autograd.grad(once, student.hidden, retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(once, student.hidden)


def test_nothing_to_compare_is_zero_with_zero_gradients():
    student, teacher = heads(rows=0)
    found = head_and_divergence(student, teacher)
    assert found == 0
    assert [each.shape for each in gradients(found, student)] == [each.shape for each in student]
    assert not any(each.any() for each in gradients(head_and_divergence(student, teacher), student))


def test_tied_embeddings_get_both_gradients():
    student, teacher = heads(dtype=torch.float32)
    ids = torch.arange(7)
    results = []
    for together in (True, False):
        hidden = student.weight[ids] * 2
        if together:
            value = head_and_divergence(Head(hidden, student.weight), teacher, chunk_size=2)
        else:
            value = kl_divergence(F.linear(hidden, student.weight), F.linear(*teacher)).sum()
        results.append(torch.autograd.grad(value, student.weight))
    torch.testing.assert_close(*results)


def test_a_frozen_head_costs_no_gradient():
    student, teacher = heads(dtype=torch.float32)
    frozen = Head(student.hidden, student.weight.detach(), None)
    head_and_divergence(frozen, teacher).backward()
    assert student.hidden.grad is not None
    assert student.weight.grad is None
    assert not head_and_divergence(Head(*(each.detach() for each in student)), teacher).requires_grad


def test_bfloat16_is_close_to_float32():
    student, teacher = heads(dtype=torch.float32)
    plain = head_and_divergence(student, teacher, chunk_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head_and_divergence(student, teacher, chunk_size=3)
    torch.testing.assert_close(found, plain, rtol=0.02, atol=0.02)
    for mine, theirs in zip(gradients(found, student), gradients(plain, student), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)


def test_no_logits_of_all_positions_exist():
    rows, classes = 64, 100
    student = Head(randn(rows, 4).requires_grad_(), randn(classes, 4, seed=1).requires_grad_())
    teacher = Head(randn(rows, 4, seed=2), randn(classes, 4, seed=3))
    with Largest(torch.float32) as largest:
        head_and_divergence(student, teacher, SoftTargets(2.0).values, chunk_size=8).backward()
    assert largest.elements <= 8 * classes


def placed(head, rows):
    return HeadLogits.placed(HeadLogits.of(*head), rows, torch.Size((2, 5)))


@pytest.mark.parametrize("how", ["head", "logits", "whole"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_terms_are_those_of_the_losses_whatever_the_teacher_gives(dtype, how, monkeypatch):
    """Seven of ten positions count. In float16 nothing is fused: gradients by logits, not scaled yet, would vanish."""
    student, teacher = heads(dtype=dtype, bias=False)
    rows = torch.tensor([0, 1, 3, 4, 5, 8, 9])
    labels = torch.full((10,), -100).index_copy(0, rows, torch.arange(7)).view(2, 5)
    batch = Batch({"input_ids": labels.clamp(min=0), "labels": labels}, Task.MASKED_LM, counted_only=True)
    answers = placed(teacher, rows)
    if how != "head":
        answers = HeadLogits.placed(F.linear(*teacher), rows, torch.Size((2, 5))) if how == "logits" else answers + 0
    losses = {"soft": SoftTargets(chunk_size=3), "labels": TaskLoss(), "nkd": NormalizedKD()}
    factors = {"soft": 0.5, "labels": torch.tensor(2.0), "nkd": 1e-6}
    fusings = []
    fuse = fused.head_and_terms
    monkeypatch.setattr(fused, "head_and_terms", lambda *args: fusings.append(args) or fuse(*args))
    found = fused.terms_on_counted(losses, factors, placed(student, rows), {LOGITS: answers}, batch)
    assert len(fusings) == (dtype is torch.float32)
    whole = {LOGITS: placed(student, rows) + 0}, {LOGITS: answers + 0}
    plain = {name: factors[name] * loss(*whole, batch) for name, loss in losses.items()}
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-6)
    mine, theirs = (gradients(torch.stack(list(terms.values())).sum(), student) for terms in (found, plain))
    torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)
