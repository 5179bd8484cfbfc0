import importlib
import inspect
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hf_distill import losses
from hf_distill.batch import Batch
from hf_distill.losses import (
    CATALOGUE,
    AttentionKL,
    HiddenMSE,
    Loss,
    PositionLoss,
    RKDAngle,
    RKDDistance,
    SoftTargets,
    SortedLogits,
    TaskLoss,
    match_layers,
)
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, hidden, pooled
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, randn, refuses

LISTED = [loss for group in CATALOGUE.values() for loss in group]


def layers(student: int, teacher: int, wanted="uniform"):
    return match_layers(wanted, replace(STUDENT, layers=student), replace(TEACHER, layers=teacher))


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (4, 12, [2, 5, 8, 11]),
        (3, 6, [1, 3, 5]),
        (2, 5, [2, 4]),
        (5, 12, [2, 4, 7, 9, 11]),
        (3, 3, [0, 1, 2]),
        (4, 2, [0, 0, 1, 1]),
        (1, 12, [11]),
    ],
)
def test_uniform_spreads_the_layers_and_matches_the_last(student, teacher, expected):
    assert layers(student, teacher) == dict(enumerate(expected))


def test_uniform_keeps_the_order_for_any_depths():
    for student in range(1, 13):
        for teacher in range(1, 37):
            found = list(layers(student, teacher).values())
            assert found == sorted(found)
            assert found[-1] == teacher - 1
            assert found[0] >= 0
            assert teacher < student or len(set(found)) == student


def test_layers_by_hand():
    assert layers(3, 6, "last") == {2: 5}
    assert layers(3, 6, {0: 1, -1: -1, "embeddings": "embeddings"}) == {0: 1, 2: 5, "embeddings": "embeddings"}
    assert layers(3, 6, {"embeddings": 0, 0: 0}) == {"embeddings": 0, 0: 0}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("first", 'HiddenMSE: layers=\'first\' is not known; use {student: teacher}, "uniform" or "last".'),
        ({}, 'HiddenMSE: layers={} matches nothing; use {student: teacher}, "uniform" or "last".'),
        (
            {2: 0},
            "HiddenMSE: student layer 2 does not exist: SmallModel has 2 layers, 0 to 1. "
            "Change layers={student: teacher}.",
        ),
        (
            {0: -5},
            "HiddenMSE: teacher layer -5 does not exist: LargeModel has 4 layers, 0 to 3. "
            "Change layers={student: teacher}.",
        ),
        ({"0": 0}, "HiddenMSE: student layer '0' is no layer; use 0 to 1 or \"embeddings\"."),
        ({0: True}, 'HiddenMSE: teacher layer True is no layer; use 0 to 3 or "embeddings".'),
        ({1: 0, -1: 3}, "HiddenMSE: student layer 1 stands twice in layers={1: 0, -1: 3}. Leave one out."),
    ],
)
def test_a_layer_map_that_cannot_be_is_refused(wanted, message):
    refuses(HiddenMSE(wanted), message)


def test_a_teacher_without_layers_is_refused():
    message = "HiddenMSE needs the layers of a teacher model, and this teacher is not one. Leave it out."
    refuses(HiddenMSE(), message, teacher=None)
    message = "HiddenMSE: no layers were found in LargeModel. Use a loss on logits."
    refuses(HiddenMSE(), message, teacher=replace(TEACHER, layers=0))


def test_terms_of_the_layers_are_added():
    batch = Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS)
    student = {hidden(0): randn(2, 3, 6), hidden(1): randn(2, 3, 6, seed=1)}
    teacher = {hidden(1): randn(2, 3, 6, seed=2), hidden(3): randn(2, 3, 6, seed=3)}
    found = []
    for wanted in ({0: 1}, {1: 3}, {0: 1, 1: 3}):
        loss = HiddenMSE(wanted)
        loss.setup(STUDENT, TEACHER, Task.TOKENS)
        found.append(loss(student, teacher, batch))
    torch.testing.assert_close(found[0] + found[1], found[2])


def test_a_loss_that_was_not_set_up_says_so():
    with pytest.raises(ValueError, match="HiddenMSE compares nothing; call its setup first"):
        HiddenMSE()({}, {}, Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS))


class LogitL1(Loss):
    def __init__(self, power=1.0, weight=1.0):
        super().__init__(weight)
        self.power = power

    def pairs(self):
        return [(LOGITS, LOGITS)]

    def compare(self, student, teacher, batch):
        difference = (batch.align(student) - batch.align(teacher)).abs() ** self.power
        return batch.mean(difference.mean(-1), over="predictions")


def test_ones_own_loss_is_a_loss_like_any_other():
    objective = Objective([TaskLoss(), LogitL1(power=2.0, weight=0.5)])
    objective.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    student, teacher = randn(3, 5).requires_grad_(), randn(3, 5, seed=1)
    batch = Batch({"labels": torch.tensor([0, 1, 2])}, Task.SINGLE_LABEL)
    terms = objective({LOGITS: student}, {LOGITS: teacher}, batch)
    assert list(terms) == ["task_loss", "logit_l1"]
    torch.testing.assert_close(terms["logit_l1"], (student - teacher).square().mean() / 2)
    sum(terms.values()).backward()
    loss = LogitL1(power=2.0, weight=0.5)
    assert (loss.config, repr(loss)) == ({"power": 2.0}, "LogitL1(power=2.0, weight=0.5)")


def test_names_are_snake_case():
    names = [type(word, (LogitL1,), {})().name for word in ("RKDAngle", "MiniLMv2", "DIST", "NKDLoss", "HiddenMSE")]
    assert names == ["rkd_angle", "mini_lmv2", "dist", "nkd_loss", "hidden_mse"]


@pytest.mark.parametrize("loss", LISTED)
def test_a_listed_loss_says_what_it_is_and_can_be_made_without_arguments(loss):
    made = loss()
    assert made.weight == 1.0
    assert type(made)(**made.config).config == made.config
    assert loss is TaskLoss or re.search(r"(arXiv:\d{4}\.\d{5}|doi:10\.\S+)$", made.citation)
    assert "Take it" in inspect.getdoc(loss) or "to take" in inspect.getdoc(loss)


def test_the_catalogue_has_every_public_loss_of_the_package_and_no_name_twice():
    modules = [
        importlib.import_module(f"hf_distill.losses.{each.name}") for each in pkgutil.iter_modules(losses.__path__)
    ]
    found = {
        member
        for module in modules
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Loss) and not inspect.isabstract(member) and not name.startswith("_")
    }
    assert found == set(LISTED)
    assert len(LISTED) == len(found)
    assert {loss.__name__ for loss in LISTED} <= set(losses.__all__)
    assert sorted(losses.__all__) == sorted(set(losses.__all__))
    assert all(hasattr(losses, name) for name in losses.__all__)


@pytest.mark.parametrize("loss", LISTED)
def test_every_listed_loss_has_a_test_file_of_its_own_that_puts_it_to_the_contract(loss):
    file = Path(__file__).parent / f"test_{loss.__module__.rpartition('.')[2]}.py"
    text = file.read_text()
    assert re.search(rf"\(LossContract\):[^#]*?return {loss.__name__}\(", text, re.DOTALL)


@pytest.mark.parametrize(
    "loss", [AttentionKL({0: 0}), HiddenMSE({0: 0}, projection="linear"), RKDAngle(), SoftTargets()]
)
def test_a_loss_keeps_nothing_of_a_batch(loss):
    """What is saved beside a checkpoint is projections alone."""
    loss.setup(STUDENT, TEACHER, Task.TOKENS)
    assert all(name.startswith("projections.") for name in loss.state_dict())


def test_what_would_be_broadcast_is_refused():
    batch = Batch({"labels": torch.tensor([0, 1])}, Task.SINGLE_LABEL)
    for theirs in (torch.zeros(2, 1), torch.zeros(1, 3)):
        with pytest.raises(ValueError, match=r"SoftTargets: the student's logits is \(2, 3\), the teacher's"):
            SoftTargets()({LOGITS: torch.zeros(2, 3)}, {LOGITS: theirs}, batch)
    seen = pooled("first")
    with pytest.raises(
        ValueError, match=r"RKDDistance: the student's pooled\(first\) is \(2, 3\), the teacher's \(1, 3\)"
    ):
        RKDDistance()({seen: torch.zeros(2, 3)}, {seen: torch.zeros(1, 3)}, batch)
    tokens = Batch({"labels": torch.zeros(2, 4, dtype=torch.long)}, Task.TOKENS)
    with pytest.raises(
        ValueError, match=r"SortedLogits: the student's logits is \(2, 4, 3\), the teacher's \(2, 1, 5\)"
    ):
        SortedLogits()({LOGITS: torch.zeros(2, 4, 3)}, {LOGITS: torch.zeros(2, 1, 5)}, tokens)


def test_a_subclass_that_compares_in_its_own_way_is_given_all_logits():
    class Other(SoftTargets):
        def values(self, student, teacher, *more):
            return (student - teacher).abs().sum(-1)

    class Own(SoftTargets):
        def compare(self, student, teacher, batch):
            return (student[:, 1:] - student[:, :-1]).sum()

    class Stated(Own):
        positionwise = True

        def forward(self, student, teacher, batch):
            return super().forward(student, teacher, batch)

    class Below(Own):
        pass

    class Twice:
        def compare(self, student, teacher, batch):
            return 2 * super().compare(student, teacher, batch)

    class Mixed(Twice, SoftTargets):
        pass

    class Projecting(SoftTargets):
        def project(self, index, student):
            return 2 * student

    class OtherValues(SoftTargets):
        def values(self, student, teacher, *more):
            return 2 * super().values(student, teacher, *more)

    facts = {SoftTargets: True, TaskLoss: True, Other: True, Own: False, Stated: True, Below: False}
    facts |= {Mixed: False, Projecting: False, OtherValues: True}
    assert {loss: loss.positionwise for loss in facts} == facts
    listed = {loss for group in CATALOGUE.values() for loss in group if issubclass(loss, PositionLoss)}
    assert all(loss.positionwise for loss in listed)
