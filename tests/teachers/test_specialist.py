"""A generalist and specialists: what they say together, who is asked, and what is refused."""

import math

import pytest
import torch
from models import inputs_of
from runs import classifier, distillation, exactly, words

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import CallableTeacher, ModelTeacher, SpecialistTeacher
from hf_distill.teachers.specialist import Opinion, joint_distribution

CPU = torch.device("cpu")


def randn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def opinions(examples: int = 6):
    """Two specialists whose classes overlap; the second is not heard for every example."""
    return [
        Opinion(torch.tensor([1, 4]), randn(examples, 3, seed=1), torch.ones(examples, dtype=torch.bool)),
        Opinion(torch.tensor([4, 2, 0]), randn(examples, 4, seed=2), torch.arange(examples) % 2 == 0),
    ]


def total(row, logits, generalist, said) -> torch.Tensor:
    """The paper's sum of divergences for one example, class by class."""
    q = logits.softmax(-1)
    p = generalist[row].softmax(-1)
    found = sum(p[c] * (p[c].log() - q[c].log()) for c in range(len(q)))
    for each in said:
        if not each.active[row]:
            continue
        p, special = each.logits[row].softmax(-1), each.classes.tolist()
        for index, c in enumerate(special):
            found = found + p[index] * (p[index].log() - q[c].log())
        rest = sum(q[c] for c in range(len(q)) if c not in special)
        found = found + p[-1] * (p[-1].log() - rest.log())
    return found


def by_gradient_descent(row, generalist, said):
    """Plain gradient descent on the logits of one example, from the generalist."""
    logits = generalist[row].clone().requires_grad_()
    for _ in range(4000):
        (gradient,) = torch.autograd.grad(total(row, logits, generalist, said), logits)
        with torch.no_grad():
            logits -= 0.3 * gradient
    return logits.detach()


def test_it_is_what_gradient_descent_finds_example_by_example():
    generalist, said = randn(2, 5), opinions(2)
    found = joint_distribution(generalist, said)
    for row in range(2):
        expected = by_gradient_descent(row, generalist, said).softmax(-1)
        torch.testing.assert_close(found[row].exp(), expected.float(), rtol=1e-3, atol=1e-5)


def test_nothing_is_left_to_gain_and_nothing_moves_any_more():
    generalist, said = randn(6, 5), opinions()
    found = joint_distribution(generalist, said).double()
    for row in range(6):
        logits = found[row].clone().requires_grad_()
        there = total(row, logits, generalist, said)
        (gradient,) = torch.autograd.grad(there, logits)
        assert gradient.abs().max() < 1e-5
        assert there < total(row, generalist[row], generalist, said)
        for seed in range(5):
            assert total(row, logits + 0.05 * randn(5, seed=seed), generalist, said) > there


def test_rows_do_not_see_each_other():
    generalist, said = randn(6, 5), opinions()
    found = joint_distribution(generalist, said)
    for row in range(6):
        own = [each._replace(logits=each.logits[row : row + 1], active=each.active[row : row + 1]) for each in said]
        torch.testing.assert_close(joint_distribution(generalist[row : row + 1], own)[0], found[row])


def test_without_an_opinion_it_is_the_generalist():
    generalist = randn(3, 5)
    deaf = [each._replace(active=torch.zeros(3, dtype=torch.bool)) for each in opinions(3)]
    for said in ([], deaf):
        torch.testing.assert_close(joint_distribution(generalist, said), generalist.log_softmax(-1).float())


def test_specialists_that_agree_with_it_change_nothing_and_extreme_answers_stay_finite():
    generalist = randn(3, 5)
    p = generalist.softmax(-1)
    same = torch.cat([p[:, [1, 4]], 1 - p[:, [1, 4]].sum(-1, keepdim=True)], -1).log()
    agreeing = Opinion(torch.tensor([1, 4]), same, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(joint_distribution(generalist, [agreeing]), generalist.log_softmax(-1).float())
    sure = Opinion(torch.tensor([1, 4]), torch.tensor([[300.0, -300.0, -300.0]] * 3), torch.ones(3, dtype=torch.bool))
    found = joint_distribution(100 * generalist.half(), [sure])
    assert found.isfinite().all()
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3))


def team(**knobs):
    generalist = classifier(seed=1, num_labels=5)
    return [generalist, classifier(seed=2, num_labels=3), classifier(seed=3, num_labels=4)], {
        "subsets": [[1, 4], [4, 2, 0]],
        **knobs,
    }


@pytest.mark.parametrize("probable", [1, 2])
def test_it_asks_those_whose_classes_are_probable_and_corrects_their_dustbins(probable):
    models, knobs = team(probable=probable, oversampling=[9.0, 2.0])
    teacher = SpecialistTeacher(models, **knobs)
    teacher.prepare(classifier(seed=5, num_labels=5), frozenset({LOGITS, hidden(0)}), CPU, None)
    inputs = inputs_of(models[0], rows=8, length=12)
    seen = teacher.observe(Batch({**inputs, "labels": torch.zeros(8, dtype=torch.long)}, Task.SINGLE_LABEL))
    for row in range(8):
        one = {name: each[row : row + 1] for name, each in inputs.items()}
        with torch.no_grad():
            logits = [model(**one).logits for model in models]
        likely = set(logits[0][0].topk(probable).indices.tolist())
        said = []
        for each, subset, by in zip(logits[1:], knobs["subsets"], [9.0, 2.0], strict=True):
            each[0, -1] += math.log(by)
            if likely & set(subset):
                said.append(Opinion(torch.tensor(subset), each, torch.tensor([True])))
        expected = joint_distribution(logits[0], said)[0] if said else logits[0][0].log_softmax(-1)
        torch.testing.assert_close(seen[LOGITS][row].log_softmax(-1), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        inside = models[0](**inputs, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(seen[hidden(0)], inside)


def test_a_specialist_reads_only_what_it_is_asked_about(monkeypatch):
    models, knobs = team()
    teacher = SpecialistTeacher(models, **knobs)
    teacher.prepare(classifier(seed=5, num_labels=5), frozenset({LOGITS}), CPU, None)
    read = []
    for number, specialist in enumerate(teacher.specialists):

        def observe(batch, number=number, own=specialist.observe):
            read.append((number, batch.rows))
            return own(batch)

        monkeypatch.setattr(specialist, "observe", observe)
    inputs = inputs_of(models[0], rows=8, length=12)
    with torch.no_grad():
        likely = models[0](**inputs).logits.argmax(-1).tolist()
    teacher.observe(Batch(inputs, Task.SINGLE_LABEL))
    wanted = [(number, sum(c in subset for c in likely)) for number, subset in enumerate(knobs["subsets"])]
    assert read == [each for each in wanted if each[1]]
    assert read


def test_their_configs_say_what_they_are_for(tmp_path):
    models, knobs = team()
    for number, model in enumerate(models):
        if number:
            model.config.special_classes = knobs["subsets"][number - 1]
            model.config.special_oversampling = 4.0
        model.save_pretrained(tmp_path / str(number))
    teacher = SpecialistTeacher([str(tmp_path / str(number)) for number in range(3)])
    assert (teacher.subsets, teacher.oversampling) == (knobs["subsets"], [4.0, 4.0])


def test_a_student_learns_what_they_say_together(tmp_path):
    from runs import rows

    models, knobs = team(probable=2)
    trainer = distillation(
        tmp_path, classifier(num_labels=5), SpecialistTeacher(models, **knobs), [SoftTargets(), HiddenMSE("last")],
        rows(labels=False), max_steps=40, eval_dataset=rows(labels=False),
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    assert trainer.evaluate()["eval_soft_targets"] < 0.5 * before["eval_soft_targets"]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (
            {"subsets": None},
            "specialist 1: its config names no special_classes. Pass subsets=, a list of classes for each.",
        ),
        (
            {"subsets": [[1, 5], [4, 2, 0]]},
            "specialist 1: subset [1, 5] must be different classes of the generalist's 5.",
        ),
        (
            {"subsets": [[1, 4], [4, 2, 0, 1, 3]]},
            "specialist 2: its subset is all 5 classes of the generalist, and its dustbin would stand for none. Leave "
            "out one class or more.",
        ),
        (
            {"subsets": [[1, 4], [4, 2]]},
            "specialist 2 has 4 logits for a subset of 2 classes; it must have one for each, and the last for its "
            "dustbin.",
        ),
        ({"subsets": [[1, 4]]}, "SpecialistTeacher: 1 values for 2 specialists."),
        ({"probable": 0}, "SpecialistTeacher: probable is 0; it must be at least 1."),
        ({"oversampling": [1.0, 0.0]}, "specialist 2: oversampling is 0.0; it must be above 0."),
    ],
)
def test_knobs_that_do_not_fit(knobs, message):
    models, own = team(**knobs)
    with pytest.raises(ValueError, match=exactly(message)):
        SpecialistTeacher(models, **own)


def test_a_generalist_that_is_a_function_has_the_students_classes():
    special = [classifier(seed=2, num_labels=4), classifier(seed=3, num_labels=3)]
    for model, subset, message in zip(
        special, ([2, 0, 1], [0, 3]), (r"is all 3 classes", r"\[0, 3\] must"), strict=True
    ):
        teacher = SpecialistTeacher(
            [CallableTeacher(lambda batch: torch.zeros(batch.rows, 3)), model], subsets=[subset]
        )
        with pytest.raises(ValueError, match=rf"^specialist 1: .*subset {message}"):
            teacher.prepare(classifier(seed=5, num_labels=3), frozenset({LOGITS}), CPU, None)


def test_a_generalist_alone_has_no_specialists():
    with pytest.raises(
        ValueError, match=r"SpecialistTeacher takes a list: the generalist, and one specialist or more\."
    ):
        SpecialistTeacher([classifier()])


def test_a_specialist_that_says_something_else_than_its_model_is_refused():
    class Halved(ModelTeacher):
        def observe(self, batch):
            return {LOGITS: super().observe(batch)[LOGITS] / 2}

    generalist, specialist = classifier(num_labels=4).eval(), classifier(num_labels=3).eval()
    with pytest.raises(
        ValueError, match=exactly("SpecialistTeacher: a specialist is a model or its id, not a Halved.")
    ):
        SpecialistTeacher([generalist, Halved(specialist)], subsets=[[0, 1]])
    tokenizer = words()
    made = SpecialistTeacher([generalist, ModelTeacher(specialist, tokenizer=tokenizer)], subsets=[[0, 1]])
    assert made.specialists[0].tokenizer is tokenizer
    SpecialistTeacher(made.members, subsets=[[0, 1]])


def test_several_labels_and_labels_in_another_order_are_refused(tmp_path):
    models, knobs = team()
    several = {"problem_type": "multi_label_classification", "num_labels": 5}
    message = f"SpecialistTeacher is for one label an example, and the task is {Task.MULTI_LABEL}."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(**several), SpecialistTeacher(models, **knobs), [SoftTargets()])
    names = dict(enumerate("abcde"))
    models[0] = classifier(seed=1, id2label=names)
    student = classifier(id2label=dict(enumerate("bacde")))
    with pytest.raises(ValueError, match="SpecialistTeacher counts classes as the generalist does"):
        distillation(tmp_path, student, SpecialistTeacher(models, **knobs), [SoftTargets()], label_map="by_name")
