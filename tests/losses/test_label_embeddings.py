import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill import signals
from hf_distill.batch import Batch
from hf_distill.losses import LabelEmbeddings, label_embeddings
from hf_distill.tasks import Task

from .contract import TEACHER, BatchContract, LabelledExampleContract, LossContract, memory, randn, refuses

SIGNAL = signals.label_embeddings()


def huber(difference):
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def distances(rows):
    every = [[math.dist(a, b) for b in rows] for a in rows]
    apart = [each for row in every for each in row if each > 0]
    return [[each * len(apart) / sum(apart) if apart else 0.0 for each in row] for row in every]


def group(student, teacher):
    n = len(student)
    if n < 2:
        return 0.0
    mine, theirs = distances(student), distances(teacher)
    return sum(huber(mine[i][j] - theirs[i][j]) for i in range(n) for j in range(n)) / n


def naive(student, teacher, labels):
    """The paper's two sums, over labels of examples and over examples of labels."""
    examples, classes = range(len(labels)), range(len(labels[0]))
    by_class = by_instance = 0.0
    for c in classes:
        positive = [i for i in examples if labels[i][c] == 1]
        by_class += group([student[i][c] for i in positive], [teacher[i][c] for i in positive])
    for i in examples:
        positive = [c for c in classes if labels[i][c] == 1]
        by_instance += group([student[i][c] for c in positive], [teacher[i][c] for c in positive])
    return by_class, by_instance


class TestClassAware(BatchContract):
    shape = (5, 3, 4)

    @staticmethod
    def function(student, teacher):
        return label_embeddings(student, teacher, torch.ones(student.shape[:2]))[0]

    def test_widths_may_differ(self):
        student, teacher = self.draw()
        assert self.function(student[..., :2], teacher).isfinite()


class TestInstanceAware(TestClassAware):
    @staticmethod
    def function(student, teacher):  # examples and labels in each other's place
        student, teacher = student.transpose(0, 1), teacher.transpose(0, 1)
        return label_embeddings(student, teacher, torch.ones(student.shape[:2]))[1]


class TestLoss(LossContract):
    task = Task.MULTI_LABEL

    def make(self):
        return LabelEmbeddings()


class TestUnlabelled(LabelledExampleContract):
    task = Task.MULTI_LABEL

    def make(self):
        return LabelEmbeddings()


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_loops_give(seed):
    student, teacher = randn(6, 4, 3, seed=seed), randn(6, 4, 5, seed=seed + 100).exp()
    labels = (randn(6, 4, seed=seed + 200) > 0).long()
    labels[0], labels[1], labels[:, 2] = 0, -100, 0
    labels[2, 2] = 1  # the only positive of its class
    student[3, 0] = student[4, 0]  # a duplicate
    expected = naive(student.double().tolist(), teacher.double().tolist(), labels.tolist())
    for kind in (labels, labels.float()):
        found = label_embeddings(student, teacher, kind)
        torch.testing.assert_close(torch.stack(found), torch.tensor(expected))


def test_by_hand():
    """One class, three examples, at 0, 1, 3 against 0, 1, 2: means 2 and 4/3; sum of Huber over three positives."""
    student, teacher = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1), torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    gaps = [1 / 2 - 3 / 4, 2 / 2 - 3 / 4, 3 / 2 - 6 / 4]
    expected = torch.tensor(2 * sum(0.5 * gap**2 for gap in gaps) / 3)
    by_class, by_instance = label_embeddings(student, teacher, torch.ones(3, 1))
    torch.testing.assert_close(by_class, expected)
    assert by_instance == 0
    by_class, by_instance = label_embeddings(student.transpose(0, 1), teacher.transpose(0, 1), torch.ones(1, 3))
    torch.testing.assert_close(by_instance, expected)
    assert by_class == 0


@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e2), rows=st.permutations(range(5)))
@settings(deadline=None, max_examples=30)
def test_scale_place_order_and_rotation_are_free(seed, scale, rows):
    student, teacher = randn(5, 3, 4, seed=seed), randn(5, 3, 6, seed=seed + 5000)
    labels = (randn(5, 3, seed=seed + 7000) > -0.3).long()
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved = (student @ rotation + 3) * scale
    plain = torch.stack(label_embeddings(student, teacher, labels))
    found = torch.stack(label_embeddings(moved[rows], teacher[rows], labels[rows]))
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.stack(label_embeddings(teacher, student, labels)), plain)
    assert sum(label_embeddings(moved, student, labels)) < 1e-4


def test_two_positives_are_their_mean_distance_apart_on_both_sides():
    labels = torch.tensor([[1, 0, 1], [1, 1, 0]])
    student = randn(2, 3, 4).requires_grad_()
    found = sum(label_embeddings(student, randn(2, 3, 4, seed=1), labels))
    found.backward()
    assert found == 0
    assert (student.grad == 0).all()


@pytest.mark.parametrize("labels", [torch.zeros(3, 4), torch.full((3, 4), -100), torch.eye(4)[:3]])
def test_without_two_positives_it_is_zero_and_has_a_gradient(labels):
    student = torch.full((3, 4, 2), float("nan")).requires_grad_()
    found = sum(label_embeddings(student, randn(3, 4, 2), labels))
    found.backward()
    assert found == 0
    assert (student.grad == 0).all()


def test_what_is_not_positive_gets_no_gradient():
    student, labels = randn(4, 3, 2).requires_grad_(), torch.tensor([[1, 0, 1], [1, 1, 1], [1, -100, 0], [0, 0, 0]])
    sum(label_embeddings(student, randn(4, 3, 2, seed=1), labels)).backward()
    assert (student.grad[labels != 1] == 0).all()
    assert (student.grad[0, 0] != 0).any()


def test_nothing_larger_than_the_embeddings_and_batch_squared_is_made():
    student, teacher = randn(16, 6, 32).requires_grad_(), randn(16, 6, 32, seed=1)
    largest, kept = memory(lambda s, t: sum(label_embeddings(s, t, torch.ones(16, 6))), student, teacher)
    assert largest <= 16 * 6 * 32
    assert kept < 16 * 16 * 6 * 12 + 4 * 16 * 6 * 32


def test_the_two_parts_have_weights_of_their_own():
    student, teacher, labels = randn(4, 3, 2), randn(4, 3, 5, seed=1), torch.ones(4, 3)
    batch = Batch({"labels": labels}, Task.MULTI_LABEL)
    by_class, by_instance = label_embeddings(student, teacher, labels)
    loss = LabelEmbeddings(2.0, 3.0)
    assert loss.pairs() == [(SIGNAL, SIGNAL)]
    found = loss({SIGNAL: student}, {SIGNAL: teacher}, batch)
    torch.testing.assert_close(found, 2 * by_class + 3 * by_instance)


def test_what_does_not_fit_is_refused():
    for task in (Task.SINGLE_LABEL, Task.TOKENS, Task.EMBEDDING):
        message = (
            f"LabelEmbeddings is for multi_label, and the task is {task}. Use RKDDistance, or load both models "
            'with problem_type="multi_label_classification".'
        )
        refuses(LabelEmbeddings(), message, task)
    message = "LabelEmbeddings needs the head of a teacher model, and this teacher is not one. Leave it out."
    refuses(LabelEmbeddings(), message, Task.MULTI_LABEL, teacher=None)
    LabelEmbeddings().setup(TEACHER, TEACHER, Task.MULTI_LABEL)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"x": torch.ones(3, 2)},
            "LabelEmbeddings needs a labels column, and the batch has none. Add it, or leave LabelEmbeddings out.",
        ),
        (
            {"labels": torch.ones(3, 7)},
            "LabelEmbeddings: the labels are of shape (3, 7), the student's label embeddings of (3, 4, 2), "
            "the teacher's of (3, 4, 5). Give all (batch, labels) in front.",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused(inputs, message):
    with pytest.raises(ValueError, match=r"^LabelEmbeddings") as error:
        LabelEmbeddings()({SIGNAL: randn(3, 4, 2)}, {SIGNAL: randn(3, 4, 5)}, Batch(inputs, Task.MULTI_LABEL))
    assert str(error.value) == message


def test_its_name_and_what_it_needs():
    assert LabelEmbeddings().name == "label_embeddings"
    assert LabelEmbeddings.needs_labels
    assert LabelEmbeddings.relational
