"""What every loss promises: a test file subclasses the contract that fits, says what is compared, and adds values.

`PositionContract` is for functions that give one value a position, `BatchContract` for those that give one a batch,
`LossContract` for the classes, `LabelledExampleContract` for those that ask whole examples for labels.
"""

import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_distill.batch import Batch
from hf_distill.losses import Loss
from hf_distill.signals import LOGITS, ModelShape, Signal
from hf_distill.tasks import Task

STUDENT = ModelShape("SmallModel", layers=2, width=6, heads=2, classes=5)
TEACHER = ModelShape("LargeModel", layers=4, width=6, heads=2, classes=5)
HALVES = (torch.float16, torch.bfloat16)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class FunctionContract:
    function: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    shape: ClassVar[tuple[int, ...]]
    zero_if_equal = 1e-6

    def draw(self, seed: int = 0) -> tuple[Tensor, Tensor]:
        return self.valid(randn(*self.shape, seed=seed)), self.valid(randn(*self.shape, seed=seed + 100))

    def valid(self, values: Tensor) -> Tensor:
        """Turns any values into what the function takes: logits as they are, probabilities by a softmax."""
        return values

    def test_it_is_zero_where_both_agree(self) -> None:
        student, _ = self.draw()
        assert self.function(student, student.clone()).abs().max() <= self.zero_if_equal

    def test_it_is_never_negative(self) -> None:
        for seed in range(20):
            assert self.function(*self.draw(seed)).min() >= 0

    def test_the_student_gets_a_gradient_and_the_teacher_none(self) -> None:
        student, teacher = (side.requires_grad_() for side in self.draw())
        self.function(student, teacher).sum().backward()
        assert teacher.grad is None
        assert student.grad is not None
        assert student.grad.isfinite().all()
        assert student.grad.abs().max() > 0

    @pytest.mark.parametrize("dtype", HALVES)
    def test_half_precision_inputs_are_computed_in_float32(self, dtype: torch.dtype) -> None:
        student, teacher = (side.to(dtype) for side in self.draw())
        found = self.function(student, teacher)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, self.function(student.float(), teacher.float()))
        torch.testing.assert_close(found, self.function(*self.draw()), rtol=0.05, atol=0.05)

    def test_autocast_changes_nothing(self) -> None:
        plain = self.function(*self.draw())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(self.function(*self.draw()), plain)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_huge_values_stay_finite(self, dtype: torch.dtype) -> None:
        signs = [randn(*self.shape, seed=seed).sign() * 1e4 for seed in (1, 2)]
        for teacher_sign in (1, -1):
            student = self.valid(signs[0]).to(dtype).requires_grad_()
            found = self.function(student, self.valid(signs[1] * teacher_sign).to(dtype))
            found.sum().backward()
            assert found.isfinite().all()
            assert student.grad is not None
            assert student.grad.isfinite().all()


class PositionContract(FunctionContract):
    positions: ClassVar[tuple[int, ...]]  # the shape of the result

    def test_the_shape_is_one_value_a_position(self) -> None:
        assert self.function(*self.draw()).shape == self.positions

    def test_a_position_does_not_see_the_others(self) -> None:
        student, teacher = self.draw()
        alone = self.function(student[1:2], teacher[1:2])
        torch.testing.assert_close(alone, self.function(student, teacher)[1:2])


class BatchContract(FunctionContract):
    """For functions of a whole batch of rows, (batch, dim) twice in, a scalar out."""

    def finite_gradient(self, student: Tensor, teacher: Tensor) -> Tensor:
        student = student.clone().requires_grad_()
        found = self.function(student, teacher)
        found.backward()
        assert found.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()
        return student.grad

    def test_it_is_a_scalar(self) -> None:
        assert self.function(*self.draw()).shape == ()

    def test_one_row_has_no_relations(self) -> None:
        student, teacher = self.draw()
        assert self.function(student[:1], teacher[:1]) == 0
        assert self.finite_gradient(student[:1], teacher[:1]).abs().max() == 0

    def test_identical_rows_have_a_finite_gradient(self) -> None:
        student, teacher = self.draw()
        for rows in (student[:1].expand_as(student), torch.zeros_like(student)):
            self.finite_gradient(rows, teacher)
            self.finite_gradient(student, rows)
            self.finite_gradient(rows, rows)

    def test_duplicates_of_the_student_alone_do_not_make_the_gradient_explode(self) -> None:
        student, teacher = self.draw()
        usual = self.finite_gradient(student, teacher).abs().max()
        for duplicate in (
            student[0].clone(),
            torch.nextafter(student[0], torch.tensor(9.0)),
        ):  # the same but for rounding
            student[1] = duplicate
            assert self.finite_gradient(student, teacher).abs().max() < 10 * usual

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        student, teacher = self.draw()
        order = torch.randperm(len(student), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(self.function(student[order], teacher[order]), self.function(student, teacher))

    def test_widths_may_differ(self) -> None:
        student, teacher = self.draw()
        assert self.function(student[:, :2], teacher).isfinite()


class LossContract:
    """For the classes: what padding holds must not matter, whether it is on the left, on the right, or everywhere."""

    task = Task.TOKENS
    labelled = True

    def make(self) -> Loss:
        raise NotImplementedError

    def ready(self) -> Loss:
        torch.manual_seed(0)
        loss = self.make()
        loss.setup(STUDENT, TEACHER, self.task)
        return loss

    @property
    def whole_examples(self) -> bool:
        """Whether the signals are of whole examples, with no padding in them."""
        found = self.task.per_example and {signal.kind for signal in self.signals(self.ready())}
        return bool(found) and found <= {"logits", "label_embeddings"}

    def example_labels(self, mask: Tensor) -> Tensor:
        """Class ids, or 0 and 1 for several labels; -100 where nothing of an example is attended."""
        labels = torch.randint(0, 2, (len(mask), 5), generator=torch.Generator().manual_seed(4))
        labels = labels if self.task is Task.MULTI_LABEL else labels[:, :4].sum(1)
        labels[~mask.any(1)] = -100
        return labels

    def batch(self, mask: Tensor, labels: Tensor | None = None) -> Batch:
        inputs = {"input_ids": torch.ones_like(mask, dtype=torch.long), "attention_mask": mask.long()}
        if labels is None and self.whole_examples:
            labels = self.example_labels(mask)
        if labels is None:  # on padding too: a label there is none
            labels = torch.randint(0, 5, mask.shape, generator=torch.Generator().manual_seed(3))
            labels[0, 3] = -100
        return Batch({**inputs, "labels": labels} if self.labelled else inputs, self.task)

    def signals(self, loss: Loss) -> list[Signal]:
        """The student's and the teacher's of each pair in turn."""
        return [signal for pair in loss.pairs() for signal in pair if signal is not None]

    def draw(self, loss: Loss, mask: Tensor) -> list[Tensor]:
        """Random values for every signal, at every position; attention sees no masked key."""
        found = []
        for seed, signal in enumerate(self.signals(loss)):
            if self.whole_examples:
                values = randn(len(mask), *((5,) if signal == LOGITS else (5, 6)), seed=seed)
            elif signal.kind in ("attention", "attention_scores"):
                values = randn(len(mask), 2, mask.shape[1], mask.shape[1], seed=seed)
                if signal.kind == "attention":
                    values = values.masked_fill(~mask[:, None, None, :], -1e30).softmax(-1)
            elif signal.kind in ("query", "key", "value"):
                values = randn(len(mask), 2, mask.shape[1], 3, seed=seed)
            else:
                values = randn(*mask.shape, 5 if signal == LOGITS else 6, seed=seed)
            found.append(values)
        return found

    def spoil(self, signal: Signal, values: Tensor, mask: Tensor, garbage: float) -> Tensor:
        """Puts garbage wherever padding is; a masked key keeps probability 0 for the queries that count."""
        if self.whole_examples:
            return values
        if signal.kind in ("attention", "query", "key", "value"):
            kept = mask[:, None, :, None]
        elif signal.kind == "attention_scores":
            kept = mask[:, None, :, None] & mask[:, None, None, :]
        else:
            kept = mask[:, :, None]
        return torch.where(kept, values, garbage)

    def remove(self, values: Tensor, mask: Tensor) -> Tensor:
        """Takes padding out; every row has as many tokens as the others."""
        if self.whole_examples:
            return values
        queries_by_keys = values.dim() == 4 and values.shape[2] == values.shape[3]
        for axis in (2, 3) if queries_by_keys else (2,) if values.dim() == 4 else (1,):
            moved = values.movedim(axis, 1)
            values = moved[mask].view(len(mask), -1, *moved.shape[2:]).movedim(1, axis)
        return values

    def term(self, loss: Loss, batch: Batch, seen: list[Tensor]) -> Tensor:
        student: dict[Signal, Tensor] = {}
        teacher: dict[Signal, Tensor] = {}
        rest = iter(seen)
        for mine, theirs in loss.pairs():
            for side, signal in ((student, mine), (teacher, theirs)):
                if signal is not None:
                    values = next(rest)
                    side[signal] = batch.pool(values, signal.pooling) if signal.pooling else values
        return loss(student, teacher, batch)

    @pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan"), float("inf")])
    def test_padding_is_as_if_it_were_not_there(self, garbage: float) -> None:
        mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]]).bool()
        loss, padded = self.ready(), self.batch(mask)
        short = self.batch(torch.ones(3, 4).bool(), None if padded.labels is None else self.labels_of(padded, mask))
        drawn = zip(self.signals(loss), self.draw(loss, mask), strict=True)
        seen = [self.spoil(signal, values, mask, garbage).requires_grad_() for signal, values in drawn]
        removed = [self.remove(values.detach(), mask).requires_grad_() for values in seen]
        gradients = []
        for batch, values in ((padded, seen), (short, removed)):
            loss.zero_grad()
            found = self.term(loss, batch, values)
            found.backward()
            gradients.append((found.detach(), [weight.grad for weight in loss.parameters()]))
        torch.testing.assert_close(*gradients)
        assert gradients[0][0] > 0
        for mine, theirs in zip(seen, removed, strict=True):
            if mine.grad is None or theirs.grad is None:  # a teacher's
                assert mine.grad is theirs.grad is None
            else:
                torch.testing.assert_close(self.remove(mine.grad, mask), theirs.grad)
                torch.testing.assert_close(mine.grad.abs().sum(), theirs.grad.abs().sum())  # nothing on padding

    def labels_of(self, batch: Batch, mask: Tensor) -> Tensor:
        labels: Tensor = batch.inputs["labels"]
        if self.whole_examples:
            return labels
        return labels[mask].view(len(mask), -1)

    def test_a_step_with_nothing_in_it_gives_zero(self) -> None:
        mask = torch.zeros(2, 4, dtype=torch.bool)
        loss = self.ready()
        if self.whole_examples and not loss.needs_labels:
            pytest.skip("an example always counts")
        seen = [torch.full_like(each, float("nan")).requires_grad_() for each in self.draw(loss, mask)]
        found = self.term(loss, self.batch(mask), seen)
        found.backward()
        assert found == 0
        assert all(each.grad is None or each.grad.abs().max() == 0 for each in (*seen, *loss.parameters()))

    def test_one_valid_position_is_compared_and_all_the_others_are_not(self) -> None:
        mask = torch.zeros(2, 4, dtype=torch.bool)
        mask[1, 2] = True
        loss = self.ready()
        drawn = zip(self.signals(loss), self.draw(loss, mask), strict=True)
        seen = [self.spoil(signal, each, mask, float("nan")).requires_grad_() for signal, each in drawn]
        found = self.term(loss, self.batch(mask), seen)
        found.backward()
        assert found.isfinite()
        gradients = [each.grad for each in (*seen, *loss.parameters()) if each.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)

    @pytest.mark.parametrize("dtype", HALVES)
    def test_half_precision_signals_are_compared_in_float32(self, dtype: torch.dtype) -> None:
        mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()
        loss = self.ready()
        seen = [each.to(dtype).requires_grad_() for each in self.draw(loss, mask)]
        found = self.term(loss, self.batch(mask), seen)
        assert found.dtype is torch.float32
        torch.testing.assert_close(found, self.term(loss, self.batch(mask), [each.float() for each in seen]))
        found.backward()
        assert all(each.grad.isfinite().all() for each in seen if each.grad is not None)

    def test_its_config_makes_it_again(self) -> None:
        loss = self.make()
        loss.weight = 0.25
        again = type(loss)(**loss.config, weight=loss.weight)
        assert (again.config, again.weight) == (loss.config, 0.25)
        assert all(f"{name}={value!r}" in repr(loss) for name, value in {**loss.config, "weight": 0.25}.items())


class LabelledExampleContract(LossContract):
    """For losses on whole examples that need their labels: one without a label must not matter."""

    task = Task.SINGLE_LABEL

    @pytest.mark.parametrize("garbage", [0.0, 1e4, float("nan"), float("inf")])
    def test_an_example_without_a_label_is_as_if_it_were_not_there(self, garbage: float) -> None:
        mask, loss = torch.tensor([[1, 1], [0, 0], *[[1, 1]] * 6, [1, 0]]).bool(), self.ready()
        kept, whole = mask.any(1), self.batch(mask)
        seen = [each.clone() for each in self.draw(loss, mask)]
        removed = [each[kept].clone().requires_grad_() for each in seen]
        for each in seen:
            each[~kept] = garbage
            each.requires_grad_()
        found, expected = (
            self.term(loss, self.batch(mask, whole.inputs["labels"]), seen),
            self.term(loss, self.batch(mask[kept], whole.inputs["labels"][kept]), removed),
        )
        (found + expected).backward()
        torch.testing.assert_close(found, expected)
        assert found > 0
        assert seen[1].grad is None
        torch.testing.assert_close(seen[0].grad[kept], removed[0].grad)
        assert (seen[0].grad[~kept] == 0).all()


def refuses(loss: Loss, message: str, task: Task = Task.TOKENS, **shapes: Any) -> None:
    """Checks that `setup` raises `message`, which says what was found and what to do."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loss.setup(shapes.get("student", STUDENT), shapes.get("teacher", TEACHER), task)


class Largest(TorchDispatchMode):
    """The most elements of any tensor that is made inside of `with`, of one type or of all."""

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dtype = dtype
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and self.dtype in (None, found.dtype):
            self.elements = max(self.elements, found.numel())
        return found


def memory(function: Callable[..., Tensor], *inputs: Any) -> tuple[int, int]:
    """Elements of the largest tensor made in forward and backward, and of all that are kept from one to the other."""
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes() // 4
        return saved

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            found = function(*inputs)
        found.backward()
    return largest.elements, sum(kept.values())
