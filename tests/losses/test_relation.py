import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses import CATALOGUE, RelationLoss
from hf_distill.losses.relation import LOOKED_AT, relative_distances, unit
from hf_distill.signals import pooled
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, randn, refuses

RELATIONS = CATALOGUE["relations between examples"]
EVERY = pytest.mark.parametrize("kind", RELATIONS)
WIDE = replace(TEACHER, width=9)


def ready(kind: type[RelationLoss], **arguments) -> RelationLoss:
    torch.manual_seed(0)
    loss = kind(**arguments)
    loss.setup(STUDENT, WIDE, Task.SINGLE_LABEL)
    return loss


def term(loss: RelationLoss, student: Tensor, teacher: Tensor, batch: Batch | None = None) -> Tensor:
    batch = Batch({"x": torch.ones(len(student), 2)}, Task.SINGLE_LABEL) if batch is None else batch
    return loss({pooled(loss.pooling): student}, {pooled(loss.pooling): teacher}, batch)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "hf_distill.losses.relation"]


def test_all_of_the_group_are_relations():
    assert len(RELATIONS) == 6
    assert all(issubclass(kind, RelationLoss) for kind in RELATIONS)


@EVERY
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_it_looks_at_the_pooled_output_of_both_in_any_widths(kind, pooling):
    loss = ready(kind, pooling=pooling)
    assert loss.pairs() == [(pooled(pooling), pooled(pooling))]
    student, teacher = randn(5, 6), randn(5, 9, seed=1)
    torch.testing.assert_close(term(loss, student, teacher), loss.relate(student, teacher))


@dataclass(frozen=True)
class TwoProcesses(Batch):
    """What the first of two processes sees: `gather` adds the rows of the other one, without gradient."""

    others: Mapping[int, Tensor] | None = None  # width -> rows

    def gather(self, rows: Tensor) -> Tensor:
        assert self.others is not None
        return torch.cat([rows, self.others[rows.shape[1]]])


@EVERY
def test_rows_of_all_processes_are_compared_on_both_sides(kind):
    loss = ready(kind)
    student, teacher = randn(7, 6), randn(7, 9, seed=1)
    mine = student[:4].clone().requires_grad_()
    batch = TwoProcesses({"x": torch.ones(4, 2)}, Task.SINGLE_LABEL, others={6: student[4:], 9: teacher[4:]})
    found = term(loss, mine, teacher[:4], batch)
    found.backward()
    whole = student.clone().requires_grad_()
    expected = loss.relate(whole, teacher)
    expected.backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(mine.grad, whole.grad[:4])
    assert not torch.isclose(found, loss.relate(student[:4], teacher[:4]))


@EVERY
def test_one_example_gives_zero_and_is_said_once(kind, caplog):
    loss = ready(kind)
    for _ in range(3):
        student, teacher = randn(1, 6).requires_grad_(), randn(1, 9, seed=1).requires_grad_()
        found = term(loss, student, teacher)
        found.backward()
        assert found == 0
        assert student.grad is not None
        assert student.grad.abs().max() == 0
        assert teacher.grad is None
    assert warnings(caplog) == [
        f"{loss.name}: a batch of 1 has no relations to learn. It takes {kind.fewest} different examples or more."
    ]


@EVERY
@pytest.mark.parametrize("rows", [2, 3])
def test_as_few_examples_as_can_teach_nothing_are_said_so(kind, rows, caplog):
    loss = ready(kind)
    found = term(loss, randn(rows, 6), randn(rows, 9, seed=1))
    nothing = kind.__name__ in ("RKDDistance", "RKDAngle", "RelativeSimilarity") and rows == 2
    if nothing:
        assert found < 1e-6
    assert len(warnings(caplog)) == nothing


@EVERY
def test_one_example_several_times_has_a_finite_gradient_and_is_said_once(kind, caplog):
    loss = ready(kind)
    for _ in range(3):
        student = randn(1, 6).expand(4, 6).clone().requires_grad_()
        found = term(loss, student, randn(1, 9, seed=1).expand(4, 9))
        found.backward()
        assert found.abs() < 1e-12
        assert student.grad is not None
        assert student.grad.abs().max() < 1e-4
    assert warnings(caplog) == [
        f"{loss.name}: a batch that holds one example several times has no relations to learn. It takes "
        f"{kind.fewest} different examples or more."
    ]


def test_a_usual_batch_is_no_reason_to_warn_and_is_looked_at_a_few_times_only(caplog):
    loss = ready(RELATIONS[0])
    for _ in range(LOOKED_AT):
        term(loss, randn(3, 6), randn(3, 9, seed=1))
    with caplog.at_level(logging.WARNING):
        term(loss, randn(1, 6), randn(1, 9, seed=1))
    assert warnings(caplog) == []


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_huge_embeddings_stay_finite(kind, dtype):
    loss = ready(kind)
    student = (randn(4, 6).sign() * 1e4).to(dtype).requires_grad_()
    found = term(loss, student, (randn(4, 9, seed=1).sign() * 1e4).to(dtype))
    found.backward()
    assert found.dtype is torch.float32
    assert found.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@EVERY
def test_an_unknown_pooling_is_refused(kind):
    refuses(kind(pooling="max"), f'{kind.__name__}: pooling=\'max\' is not "first", "last" or "mean".')


def test_unit_rows_and_rows_without_a_direction():
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-3e-6, 4e-6]], requires_grad=True)
    found = unit(rows)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [-0.6, 0.8]]))
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert (gradient[1] == 0).all()
    assert gradient.isfinite().all()


def test_relative_distances_by_hand():
    """0, 1, 3 and 3 again on a line: of the distances that are not 0 the mean is (1 + 3 + 3 + 2 + 2) / 5."""
    rows = torch.tensor([[0.0], [1.0], [3.0], [3.0000002]])
    line = torch.tensor([0.0, 1.0, 3.0, 3.0])
    torch.testing.assert_close(relative_distances(rows), (line[:, None] - line).abs() / 2.2)
