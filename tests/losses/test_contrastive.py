import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses import ContrastiveRepresentation, contrastive_representation
from hf_distill.signals import pooled
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, BatchContract, LossContract, memory, randn, refuses

WIDE = replace(TEACHER, width=9)
SEEN = pooled("first")


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def naive(student, teacher, negatives=(), temperature=0.07) -> float:
    total, n = 0.0, len(student)
    for i in range(n):
        right = cosine(student[i], teacher[i]) / temperature
        others = [j for j in range(n) if j == i or teacher[j] != teacher[i]]  # a duplicate is no negative
        among = sum(math.exp(cosine(student[i], teacher[j]) / temperature) for j in others)
        among += sum(math.exp(cosine(student[i], each) / temperature) for each in negatives)
        back = sum(math.exp(cosine(student[j], teacher[i]) / temperature) for j in others)
        total += (math.log(among) - right + math.log(back) - right) / 2
    return total / n


def with_negatives(student: Tensor, teacher: Tensor) -> Tensor:
    return contrastive_representation(student, teacher, randn(6, 4, seed=50))


class TestInBatch(BatchContract):
    function = staticmethod(contrastive_representation)
    shape = (5, 4)

    def test_it_is_zero_where_both_agree(self) -> None:
        """It is not: the others' cosines are never minus infinity. It is less than where they do not agree."""
        student, teacher = self.draw()
        assert 0 < self.function(student, student) < self.function(student, teacher)

    def test_the_student_gets_a_gradient_and_the_teacher_none(self) -> None:
        """Both do: the teacher's side has a projection that learns. The class detaches what enters that one."""
        student, teacher = (side.requires_grad_() for side in self.draw())
        self.function(student, teacher).backward()
        for side in (student, teacher):
            assert side.grad is not None
            assert side.grad.isfinite().all()
            assert side.grad.abs().max() > 0

    def test_widths_may_differ(self) -> None:
        """They may not: both are projected into one space."""
        student, teacher = self.draw()
        with pytest.raises(RuntimeError):
            self.function(student[:, :2], teacher)


class TestWithNegatives(TestInBatch):
    function = staticmethod(with_negatives)

    def test_one_row_has_no_relations(self) -> None:
        """It has: negatives to be told from."""
        student, teacher = self.draw()
        assert self.function(student[:1], teacher[:1]) > 0
        assert self.finite_gradient(student[:1], teacher[:1]).abs().max() > 0


class TestLoss(LossContract):
    def make(self) -> ContrastiveRepresentation:
        return ContrastiveRepresentation(dim=4)


class TestFullQueue(LossContract):
    def make(self) -> ContrastiveRepresentation:
        return ContrastiveRepresentation(dim=4, queue=3, pooling="mean")

    def ready(self) -> ContrastiveRepresentation:
        """Evaluating, so that the queue is the same each time."""
        loss = super().ready()
        loss.memory.copy_(randn(3, 4, seed=9))
        return loss.eval()


def ready(queue: int = 0, dim: int = 4) -> ContrastiveRepresentation:
    torch.manual_seed(0)
    loss = ContrastiveRepresentation(dim=dim, queue=queue)
    loss.setup(STUDENT, WIDE, Task.SINGLE_LABEL)
    return loss


def step(loss: ContrastiveRepresentation, seed: int = 0, rows: int = 3) -> Tensor:
    batch = Batch({"x": torch.ones(rows, 2)}, Task.SINGLE_LABEL)
    return loss({SEEN: randn(rows, 6, seed=seed)}, {SEEN: randn(rows, 9, seed=seed + 100)}, batch)


def unit_rows(loss: ContrastiveRepresentation, seed: int = 0, rows: int = 3) -> Tensor:
    """What the queue should hold of that step."""
    return torch.nn.functional.normalize(loss.teacher_head(randn(rows, 9, seed=seed + 100)), dim=-1).detach()


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("negatives", [0, 4])
def test_it_is_what_loops_over_the_examples_give(negatives, temperature):
    student, teacher, more = randn(6, 3), randn(6, 3, seed=1), randn(negatives, 3, seed=2)
    student[4], teacher[5] = student[2], teacher[0]
    expected = naive(student.tolist(), teacher.tolist(), more.tolist(), temperature)
    found = contrastive_representation(student, teacher, more, temperature)
    torch.testing.assert_close(found, torch.tensor(expected))
    if not negatives:
        torch.testing.assert_close(found, contrastive_representation(student, teacher, None, temperature))


def test_by_hand():
    """All at right angles, temperature 1/2: one of three, and of five with two negatives, at e^2 against e^0."""
    axes = torch.eye(5)
    three, five = (math.log(1 + others * math.exp(-2)) for others in (2, 4))
    found = contrastive_representation(axes[:3] * 7, axes[:3], None, 0.5)
    torch.testing.assert_close(found, torch.tensor(three))
    found = contrastive_representation(axes[:3], axes[:3], axes[3:] * 9, 0.5)
    torch.testing.assert_close(found, torch.tensor((three + five) / 2))


def test_rows_without_a_direction_take_no_part():
    student, teacher, more = randn(5, 4), randn(5, 4, seed=1), randn(3, 4, seed=2)
    student[1], teacher[3], more[0] = 0.0, 0.0, 0.0
    kept = [0, 2, 4]
    expected = contrastive_representation(student[kept], teacher[kept], more[1:])
    student.requires_grad_()
    found = contrastive_representation(student, teacher, more)
    found.backward()
    torch.testing.assert_close(found, expected)
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[[1, 3]].abs().max() == 0


def test_negatives_get_no_gradient():
    student, negatives = randn(3, 4).requires_grad_(), randn(3, 4, seed=2).requires_grad_()
    contrastive_representation(student, randn(3, 4, seed=1), negatives).backward()
    assert negatives.grad is None


@given(seed=st.integers(0, 1000), order=st.permutations(range(5)))
@settings(deadline=None, max_examples=40)
def test_lengths_and_a_common_rotation_are_free_and_both_sides_count_alike(seed, order):
    student, teacher, more = (randn(5, 4, seed=seed + place) for place in (0, 5000, 8000))
    rotation, _ = torch.linalg.qr(randn(4, 4, seed=seed + 9000))
    moved = (student @ rotation * randn(5, 1, seed=seed + 7000).exp())[order], (teacher @ rotation)[order]
    plain = contrastive_representation(student, teacher, more)
    found = contrastive_representation(*moved, more.flip(0) @ rotation * 3)
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
    in_batch = contrastive_representation(student, teacher)
    torch.testing.assert_close(contrastive_representation(teacher, student), in_batch)
    assert in_batch <= plain  # more to be told from


def test_nothing_of_the_size_batch_squared_times_width_is_made_or_kept():
    inputs = (randn(48, 64).requires_grad_(), randn(48, 64, seed=1), randn(96, 64, seed=2))
    largest, kept = memory(contrastive_representation, *inputs)
    assert largest <= 48 * (48 + 96)
    assert kept < 48 * (48 + 96) * 8


def test_both_heads_learn_and_the_teacher_does_not():
    loss = ready(queue=5)
    step(loss)
    student, teacher = randn(3, 6, seed=3).requires_grad_(), randn(3, 9, seed=4).requires_grad_()
    loss.relate(student, teacher).backward()
    assert teacher.grad is None
    learning = dict(loss.named_parameters())
    assert {name: tuple(each.shape) for name, each in learning.items()} == {
        "student_head.weight": (4, 6),
        "student_head.bias": (4,),
        "teacher_head.weight": (4, 9),
        "teacher_head.bias": (4,),
    }
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in (student, *learning.values()))


def test_it_is_the_function_of_the_projected_rows():
    loss = ready()
    student, teacher = randn(3, 6), randn(3, 9, seed=100)
    expected = contrastive_representation(loss.student_head(student), loss.teacher_head(teacher), None, 0.07)
    torch.testing.assert_close(step(loss), expected)
    loss.temperature = 0.5
    expected = contrastive_representation(loss.student_head(student), loss.teacher_head(teacher), None, 0.5)
    torch.testing.assert_close(step(loss), expected)


def test_an_example_without_tokens_takes_no_part_in_spite_of_the_bias():
    loss = ready()
    student, teacher = randn(4, 6), randn(4, 9, seed=100)
    expected = loss.relate(student[1:], teacher[1:])
    student[0], teacher[0] = 0.0, 0.0
    torch.testing.assert_close(loss.relate(student, teacher), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_go_through_the_heads_in_their_own(dtype):
    loss = ready(queue=4)
    student, teacher = randn(3, 6).to(dtype), randn(3, 9, seed=1).to(dtype)
    assert loss.relate(student, teacher).dtype is torch.float32
    assert loss.memory.dtype is torch.float32


def test_the_queue_is_filled_after_the_loss_and_the_oldest_leave_first():
    loss, plain = ready(queue=5), ready()
    assert loss.memory.shape == (5, 4)
    torch.testing.assert_close(step(loss, 0), step(plain, 0))  # empty slots take no part
    first, second = unit_rows(loss, 0), unit_rows(loss, 1)
    torch.testing.assert_close(loss.memory, torch.cat([first, torch.zeros(2, 4)]))
    assert loss.enqueued == 3
    sides = loss.student_head(randn(3, 6, seed=1)), loss.teacher_head(randn(3, 9, seed=101))
    torch.testing.assert_close(step(loss, 1), contrastive_representation(*sides, first))
    torch.testing.assert_close(loss.memory, torch.stack([second[2], first[1], first[2], second[0], second[1]]))
    assert loss.enqueued == 6


def test_a_batch_larger_than_the_queue_leaves_its_last_rows():
    loss = ready(queue=2)
    step(loss, rows=5)
    torch.testing.assert_close(loss.memory, unit_rows(loss, rows=5)[-2:])


def test_evaluation_reads_the_queue_and_leaves_it():
    loss = ready(queue=5)
    step(loss)
    before = loss.memory.clone()
    with_queue = step(loss.eval(), 1)
    torch.testing.assert_close((loss.memory, int(loss.enqueued)), (before, 3))
    assert with_queue > step(ready().eval(), 1)


def test_backward_after_the_queue_moved_on():
    loss = ready(queue=4)
    step(loss)
    sum(step(loss, seed) for seed in (1, 2)).backward()
    assert all(each.grad.isfinite().all() for each in loss.parameters())


def test_the_queue_is_kept_in_checkpoints():
    loss, again = ready(queue=5), ContrastiveRepresentation(dim=4, queue=5)
    for seed in (0, 1):
        step(loss, seed)
    assert {"memory", "enqueued"} < set(loss.state_dict())
    again.setup(STUDENT, WIDE, Task.SINGLE_LABEL)
    again.load_state_dict(copy.deepcopy(loss.state_dict()))
    for seed in (2, 3):
        torch.testing.assert_close(step(again, seed), step(loss, seed))
    torch.testing.assert_close(again.memory, loss.memory)
    assert set(ready().state_dict()).isdisjoint({"memory", "enqueued"})


def test_setup_again_starts_again():
    loss = ready(queue=5)
    step(loss)
    loss.setup(STUDENT, TEACHER, Task.SINGLE_LABEL)
    assert loss.memory.abs().max() == 0
    assert loss.enqueued == 0
    assert loss.teacher_head.weight.shape == (4, 6)


def test_a_single_example_with_a_queue_learns_and_is_no_reason_to_warn(caplog):
    loss = ready(queue=5)
    assert step(loss, 0, rows=1) == 0
    assert step(loss, 1, rows=1) > 0
    assert not caplog.records


def test_what_does_not_fit_is_refused():
    who = "ContrastiveRepresentation"
    refuses(ContrastiveRepresentation(dim=0), f"{who}: dim is 0; it must be at least 1.")
    refuses(ContrastiveRepresentation(temperature=0), f"{who}: temperature is 0; it must be above 0.")
    refuses(ContrastiveRepresentation(queue=-1), f"{who}: queue is -1; it must be at least 0.")
    message = f"{who} needs the width of a teacher model, and this teacher is not one. Leave it out."
    refuses(ContrastiveRepresentation(), message, teacher=None)


def test_its_name():
    assert ContrastiveRepresentation().name == "contrastive_representation"
