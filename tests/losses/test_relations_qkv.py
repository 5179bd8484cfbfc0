import math
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.batch import Batch
from hf_distill.losses import MiniLM, MiniLMv2, relation_kl, states
from hf_distill.relations import Relations, triangle
from hf_distill.signals import key, query, value
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, LossContract, PositionContract, memory, randn, refuses


class TestFunction(PositionContract):
    function = staticmethod(lambda student, teacher: relation_kl(student, teacher, heads=4))
    shape, positions = (3, 2, 5, 6), (3, 5)


class TestInBlocks(TestFunction):
    @pytest.fixture(autouse=True)
    def _one_head_at_a_time(self, monkeypatch):
        monkeypatch.setattr(states, "BLOCK_ELEMENTS", 1)


class TestLoss(LossContract):
    def make(self) -> MiniLMv2:
        return MiniLMv2()


class TestOtherHeads(LossContract):
    def make(self) -> MiniLMv2:
        return MiniLMv2({0: 1, 1: 2}, heads=3, relations=("value", "key"))


class TestCausal(LossContract):
    task = Task.CAUSAL_LM

    def make(self) -> MiniLMv2:
        return MiniLMv2(heads=1)


def relations(states: torch.Tensor, heads: int, seen: list[int], token: int) -> list[list[float]]:
    """How alike a token of one example is to those it is compared with, one distribution a relation head."""
    own, _, width = states.shape
    size = own * width // heads
    joined = [[float(states[head, t, i]) for head in range(own) for i in range(width)] for t in range(states.shape[1])]
    found = []
    for head in range(heads):
        part = [vector[head * size : (head + 1) * size] for vector in joined]
        scores = [sum(a * b for a, b in zip(part[token], part[t], strict=True)) / math.sqrt(size) for t in seen]
        powers = [math.exp(score) for score in scores]
        found.append([power / sum(powers) for power in powers])
    return found


def naive(student: torch.Tensor, teacher: torch.Tensor, heads: int, seen: list[int], token: int) -> float:
    total = 0.0
    mine, theirs = (relations(side, heads, seen, token) for side in (student, teacher))
    for q, p in zip(mine, theirs, strict=True):
        total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return total / heads


@pytest.mark.parametrize("heads", [1, 2, 3, 6])
def test_each_token_is_what_loops_give(heads):
    """Heads 2 x 3 of the student and 3 x 4 of the teacher, split again."""
    student, teacher = randn(2, 2, 4, 3), randn(2, 3, 4, 4, seed=1)
    every = list(range(4))
    expected = [[naive(student[row], teacher[row], heads, every, t) for t in every] for row in range(2)]
    torch.testing.assert_close(relation_kl(student, teacher, heads), torch.tensor(expected))


@pytest.mark.parametrize("block", [2**23, 1])
@pytest.mark.parametrize("masked", [True, False])
def test_products_of_the_teacher_are_as_good_as_its_states(monkeypatch, masked, block):
    """Also where padding holds anything, and head by head."""
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", block)
    student, teacher = randn(2, 2, 4, 3).requires_grad_(), randn(2, 3, 4, 4, seed=1)
    mask = torch.ones(2, 4, 4).tril().bool() if masked else None
    if mask is not None:
        mask[1, 3] = mask[1, :, 3] = False
    expected = relation_kl(student, teacher, 3, mask)
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    packed = triangle(teacher, 3)
    if mask is not None:
        packed[1, :, 6:] = 1e20  # the pairs of the last token
    found = relation_kl(student, Relations(packed), 3, mask)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), student)[0], gradient)


def test_products_in_other_heads_or_of_other_tokens_are_refused():
    student, packed = randn(2, 2, 4, 3), Relations(triangle(randn(2, 3, 4, 4), 3))
    with pytest.raises(ValueError, match=r"^relation_kl: the teacher's products are in 3 heads, not in 2\.$"):
        relation_kl(student, packed, 2)
    with pytest.raises(ValueError, match="the student has 3 positions and the teacher 4"):
        relation_kl(student[:, :, :3], packed, 3)


@pytest.mark.parametrize("kind", [MiniLM, MiniLMv2])
def test_a_subclass_that_looks_at_more_gets_states(kind):
    class Other(kind):
        def compare(self, student, teacher, batch):
            return (student - teacher).square().mean()

    class Named(kind):
        name = "renamed"

    teacher = replace(TEACHER, key_heads=2, head_width=3)
    for loss, heads in ((kind(), 2), (Named(), 2), (Other(), None)):
        loss.setup(replace(STUDENT, key_heads=2, head_width=3), teacher, Task.TOKENS)
        assert loss.relations_compared == heads


def test_only_what_the_mask_leaves_is_compared():
    """The first example is causal, of the second the first and third tokens count."""
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0] = torch.ones(4, 4).tril()
    mask[1, ::2, ::2] = True
    student, teacher = randn(2, 2, 4, 3), randn(2, 1, 4, 6, seed=1)
    expected = torch.zeros(2, 4)
    for row in range(2):
        for token in range(4):
            seen = [t for t in range(4) if mask[row, token, t]]
            if seen:
                expected[row, token] = naive(student[row], teacher[row], 3, seen, token)
    student[1, :, 1::2] = float("nan")
    teacher[1, :, 1::2] = float("inf")
    student.requires_grad_()
    found = relation_kl(student, teacher, 3, mask)
    torch.testing.assert_close(found, expected)
    assert found[1, 1::2].tolist() == [0, 0]
    found.sum().backward()
    assert student.grad.isfinite().all()
    assert student.grad[1, :, 1::2].abs().max() == 0
    assert relation_kl(student, teacher, 3, mask.long()).equal(found)


def test_a_token_may_be_compared_without_comparing_and_the_other_way_round():
    student, teacher = randn(1, 2, 4, 3), randn(1, 2, 4, 3, seed=1)
    mask = torch.ones(1, 4, 4, dtype=torch.bool)
    mask[0, 1] = False  # seen by all, sees none
    mask[0, :, 2] = False  # sees, seen by none
    expected = [naive(student[0], teacher[0], 2, [0, 1, 3], token) if token != 1 else 0.0 for token in range(4)]
    torch.testing.assert_close(relation_kl(student, teacher, 2, mask), torch.tensor([expected]))


def test_by_hand():
    """Two orthogonal vectors of length 2 in one head of width 4: scores 4 / 2 and 0, against equal ones."""
    student = torch.tensor([[[[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0]]]])
    teacher = torch.ones(1, 1, 2, 4)
    share = math.exp(2) / (math.exp(2) + 1)
    expected = 0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share))
    torch.testing.assert_close(relation_kl(student, teacher, 1), torch.full((1, 2), expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_that_are_masked_are_zero_at_any_size(dtype):
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    student = (randn(1, 2, 3, 4).sign() * 1e4).to(dtype).requires_grad_()
    found = relation_kl(student, (randn(1, 2, 3, 4, seed=1).sign() * 1e4).to(dtype), 2, mask)
    found.sum().backward()
    assert found.tolist() == [[0, 0, 0]]
    assert student.grad is not None
    assert student.grad.abs().max() == 0


@given(seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_rotations_inside_a_head_and_the_order_of_tokens_are_free(seed):
    student, teacher = randn(2, 2, 5, 3, seed=seed), randn(2, 2, 5, 4, seed=seed + 5000)
    expected = relation_kl(student, teacher, 2)
    rotation, _ = torch.linalg.qr(randn(3, 3, seed=seed + 9000))
    torch.testing.assert_close(relation_kl(student @ rotation, teacher, 2), expected, rtol=1e-4, atol=1e-5)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(relation_kl(student[:, :, order], teacher[:, :, order], 2), expected[:, order])
    torch.testing.assert_close(relation_kl(student.flip(1), teacher.flip(1), 2), expected)


@pytest.mark.parametrize("elements", [1, 2 * 64 * 5])
def test_blocks_of_heads_change_nothing(monkeypatch, elements):
    student, teacher = randn(2, 4, 8, 6).requires_grad_(), randn(2, 2, 8, 12, seed=1)
    mask = torch.ones(2, 8, 8).tril().bool()
    expected = relation_kl(student, teacher, 12, mask)
    (gradient,) = torch.autograd.grad(expected.sum(), student)
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", elements)
    found = relation_kl(student, teacher, 12, mask)
    torch.testing.assert_close((found, torch.autograd.grad(found.sum(), student)[0]), (expected, gradient))


def test_no_more_relations_than_those_of_a_block_are_made_or_kept(monkeypatch):
    """16 heads of 32 x 32, two at a time."""
    monkeypatch.setattr(states, "BLOCK_ELEMENTS", 2 * 32 * 32)
    student, teacher = randn(1, 16, 32, 2).requires_grad_(), randn(1, 8, 32, 4, seed=1)
    largest, kept = memory(lambda *sides: relation_kl(*sides, heads=16).sum(), student, teacher)
    assert largest <= 2 * 32 * 32
    assert kept < 4 * 32 * 32


def test_it_compares_relations_of_tokens_that_count():
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    student = {kind(1): randn(2, 2, 3, 3, seed=i) for i, kind in enumerate((query, key, value))}
    teacher = {kind(3): randn(2, 3, 3, 4, seed=10 + i) for i, kind in enumerate((query, key, value))}
    for task in (Task.SINGLE_LABEL, Task.CAUSAL_LM):
        loss, total = MiniLMv2(heads=6), 0.0
        loss.setup(replace(STUDENT, head_width=3, key_heads=2), replace(TEACHER, width=12), task)
        assert loss.pairs() == [(query(1), query(3)), (key(1), key(3)), (value(1), value(3))]
        for mine, theirs in loss.pairs():
            for row, length in enumerate((3, 2)):
                for token in range(length):
                    seen = list(range(token + 1 if task is Task.CAUSAL_LM else length))
                    total += naive(student[mine][row], teacher[theirs][row], 6, seen, token) / 5
        batch = Batch({"input_ids": mask, "attention_mask": mask}, task)
        torch.testing.assert_close(loss(student, teacher, batch), torch.tensor(total))


def test_patches_of_images_are_tokens():
    loss = MiniLMv2(relations=["value"])
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    mine, theirs = randn(2, 2, 3, 3), randn(2, 2, 3, 3, seed=1)
    found = loss(
        {value(1): mine}, {value(3): theirs}, Batch({"pixel_values": torch.zeros(2, 1, 2)}, Task.SINGLE_LABEL)
    )
    torch.testing.assert_close(found, relation_kl(mine, theirs, 2).mean())


@pytest.mark.parametrize(
    ("student", "teacher", "relations", "expected"),
    [
        ((12, 12, 32), (16, 16, 64), None, 16),  # widths 384 and 1024
        ((12, 12, 64), (12, 12, 64), None, 12),
        ((6, 6, 64), (12, 12, 64), None, 12),
        ((12, 12, 26), (12, 12, 64), None, 12),  # 312 of TinyBERT: 24 divides both
        ((5, 5, 6), (4, 4, 8), None, 2),  # 30 and 32
        ((4, 4, 9), (5, 5, 7), None, 1),  # 36 and 35
        ((8, 2, 16), (32, 8, 64), None, 32),  # keys and values are 32 and 512 wide
        ((8, 1, 12), (32, 8, 64), None, 4),  # 96 and 12 against 2048 and 512
        ((8, 1, 12), (32, 8, 64), ("query",), 32),
        ((8, 0, 0), (32, 0, 0), None, 32),  # not known: the function checks
    ],
)
def test_heads_are_the_teachers_where_they_divide(student, teacher, relations, expected):
    loss = MiniLMv2() if relations is None else MiniLMv2(relations=relations)
    shapes = []
    for shape, (heads, key_heads, width) in ((STUDENT, student), (TEACHER, teacher)):
        shapes.append(replace(shape, heads=heads, key_heads=key_heads, head_width=width))
    loss.setup(*shapes, Task.MASKED_LM)
    assert loss.relation_heads == expected
    assert loss.heads is None


def test_what_does_not_fit_is_refused():
    shapes = {
        "student": replace(STUDENT, heads=8, key_heads=2, head_width=16),
        "teacher": replace(TEACHER, heads=12, key_heads=12, head_width=64),
    }
    message = (
        "MiniLMv2: the student's query is 128 wide, which does not make 48 relation heads. "
        "Pass a divisor of 32, or heads=None to have one chosen."
    )
    refuses(MiniLMv2(heads=48), message, **shapes)
    refuses(MiniLMv2(heads=64), message.replace("query is 128", "key is 32").replace("48", "64"), **shapes)
    refuses(MiniLMv2(heads=0), message.replace("48", "0"), **shapes)
    for wrong in ("query", (), ("query", "query"), ("key", "hidden")):
        known = '"query", "key" and "value", each at most once'
        refuses(MiniLMv2(relations=wrong), f"MiniLMv2: relations={wrong!r} must be some of {known}.")
    message = (
        "relation_kl: the teacher is 12 wide (3 heads of 4), which does not make 5 relation heads. "
        "Pass a number of heads that divides the widths of both."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        relation_kl(randn(1, 2, 3, 5), randn(1, 3, 3, 4), 5)
    with pytest.raises(
        ValueError, match=r"^relation_kl: the student is 10 wide \(2 heads of 5\), which does not make 0 "
    ):
        relation_kl(randn(1, 2, 3, 5), randn(1, 2, 3, 5), 0)
    with pytest.raises(ValueError, match=r"^relation_kl: the student has 3 positions and the teacher 4, and they are"):
        relation_kl(randn(1, 2, 3, 5), randn(1, 2, 4, 5), 5)


def test_its_name():
    assert MiniLMv2().name == "mini_lmv2"
