import math

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.losses import CWTM, cwtm
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import LabelledExampleContract, LossContract, randn, refuses


def naive(student, teacher, labels):
    total = mass = 0.0
    for mine, theirs, label in zip(student, teacher, labels, strict=True):
        if label < 0:
            continue
        ours, other = ([math.exp(each) for each in row] for row in (mine, theirs))
        sure = max(other) / sum(other)
        total -= sure * math.log(ours[label] / sum(ours))
        mass += sure
    return total / mass


class TestTokens(LossContract):
    def make(self):
        return CWTM()


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self):
        return CWTM()


class TestExamples(LabelledExampleContract):
    def make(self):
        return CWTM()


def test_it_is_what_a_loop_gives():
    student, teacher, labels = randn(6, 5) * 3, randn(6, 5, seed=1) * 3, [0, 1, 2, 3, -100, 0]
    expected = naive(student.double().tolist(), teacher.double().tolist(), labels)
    assert cwtm(student, teacher, torch.tensor(labels)).item() == pytest.approx(expected, rel=1e-5)
    batch = Batch({"labels": torch.tensor(labels)}, Task.SINGLE_LABEL)
    found = CWTM()({LOGITS: student}, {LOGITS: teacher}, batch)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_of_a_teacher_that_is_as_sure_of_all_it_is_the_cross_entropy():
    student, labels = randn(6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    teacher = torch.eye(5)[[4, 3, 2, 1, 0, 0]] * 7
    torch.testing.assert_close(cwtm(student, teacher, labels), torch.nn.functional.cross_entropy(student, labels))


def test_without_labels_it_is_zero():
    assert cwtm(randn(2, 5), randn(2, 5, seed=1), torch.tensor([-100, -100])) == 0


def test_labels_that_are_no_class_ids_are_refused():
    message = "CWTM weighs labels that are class ids, and the task is multi_label. Use TaskLoss."
    refuses(CWTM(), message.replace("multi_label", str(Task.MULTI_LABEL)), Task.MULTI_LABEL)
    with pytest.raises(ValueError, match="CWTM needs a labels column, and the batch has none"):
        CWTM()({LOGITS: randn(2, 5)}, {LOGITS: randn(2, 5)}, Batch({"input_ids": torch.ones(2, 3)}, Task.SINGLE_LABEL))
