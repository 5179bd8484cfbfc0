import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import CATALOGUE, SoftTargets, logits
from hf_distill.losses.logits import LogitLoss, bernoulli, in_chunks
from hf_distill.losses.soft_targets import kl_divergence
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import TEACHER, Largest, randn, refuses


class Gap(LogitLoss):
    """Total variation written out, to see what reaches `values`."""

    refused = {Task.REGRESSION: "Use LogitMSE."}

    def values(self, student, teacher, *more):
        return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


def test_yes_and_no_of_a_label_are_a_softmax_over_two():
    values = randn(3, 4) * 5
    torch.testing.assert_close(bernoulli(values).softmax(-1)[..., 0], values.sigmoid())
    torch.testing.assert_close((bernoulli(values) / 3).softmax(-1)[..., 1], (-values / 3).sigmoid())


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 100])
def test_chunks_change_neither_value_nor_gradient(chunk_size):
    student, teacher = randn(2, 5, 6).requires_grad_(), randn(2, 5, 6, seed=1)
    whole = kl_divergence(student, teacher)
    (expected,) = torch.autograd.grad(whole.square().sum(), student)
    found = in_chunks(kl_divergence, student, teacher, chunk_size=chunk_size)
    (gradient,) = torch.autograd.grad(found.square().sum(), student)
    torch.testing.assert_close((found, gradient), (whole, expected))


def test_what_belongs_to_a_position_goes_with_it():
    student, teacher, positions = randn(2, 5, 6), randn(2, 5, 6, seed=1), torch.arange(10).view(2, 5)
    found = in_chunks(lambda a, b, c: c + 0 * (a + b).sum(-1), student, teacher, positions, chunk_size=3)
    torch.testing.assert_close(found, positions.float())


def test_no_softmax_of_the_whole_vocabulary_is_made_or_kept(monkeypatch):
    """40 positions of 64 classes, 5 at a time: nothing of 40 x 64 is made in float32, and nothing is kept."""
    monkeypatch.setattr(logits, "CHUNK_ELEMENTS", 5 * 64)
    student, teacher = randn(40, 64).bfloat16().requires_grad_(), randn(40, 64, seed=1).bfloat16()
    kept = {}

    def keep(saved):
        if saved.dtype == torch.float32:
            kept[saved.untyped_storage().data_ptr()] = saved.numel()
        return saved

    with Largest(torch.float32) as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            found = in_chunks(lambda a, b: kl_divergence(a, b, 2.0), student, teacher)
        found.sum().backward()
    assert largest.elements <= 5 * 64
    assert sum(kept.values()) <= 5 * 64


LANGUAGE = [
    kind
    for members in CATALOGUE.values()
    for kind in members
    if issubclass(kind, LogitLoss) and Task.CAUSAL_LM not in kind.refused
]


@pytest.mark.parametrize("kind", LANGUAGE)
def test_no_copy_of_a_whole_vocabulary_is_kept_for_backward(kind):
    """Causal, with padding and ignored labels: beside the two models' own logits, less than a chunk of them."""
    mask = torch.ones(3, 8, dtype=torch.long)
    mask[1, 6:] = 0
    labels = torch.randint(0, 64, (3, 8)).masked_fill(mask == 0, -100)
    batch = Batch({"input_ids": labels.clamp(min=0), "attention_mask": mask, "labels": labels}, Task.CAUSAL_LM)
    student, teacher = randn(3, 8, 64).requires_grad_(), randn(3, 8, 64, seed=1)
    own = {side.untyped_storage().data_ptr() for side in (student, teacher)}
    kept = {}

    def keep(saved):
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        found = kind(chunk_size=2)({LOGITS: student}, {LOGITS: teacher}, batch)
    found.backward()
    assert sum(size for place, size in kept.items() if place not in own) < 2 * 64 * 4
    whole = student.detach().requires_grad_()
    kind()({LOGITS: whole}, {LOGITS: teacher}, batch).backward()
    torch.testing.assert_close(student.grad, whole.grad)


def test_positions_that_do_not_count_are_left_out():
    batch = Batch({"input_ids": torch.ones(1, 3), "labels": torch.tensor([[1, -100, 2]])}, Task.TOKENS)
    student, teacher = randn(1, 3, 5), randn(1, 3, 5, seed=1)
    gaps = Gap().values(student, teacher)[0]
    torch.testing.assert_close(Gap(chunk_size=1)({LOGITS: student}, {LOGITS: teacher}, batch), (gaps[0] + gaps[2]) / 2)


def test_several_labels_are_compared_one_by_one_and_added():
    batch = Batch({"labels": torch.zeros(2, 3)}, Task.MULTI_LABEL)
    student, teacher = randn(2, 3), randn(2, 3, seed=1)
    expected = (student.sigmoid() - teacher.sigmoid()).abs().sum(-1).mean()  # of a label: half of twice the gap
    torch.testing.assert_close(Gap()({LOGITS: student}, {LOGITS: teacher}, batch), expected)


def test_what_cannot_work_is_refused():
    refuses(Gap(), "Gap needs logits: an embedding model has none. Use HiddenMSE or RKDDistance.", Task.EMBEDDING)
    refuses(Gap(), "Gap is not for regression. Use LogitMSE.", Task.REGRESSION)
    refuses(Gap(chunk_size=0), "Gap: chunk_size is 0; it must be at least 1.")
    refuses(SoftTargets(temperature=0.0), "SoftTargets: temperature is 0.0; it must be above 0.")
    Gap().setup(TEACHER, TEACHER, Task.TOKENS)
