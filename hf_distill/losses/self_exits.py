"""Exits inside of the student that learn from its last block: be your own teacher."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from hf_distill.batch import Batch
from hf_distill.losses.base import Loss
from hf_distill.losses.schedules import Weight
from hf_distill.losses.soft_targets import binary_kl_divergence, kl_divergence
from hf_distill.signals import LOGITS, ModelShape, Pooling, Signal, Signals, hidden
from hf_distill.tasks import Task, task_values

TASKS = (Task.SINGLE_LABEL, Task.MULTI_LABEL, Task.REGRESSION, Task.TOKENS)


def self_exits(
    student: Tensor,
    teacher: Tensor,
    feature: Tensor,
    state: Tensor,
    task: Task = Task.SINGLE_LABEL,
    alpha: float = 0.1,
    temperature: float = 3.0,
    hint_weight: float = 1e-6,
) -> Tensor:
    """What one exit learns from the last block: alpha T^2 KL(last || exit) + hint_weight |feature - state|^2.

    Args:
        student: logits of the exit, shape (..., classes).
        teacher: logits of the model's own head, shape (..., classes); no gradient goes there.
        feature: of the exit, shape (..., width).
        state: of the last block, shape (..., width); no gradient goes there.
        task: several labels have a KL each, of which the mean is taken, as of their cross entropies; values a squared
            error.
        alpha: of the answer.
        temperature: softens both answers.
        hint_weight: of the squared distance, summed over the width.

    Returns:
        One value per position, shape (...), float32. Zero where exit and last block agree.

    Reference: Zhang et al. 2019 (Be Your Own Teacher), arXiv:1905.08094; its loss without the labels' part.
    Differs from the paper: the defaults are those of a re-implementation, the paper's alpha and lambda could not be
    confirmed; the distance is a mean over examples, where that code sums over the batch.
    """
    if task is Task.REGRESSION:
        taught = (student.float() - teacher.detach().float()).square().mean(-1)
    elif task is Task.MULTI_LABEL:
        taught = binary_kl_divergence(student, teacher, temperature) / teacher.shape[-1]
    else:
        taught = kl_divergence(student, teacher, temperature)
    distance = (feature.float() - state.detach().float()).square().sum(-1)
    return alpha * taught + hint_weight * distance


class ExitHead(nn.Module):
    """What answers at an exit: a bottleneck that makes a block's state like the last one's, and a linear classifier.

    Args:
        width: of the states.
        bottleneck: of the layer between.
        classes: of the answer.
    """

    def __init__(self, width: int, bottleneck: int, classes: int) -> None:
        super().__init__()
        self.bottleneck = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, bottleneck), nn.GELU(), nn.Linear(bottleneck, width)
        )
        self.classifier = nn.Linear(width, classes)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """State, (..., width) -> what is compared with the last block's, (..., width), and logits, (..., classes)."""
        feature = self.bottleneck(state.to(self.classifier.weight.dtype))
        return feature, self.classifier(feature)


class SelfExits(Loss):
    """Heads at some of the student's blocks that learn the labels and what the student itself says at its end.

    For each exit i, added up: (1 - alpha) CE(label, q_i) + alpha T^2 KL(q_last || q_i) + hint_weight |F_i - F_last|^2,
    where nothing goes back into q_last and F_last. The blocks below an exit learn from it. Take it beside `TaskLoss`,
    which teaches the last block, to make a student better without a teacher, or one that may stop early
    (`schemes.be_your_own_teacher`). Heads live in the objective as projections do. Several labels have binary forms of
    both, values squared errors; examples without a label learn from the last block alone.

    Args:
        layers: blocks of the student with an exit, counted from 0 or from the end, without the last; None: all others.
        alpha: share of the last block's answer, 0 to 1.
        temperature: softens it.
        hint_weight: of the squared distance of an exit's feature from the last block's state, summed over the width.
            At its default it is next to nothing.
        bottleneck: width of the layer inside a head; None: a quarter of the student's.
        pooling: how the tokens of an example become one state: ``"first"``, ``"last"`` or ``"mean"``. Low blocks have
            not yet gathered the words in the first token, which makes it a poor place for an exit; the paper's exits
            too read a mean, over an image. For tasks with a label a token every token has its own.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Zhang et al. 2019, Be Your Own Teacher: Self Distillation, arXiv:1905.08094"
    needs_labels: ClassVar[bool] = True

    def __init__(
        self,
        layers: list[int] | None = None,
        alpha: float = 0.1,
        temperature: float = 3.0,
        hint_weight: float = 1e-6,
        bottleneck: int | None = None,
        pooling: Pooling = "mean",
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(weight)
        self.layers = layers
        self.alpha = alpha
        self.temperature = temperature
        self.hint_weight = hint_weight
        self.bottleneck = bottleneck
        self.pooling = pooling
        self.depths: list[int] = []
        self.last = 0
        self.heads = nn.ModuleList()

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`. Builds the heads.

        Raises:
            ValueError: a task without classes of its own, a block that cannot have an exit, or knobs that do not fit.
        """
        if task not in TASKS:
            raise ValueError(f"SelfExits: the task is {task}; exits are for {', '.join(TASKS)}.")
        if not 0 <= self.alpha <= 1 or self.temperature <= 0 or self.hint_weight < 0:
            raise ValueError(
                f"SelfExits: alpha={self.alpha}, temperature={self.temperature}, hint_weight={self.hint_weight}: they "
                "must be 0 to 1, above 0, and not below 0."
            )
        if self.pooling not in ("first", "last", "mean"):
            raise ValueError(f'SelfExits: pooling={self.pooling!r} is not "first", "last" or "mean".')
        if self.bottleneck is not None and self.bottleneck < 1:
            raise ValueError(f"SelfExits: bottleneck={self.bottleneck} is no width; it must be at least 1.")
        if student.layers < 2:
            raise ValueError(
                f"SelfExits: {student.name} has one block, and an exit is below the last. Take two or more."
            )
        self.last = student.layers - 1
        given = list(range(self.last)) if self.layers is None else self.layers
        self.depths = [layer + student.layers if layer < 0 else layer for layer in given]
        if (
            not self.depths
            or sorted(set(self.depths)) != self.depths
            or not 0 <= self.depths[0] <= self.depths[-1] < self.last
        ):
            raise ValueError(
                f"SelfExits: layers={self.layers} must be blocks of {student.name}, upwards, of 0 to "
                f"{self.last - 1}: the last has its own head."
            )
        narrow = self.bottleneck or max(1, student.width // 4)
        self.heads = nn.ModuleList(ExitHead(student.width, narrow, student.classes) for _ in self.depths)

    def pairs(self) -> list[tuple[Signal, Signal | None]]:
        return [(LOGITS, None), *((hidden(layer), None) for layer in (*self.depths, self.last))]

    def state(self, hidden_state: Tensor, batch: Batch) -> Tensor:
        """What a head reads: (batch, tokens, width) -> one state an example, or a token where labels are of tokens."""
        return hidden_state if batch.task.per_token else batch.pool(hidden_state, self.pooling)

    def answer(self, index: int, hidden_state: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Feature and logits of exit `index` from its block's output, (batch, tokens, width)."""
        return cast(tuple[Tensor, Tensor], self.heads[index](self.state(hidden_state, batch)))

    def forward(self, student: Signals, teacher: Signals, batch: Batch) -> Tensor:
        """The term before its weight: the sum over the exits."""
        if batch.labels is None:
            raise ValueError(
                "SelfExits needs a labels column, and the batch has none. Add it, or leave SelfExits out."
            )
        logits = batch.align(student[LOGITS])
        last = self.state(self._seen(self.last, student, batch), batch)
        terms = []
        for index, layer in enumerate(self.depths):
            feature, exit_logits = self.answer(index, self._seen(layer, student, batch), batch)
            exit_logits = batch.align(exit_logits)
            labelled = batch.mean(task_values(exit_logits, batch.labels, batch.task), over="targets")
            taught = self.compare(exit_logits, logits, batch, feature, last)
            terms.append((1 - self.alpha) * labelled + taught)
        return torch.stack(terms).sum()

    def compare(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, batch: Batch, feature: Tensor, last: Tensor
    ) -> Tensor:
        """What one exit learns from the last block: a share of the mean over the step, a scalar."""
        knobs = (self.alpha, self.temperature, self.hint_weight)
        return batch.mean(self_exits(student, teacher, feature, last, batch.task, *knobs), over="predictions")

    def _seen(self, layer: int, student: Signals, batch: Batch) -> Tensor:
        return batch.clean(hidden(layer), student[hidden(layer)])
