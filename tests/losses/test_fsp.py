import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import FSP, fsp, states
from hf_distill.signals import EMBEDDINGS, hidden
from hf_distill.tasks import Task

from .contract import HALVES, STUDENT, TEACHER, LossContract, PositionContract, memory, randn, refuses


def of_stacked(student, teacher):
    """Pairs as one tensor each, (batch, 2, positions, dim)."""
    return fsp((student[:, 0], student[:, 1]), (teacher[:, 0], teacher[:, 1]))


class TestFunction(PositionContract):
    function = staticmethod(of_stacked)
    shape, positions = (3, 2, 4, 7), (3,)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_huge_values_stay_finite(self, dtype):
        """The gradient grows with the third power of the states: of 1e4 it is above what float16 holds."""
        student, teacher = ((randn(*self.shape, seed=seed).sign() * 1e4).to(dtype) for seed in (1, 2))
        leaf = student.float().requires_grad_()
        found = self.function(leaf, teacher)
        found.sum().backward()
        assert found.isfinite().all()
        assert leaf.grad.isfinite().all()
        torch.testing.assert_close(self.function(student, teacher), found)


class TestInBlocks(TestFunction):
    @pytest.fixture(autouse=True)
    def _a_row_of_the_matrices_at_a_time(self, monkeypatch):
        monkeypatch.setattr(states, "BLOCK_ELEMENTS", 1)


class TestLoss(LossContract):
    def make(self) -> FSP:
        return FSP({"embeddings": "embeddings", 0: 1, -1: -1})


class TestDefault(LossContract):
    def make(self) -> FSP:
        return FSP()


class TestProjected(LossContract):
    def make(self) -> FSP:
        return FSP(projection="linear")


def flow(first: list[list[float]], second: list[list[float]]) -> list[list[float]]:
    """The matrix of one example, from the positions that count."""
    rows, columns = range(len(first[0])), range(len(second[0]))
    sums = [[sum(a[i] * b[j] for a, b in zip(first, second, strict=True)) for j in columns] for i in rows]
    return [[entry / len(first) for entry in row] for row in sums]


def naive(student_pair, teacher_pair) -> float:
    mine, theirs = flow(*student_pair), flow(*teacher_pair)
    squares = [(mine[i][j] - theirs[i][j]) ** 2 for i in range(len(mine)) for j in range(len(mine[0]))]
    return sum(squares) / len(squares)


def drawn(*widths, tokens=5, seed=0):
    return tuple(randn(3, tokens, width, seed=seed + i) for i, width in enumerate(widths))


def lists(pair, row, mask):
    return [each[row][mask[row].bool()].tolist() for each in pair]


@pytest.mark.parametrize("widths", [(4, 4), (2, 6), (1, 3)])
def test_each_example_is_what_loops_over_its_positions_give(widths):
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1, 0]])
    student, teacher = drawn(*widths), drawn(*widths, seed=10)
    expected = torch.tensor([naive(lists(student, row, mask), lists(teacher, row, mask)) for row in range(3)])
    torch.testing.assert_close(fsp(student, teacher, mask), expected)
    every = torch.ones(3, 5)
    expected = torch.tensor([naive(lists(student, row, every), lists(teacher, row, every)) for row in range(3)])
    torch.testing.assert_close(fsp(student, teacher), expected)


def test_by_hand():
    """G of the student is (1 3 + 2 4) / 2 = 5.5 and (1 0 + 2 2) / 2 = 2, of the teacher 1 and 1."""
    student = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0, 0.0], [4.0, 2.0]]])
    teacher = torch.ones(1, 2, 1), torch.ones(1, 2, 2)
    torch.testing.assert_close(fsp(student, teacher), torch.tensor([(4.5**2 + 1.0) / 2]))


def test_without_a_mask_the_teacher_may_have_other_positions():
    student, teacher = drawn(4, 4), drawn(4, 4, seed=10)
    twice = tuple(torch.cat([each, each], dim=1) for each in teacher)
    torch.testing.assert_close(fsp(student, twice), fsp(student, teacher))


def test_nothing_of_what_is_masked_is_seen():
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 1]]).bool()
    student, teacher = drawn(4, 4), drawn(4, 4, seed=10)
    leaves = [torch.where(mask[..., None], each, float("nan")).requires_grad_() for each in student]
    found = fsp(tuple(leaves), tuple(torch.where(mask[..., None], each, float("inf")) for each in teacher), mask)
    found.sum().backward()
    torch.testing.assert_close(found[0], fsp(*[[each[:1, :2] for each in side] for side in (student, teacher)])[0])
    assert found[1] == 0
    for leaf in leaves:
        assert leaf.grad[mask].abs().min() > 0
        assert leaf.grad[~mask].abs().max() == 0


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_the_order_of_positions_is_free_and_both_sides_count_alike(seed):
    student, teacher = drawn(4, 3, seed=seed), drawn(4, 3, seed=seed + 5000)
    expected = fsp(student, teacher)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(fsp([each[:, order] for each in student], teacher), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fsp(teacher, student), expected)
    torch.testing.assert_close(fsp(student[::-1], teacher[::-1]), expected)  # the transposes


def test_no_whole_matrix_is_made_or_kept_beyond_a_block(monkeypatch):
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", 3 * 64 * 2)
    student, teacher = drawn(64, 64), drawn(64, 64, seed=10)
    for each in student:
        each.requires_grad_()
    largest, kept = memory(lambda *pairs: fsp(*pairs).sum(), student, teacher)
    assert largest <= 3 * 5 * 64
    assert kept < 3 * 5 * 64 * 10 < 3 * 64 * 64


def test_neighbours_in_the_map_are_related_each_through_its_projection():
    wide = replace(TEACHER, width=9)
    loss = FSP({1: 3, "embeddings": 0, 0: 1})
    loss.setup(STUDENT, wide, Task.SINGLE_LABEL)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SINGLE_LABEL)
    student = {hidden(layer): randn(2, 3, 6, seed=i) for i, layer in enumerate((1, EMBEDDINGS, 0))}
    teacher = {hidden(layer): randn(2, 3, 9, seed=10 + i) for i, layer in enumerate((3, 0, 1))}
    mine = [projection(each[:1, :2]) for projection, each in zip(loss.projections, student.values(), strict=True)]
    theirs = [each[:1, :2] for each in teacher.values()]
    expected = fsp(mine[:2], theirs[:2]) + fsp(mine[1:], theirs[1:])
    found = loss(student, teacher, batch)
    torch.testing.assert_close(found, expected.sum() / 2)  # two examples, one of them without tokens
    found.backward()
    assert all(projection.weight.grad.abs().max() > 0 for projection in loss.projections)


def test_what_does_not_fit_is_refused():
    message = (
        "FSP relates a matched layer to the next, and layers='last' matches one. Pass a map of two or more, such as "
        '{"embeddings": "embeddings", -1: -1}.'
    )
    refuses(FSP("last"), message)
    message = message.replace("'last'", "'uniform'")
    refuses(FSP(), message, student=replace(STUDENT, layers=1))
    message = (
        "fsp: the student's pair is 4 and 3 wide, the teacher's 4 and 5. "
        "Project the student's states into the teacher's widths first."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fsp(drawn(4, 3), drawn(4, 5))
    with pytest.raises(ValueError, match=r"^FSP compares nothing; call its setup first\.$"):
        FSP()({}, {}, Batch({"input_ids": torch.ones(2, 3)}, Task.TOKENS))


def test_its_name():
    assert FSP().name == "fsp"
