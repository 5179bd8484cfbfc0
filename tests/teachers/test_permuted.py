"""The best class stays where it is, the others go elsewhere, and which go where can be found again."""

from itertools import permutations

import pytest
import torch
from models import inputs_of, tiny
from runs import classifier, distillation, exactly, same, weights

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher, OtherView, PermutedTeacher

CPU = torch.device("cpu")


def said(model, inputs, task=Task.SINGLE_LABEL, **knobs):
    """By the teacher as it is, and permuted."""
    both = [ModelTeacher(model), PermutedTeacher(model)]
    for teacher in both:
        teacher.prepare(tiny("bert", "ForSequenceClassification", num_labels=model.config.num_labels)
                        if task is Task.SINGLE_LABEL else tiny("bert", "ForTokenClassification", seed=3,
                        num_labels=model.config.num_labels), frozenset({LOGITS, hidden(0)}), CPU, None)  # fmt: skip
    return [teacher.observe(Batch(inputs, task, **knobs)) for teacher in both]


def test_the_best_stays_and_the_others_are_the_same_values_elsewhere():
    model = classifier(num_labels=6)
    inputs = inputs_of(model, rows=8)
    plain, permuted = said(model, inputs)
    moved = 0
    for before, after in zip(plain[LOGITS], permuted[LOGITS], strict=True):
        best = before.argmax().item()
        assert after[best] == before[best]
        assert sorted(after.tolist()) == sorted(before.tolist())
        moved += not torch.equal(before, after)
    assert moved >= 6
    assert torch.equal(plain[hidden(0)], permuted[hidden(0)])


def test_every_order_of_the_others_comes_about_as_often():
    model = classifier(num_labels=4)
    inputs = inputs_of(model, rows=2, length=4)
    teacher = PermutedTeacher(model)
    teacher.prepare(classifier(seed=3, num_labels=4), frozenset({LOGITS}), CPU, None)
    with torch.no_grad():
        before = model(**inputs).logits[0].tolist()
    found: dict[tuple, int] = {}
    for seed in range(600):
        after = teacher.observe(Batch(inputs, Task.SINGLE_LABEL, seed=seed))[LOGITS][0].tolist()
        order = tuple(before.index(each) for each in after)
        found[order] = found.get(order, 0) + 1
    best = max(range(4), key=before.__getitem__)
    assert set(found) == {order for order in permutations(range(4)) if order[best] == best}
    assert min(found.values()) > 60  # of 100


def test_an_example_has_the_same_lot_wherever_it_stands_and_however_it_is_padded():
    model = tiny("bert", "ForTokenClassification", num_labels=6)
    inputs = inputs_of(model, rows=4)
    _, whole = said(model, inputs, Task.TOKENS, seed=5)
    part = {name: each[2:3, :8] for name, each in inputs.items()}
    _, alone = said(model, part, Task.TOKENS, seed=5)
    _, later = said(model, part, Task.TOKENS, seed=6)
    torch.testing.assert_close(whole[LOGITS][2, :8], alone[LOGITS][0])
    assert not torch.equal(alone[LOGITS], later[LOGITS])


def test_an_evaluation_hears_the_teacher_as_it_is():
    model = classifier(num_labels=6)
    with torch.no_grad():
        plain, permuted = said(model, inputs_of(model, rows=8))
    assert torch.equal(plain[LOGITS], permuted[LOGITS])


def test_a_run_is_the_same_again_and_another_one_than_unpermuted(tmp_path):
    def trained(folder, teacher, **settings):
        trainer = distillation(
            tmp_path / folder, classifier(), teacher, [SoftTargets(), HiddenMSE("last")], **settings
        )
        trainer.train()
        return weights(trainer.model)

    one = trained("one", PermutedTeacher(classifier(seed=1)))
    assert same(one, trained("two", PermutedTeacher(classifier(seed=1))))
    assert not same(one, trained("seed", PermutedTeacher(classifier(seed=1), seed=1)))
    assert not same(one, trained("plain", classifier(seed=1)))


def test_labels_that_are_no_choice_are_refused(tmp_path):
    several = {"problem_type": "multi_label_classification"}
    message = f"PermutedTeacher keeps the best class and permutes the others, and the task is {Task.MULTI_LABEL}."
    with pytest.raises(ValueError, match=exactly(f"{message} Leave it out.")):
        distillation(tmp_path, classifier(**several), PermutedTeacher(classifier(seed=1, **several)))


def test_another_view_inside_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Put it inside of OtherView: OtherView\(PermutedTeacher\(teacher\)\)\.$"):
        distillation(tmp_path, classifier(), PermutedTeacher(OtherView(classifier(seed=1))), [SoftTargets()])
