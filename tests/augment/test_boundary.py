"""Samples that are moved to the teacher's decision boundary, against a loop over single examples."""

from itertools import pairwise

import pytest
import torch
from models import inputs_of
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill import anatomy
from hf_distill.augment.boundary import (
    BoundaryTeacher,
    boundary_samples,
    choose,
    decided_right,
    draw_targets,
    margins,
)
from hf_distill.batch import Batch
from hf_distill.losses import BoundaryTargets, RKDDistance, SoftTargets, TaskLoss
from hf_distill.signals import BOUNDARY, LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import SelectiveTeacher, Teacher

SEVERAL = {"problem_type": "multi_label_classification"}


def settled(several: bool = False, **fields) -> tuple:
    """A teacher, a ragged batch, and labels that it gets right."""
    teacher = classifier(seed=1, **(SEVERAL if several else {}), **fields)
    teacher.requires_grad_(False)
    inputs = inputs_of(teacher, rows=6, length=9)
    logits = teacher(**inputs).logits
    labels = (logits > 0).long() if several else logits.argmax(-1)
    return teacher, inputs, logits, labels


def moved(teacher, inputs, labels, targets, task, **settings):
    asked = []

    def answer(embeddings, rows):
        asked.append(rows)
        return teacher(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"][rows]).logits

    start = anatomy.find_embeddings(teacher)(inputs["input_ids"])
    found = boundary_samples(answer, start, inputs["attention_mask"].bool(), labels, targets, task, **settings)
    assert all(set(later.tolist()) <= set(rows.tolist()) for rows, later in pairwise(asked))  # no row that has crossed
    return start, found, answer(found, torch.arange(len(labels)))


def one_by_one(teacher, inputs, labels, targets, several: bool, iterations: int, stride: float):
    """The method for one example at a time and without padding, in plain words."""
    found = []
    for row in range(len(labels)):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()][None]
        x = teacher.get_input_embeddings()(ids).detach()
        length, k = x.norm(), targets[row]
        for _ in range(iterations):
            x.requires_grad_()
            s = teacher(inputs_embeds=x).logits[0]
            on = several and labels[row, k] == 1
            left = (s[k] if on else -s[k]) if several else s[labels[row]] - s[k]
            if (left <= 0) if several else s.argmax() != labels[row]:
                break
            (g,) = torch.autograd.grad(left, x)
            x = (x - stride * length * (left + 1e-4) * g / g.norm()).detach()
        found.append(x.detach()[0])
    return found


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("iterations", [1, 8])
def test_a_batch_is_what_single_examples_are(several, iterations):
    teacher, inputs, logits, labels = settled(several)
    task = Task.MULTI_LABEL if several else Task.SINGLE_LABEL
    targets = draw_targets(logits, labels, task, torch.rand(6, generator=torch.Generator().manual_seed(0)))
    settings = {"iterations": iterations, "stride": 0.02}
    start, found, _ = moved(teacher, inputs, labels, targets, task, **settings)
    mask = inputs["attention_mask"].bool()
    for row, expected in enumerate(one_by_one(teacher, inputs, labels, targets, several, **settings)):
        torch.testing.assert_close(found[row][mask[row]], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[~mask], start[~mask])  # padding is not moved
    assert (found != start)[mask].any()


@pytest.mark.parametrize("several", [False, True])
def test_the_decision_changes_and_the_two_scores_are_near_each_other(several):
    teacher, inputs, logits, labels = settled(several)
    task = Task.MULTI_LABEL if several else Task.SINGLE_LABEL
    targets = draw_targets(logits, labels, task, torch.full((6,), 0.5))
    before = margins(logits, labels, targets, task)
    assert decided_right(logits, labels, targets, task).all()
    _, _, after = moved(teacher, inputs, labels, targets, task, iterations=100, stride=0.2)
    assert not decided_right(after, labels, targets, task).any()
    assert (margins(after, labels, targets, task).abs() < 0.2 * before).all()


def test_a_sample_that_crossed_is_not_moved_any_more():
    teacher, inputs, logits, labels = settled()
    targets = draw_targets(logits, labels, Task.SINGLE_LABEL, torch.full((6,), 0.5))
    few = moved(teacher, inputs, labels, targets, Task.SINGLE_LABEL, iterations=15, stride=0.2)
    crossed = ~decided_right(few[2], labels, targets, Task.SINGLE_LABEL)
    assert crossed.any()
    more = moved(teacher, inputs, labels, targets, Task.SINGLE_LABEL, iterations=30, stride=0.2)
    torch.testing.assert_close(few[1][crossed], more[1][crossed], rtol=0, atol=0)


def test_padding_is_not_moved_even_where_the_teacher_looks_at_it():
    start, tokens = torch.ones(1, 3, 2), torch.tensor([[True, True, False]])
    labels, targets = torch.tensor([0]), torch.tensor([1])

    def answer(embeddings, rows):
        total = embeddings.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)

    found = boundary_samples(answer, start, tokens, labels, targets, Task.SINGLE_LABEL, 1, stride=0.1)
    # the norm of four ones is 2, the margin 6, and so is each entry's share of the gradient's norm 1/2
    moved = 1 - 0.1 * 2 * (6 + 1e-4) / 2
    torch.testing.assert_close(found, torch.tensor([[[moved, moved], [moved, moved], [1.0, 1.0]]]))


def test_targets_are_drawn_in_proportion_to_the_probability_without_the_label():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20000, -1)
    numbers = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(20000, dtype=torch.long)
    shares = draw_targets(logits, labels, Task.SINGLE_LABEL, numbers).bincount(minlength=4) / 20000
    expected = torch.tensor([0.0, *torch.tensor([1.0, 0.0, -1.0]).softmax(0)])
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.01)
    several = torch.tensor([[1, 0, 1, 0]]).expand(20000, -1)  # probabilities of the other decision
    other = torch.tensor([-2.0, 1.0, 0.0, -1.0]).sigmoid()
    shares = draw_targets(logits, several, Task.MULTI_LABEL, numbers).bincount(minlength=4) / 20000
    torch.testing.assert_close(shares, other / other.sum(), rtol=0, atol=0.01)
    edge = draw_targets(logits[:2], labels[:2], Task.SINGLE_LABEL, torch.tensor([0.0, 1 - 2**-24]))
    assert edge.tolist() == [1, 3]  # never the label itself


def test_base_samples_are_right_in_both_and_those_go_first_where_the_models_differ():
    teacher = torch.tensor([[5.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    student = torch.tensor([[5.0, 1.0, 0.0], [5.0, 4.0, 0.0], [5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [5.0, 3.0, 0.0]])
    labels, targets = torch.tensor([0, 0, 0, 0, -100]), torch.ones(5, dtype=torch.long)
    rows, right = choose(teacher, student, labels, targets, Task.SINGLE_LABEL, 64)
    assert rows.tolist() == [1, 0]  # 2: the teacher is wrong, 3: the student, 4: no label
    assert right.all()
    assert choose(teacher, student, labels, targets, Task.SINGLE_LABEL, 1)[0].tolist() == [1]
    rows, right = choose(teacher, torch.eye(3)[[1] * 5], labels, targets, Task.SINGLE_LABEL, 64)
    assert len(rows) == 1
    assert not right.any()


def ready(student, **settings) -> tuple:
    teacher = BoundaryTeacher(classifier(seed=1), **settings)
    teacher.prepare(student, frozenset({LOGITS, BOUNDARY}), torch.device("cpu"), None)
    inputs = inputs_of(student, rows=6, length=9)
    labels = teacher.model(**inputs).logits.argmax(-1)
    return teacher, Batch({**inputs, "labels": labels}, Task.SINGLE_LABEL, seed=3)


def test_the_student_is_run_at_its_own_embeddings_moved_as_the_teachers_were():
    student = classifier(seed=1)
    student.get_input_embeddings().weight.data += 0.01
    teacher, batch = ready(student, most=4)
    said = teacher.observe(batch)
    seen = {LOGITS: student(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits}
    both = teacher.respond(batch, seen)[BOUNDARY]
    torch.testing.assert_close(both, teacher.respond(batch, seen)[BOUNDARY])  # drawn from the step, not from a state
    used = both.abs().sum((1, 2)) > 0
    assert 0 < used.sum() <= 4
    assert (both[used, 1] != said[LOGITS][used]).all()  # the teacher's answer at the moved text
    both[:, 0].sum().backward()
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0
    assert teacher.model.get_input_embeddings().weight.grad is None
    with torch.no_grad():
        assert not teacher.respond(batch, seen)[BOUNDARY].any()  # an evaluation


def test_where_the_student_is_the_teacher_both_say_the_same_at_the_samples():
    student = classifier(seed=1)
    teacher, batch = ready(student)
    teacher.observe(batch)
    seen = {LOGITS: student(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits}
    both = teacher.respond(batch, seen)[BOUNDARY]
    assert (both.abs().sum((1, 2)) > 0).all()
    torch.testing.assert_close(both[:, 0], both[:, 1])


@pytest.mark.parametrize("several", [False, True])
def test_a_student_is_trained_with_it(tmp_path, several):
    fields = SEVERAL if several else {}
    data = rows(16)
    if several:
        data = data.remove_columns("labels").add_column("labels", [[1.0, 0.0, float(i % 2)] for i in range(16)])
    found = []
    for weight in (1.0, 0.0):
        student, teacher = classifier(**fields), BoundaryTeacher(classifier(seed=1, **fields))
        losses = [TaskLoss(), SoftTargets(), BoundaryTargets(weight=weight)]
        trainer = distillation(tmp_path, student, teacher, losses, data, eval_dataset=data, max_steps=6)
        trainer.train()
        found.append(weights(student))
        assert trainer.evaluate()["eval_boundary_targets"] == 0
    logged = [entry["boundary_targets"] for entry in trainer.state.log_history if "boundary_targets" in entry]
    assert logged == [0.0] * 6
    assert any((found[0][name] - found[1][name]).abs().max() > 1e-4 for name in found[0])


def test_how_far_the_teacher_inside_is_trusted_is_said_outside(tmp_path):
    data, found = rows(16), {}
    for unsure in (1.0, 0.0):
        inside = SelectiveTeacher(classifier(seed=1), wrong=0.5, unsure=unsure, max_entropy=0.0)
        teacher = BoundaryTeacher(inside)
        assert teacher.says_trust
        student = classifier()
        losses = [SoftTargets(), BoundaryTargets()]
        trainer = distillation(tmp_path, student, teacher, losses, data, learning_rate=1e-2)
        trainer.train()
        found[unsure] = weights(student)
    assert same(found[0.0], weights(classifier()))  # nothing of it counts
    assert not same(found[1.0], found[0.0])
    assert not BoundaryTeacher(classifier()).says_trust
    with pytest.raises(ValueError, match="RKDDistance"):
        distillation(tmp_path, classifier(), teacher, [RKDDistance(), BoundaryTargets()])


def test_rows_without_labels_are_refused_before_step_1(tmp_path):
    with pytest.raises(ValueError, match=r"train_dataset has no labels, .* and BoundaryTeacher asks for them"):
        distillation(tmp_path, classifier(), BoundaryTeacher(classifier(seed=1)), [SoftTargets()], rows(labels=False))


def test_samples_alone_are_learned_from(tmp_path):
    student = classifier(seed=1)
    student.get_input_embeddings().weight.data += 0.01
    teacher, before = BoundaryTeacher(classifier(seed=1)), weights(student)
    data = rows(labels=False).add_column("labels", [0] * 16)  # what both say of some rows
    distillation(tmp_path, student, teacher, [BoundaryTargets()], data).train()
    assert not same(before, weights(student))


class Remembering(Teacher):
    def observe(self, batch):
        return {}


def refused(message: str):
    return pytest.raises(ValueError, match=exactly(message))


def test_what_cannot_work_is_refused_before_step_1(tmp_path):
    learned = [BoundaryTargets()]
    with refused("BoundaryTeacher: most is 0; it must be above 0."):
        BoundaryTeacher(classifier(), most=0)
    message = "BoundaryTargets looks at boundary samples, and a model alone makes none. Use schemes.adversarial, or "
    with refused(message + "pass teacher=augment.boundary.BoundaryTeacher(teacher)."):
        distillation(tmp_path, classifier(), classifier(seed=1), learned)
    message = (
        "boundary samples are embeddings: the student's are 16 wide, the teacher's 32. Make the student from the "
    )
    with refused(message + "teacher (students.keep_layers, students.from_teacher)."):
        distillation(tmp_path, classifier(hidden_size=16), BoundaryTeacher(classifier(seed=1)), learned)
    pair = [classifier("llama", seed=seed, num_hidden_layers=2) for seed in (0, 1)]
    with pytest.raises(ValueError, match="finds the end of a text by its token ids"):
        distillation(tmp_path, pair[0], BoundaryTeacher(pair[1]), learned)
    with pytest.raises(ValueError, match="follow a model's gradient, and Remembering has no model"):
        distillation(tmp_path, classifier(), BoundaryTeacher(Remembering()), learned)
