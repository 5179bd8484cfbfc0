"""A generator of embeddings that is trained against a student."""

import pytest
import torch
from models import WIDTH
from runs import classifier, same, weights

from hf_distill.augment.generator import Generator, disagreement, generated
from hf_distill.augment.soft_inputs import Wanted, entropy, table_of, uncertainty
from hf_distill.tasks import Task

ONE = Task.SINGLE_LABEL


def decided():
    """A teacher whose answers differ between inputs."""
    model = classifier(seed=1)
    with torch.no_grad():
        model.classifier.weight.mul_(10)
        model.classifier.bias.zero_()
    return model


def logits_of(model, embeddings):
    with torch.no_grad():
        return model(inputs_embeds=embeddings).logits


def test_it_makes_rows_like_the_tables_and_no_two_alike():
    table = table_of(classifier()) * 3 + 1
    made = Generator(table, 6)(torch.randn(50, 100))
    assert made.shape == (50, 6, WIDTH)
    assert (made.std() / table.std()).item() == pytest.approx(1, abs=0.3)
    assert (made[0] != made[1]).any()
    assert (made[0, 0] != made[0, 1]).any()


def test_its_loss_falls_and_teacher_and_student_disagree_more():
    teacher, student = classifier(seed=1), classifier()
    before = weights(student)
    few, _ = generated(teacher, student, 32, 5, Wanted(0.0, 0.0), steps=1)
    many, losses = generated(teacher, student, 32, 5, Wanted(0.0, 0.0), steps=150)
    assert sum(losses[-10:]) < sum(losses[:10])
    gaps = [disagreement(logits_of(student, made), logits_of(teacher, made)) for made in (few, many)]
    assert gaps[1] > 1.3 * gaps[0]
    assert same(before, weights(student))
    assert all(weight.grad is None for weight in student.parameters())
    again, same_losses = generated(teacher, student, 32, 5, Wanted(0.0, 0.0), steps=150)
    assert torch.equal(again, many)
    assert same_losses == losses


def test_without_the_student_the_teacher_becomes_sure_and_varied():
    teacher, student = decided(), classifier()
    few, _ = generated(teacher, student, 64, 5, adversarial=0.0, steps=1)
    many, losses = generated(teacher, student, 64, 5, adversarial=0.0, steps=200)
    assert losses[-1] < losses[0]
    before, after = logits_of(teacher, few), logits_of(teacher, many)
    assert uncertainty(after, ONE) < uncertainty(before, ONE)
    assert entropy(after, ONE) > entropy(before, ONE)


def test_the_first_loss_by_hand():
    teacher, student = classifier(seed=1), classifier()
    order = torch.tensor([2, 0, 1])
    _, [loss] = generated(teacher, student, 4, 5, Wanted(2.0, 3.0), 0.5, steps=1, batch_size=7, seed=9, order=order)
    torch.manual_seed(9)
    made_by = Generator(table_of(teacher), 5)
    made = made_by(torch.randn(7, 100, generator=torch.Generator().manual_seed(9)))
    theirs, mine = logits_of(teacher, made), logits_of(student, made)
    gap = (mine - theirs[:, order]).abs().mean()
    assert loss == pytest.approx(
        (2 * uncertainty(theirs, ONE) - 3 * entropy(theirs, ONE) - 0.5 * gap).item(), rel=1e-4
    )
