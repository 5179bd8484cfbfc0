"""Boundary samples: examples moved in embedding space until the teacher's decision changes (Heo et al. 2018)."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import anatomy, checks
from hf_distill.batch import Batch
from hf_distill.signals import BOUNDARY, LOGITS, Signal, Signals
from hf_distill.tasks import Task
from hf_distill.teachers.wrapper import Wrapper

OVERSHOOT = 1e-4  # of the margin: a sample that is exactly on the boundary still moves across
SMALLEST = 1e-12  # of a gradient's norm: below it there is no direction


def draw_targets(logits: Tensor, labels: Tensor, task: Task, numbers: Tensor) -> Tensor:
    """Across which boundary each example is moved, drawn in proportion to what the teacher gives to it.

    Args:
        logits: the teacher's, (rows, classes).
        labels: (rows,) class ids, or (rows, classes) 0 and 1 for several labels.
        task: single label: another class than the label; multi-label: the label whose decision is to change.
        numbers: (rows,), uniform in [0, 1).

    Returns:
        (rows,) class ids.
    """
    if task is Task.MULTI_LABEL:
        shares = torch.sigmoid(logits.float() * (1 - 2 * labels.float()))  # the probability of the other decision
    else:
        shares = logits.float().scatter(1, labels.clamp(min=0)[:, None], float("-inf")).softmax(-1)
    below = shares.cumsum(-1)
    return (below <= numbers[:, None] * below[:, -1:]).sum(-1).clamp(max=logits.shape[1] - 1)


def margins(logits: Tensor, labels: Tensor, targets: Tensor, task: Task) -> Tensor:
    """How far the label's score is above the target's, 0 on the boundary: (rows,); shapes as in `draw_targets`."""
    towards = logits.float().gather(1, targets[:, None]).squeeze(1)
    if task is Task.MULTI_LABEL:
        return towards * (2 * labels.gather(1, targets[:, None]).squeeze(1).float() - 1)
    return logits.float().gather(1, labels.clamp(min=0)[:, None]).squeeze(1) - towards


def decided_right(logits: Tensor, labels: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Whether the decision is still the label's: (rows,) bool; shapes as in `draw_targets`."""
    if task is Task.MULTI_LABEL:
        return margins(logits, labels, targets, task) > 0
    return logits.argmax(-1) == labels


def boundary_samples(
    answer: Callable[[Tensor, Tensor], Tensor],
    embeddings: Tensor,
    tokens: Tensor,
    labels: Tensor,
    targets: Tensor,
    task: Task,
    iterations: int = 10,
    stride: float = 0.01,
) -> Tensor:
    """Moves each example towards the boundary with its target, until it has crossed or `iterations` are over.

    x <- x - stride * |x| * (margin + 1e-4) * g / |g|, where g is the gradient of the margin s_label - s_target, and
    the norms are over an example's attended tokens.

    Args:
        answer: embeddings of some rows, and their indices -> the teacher's logits, (rows, classes).
        embeddings: (rows, tokens, width).
        tokens: (rows, tokens) bool; padding is not moved.
        labels: see `draw_targets`.
        targets: see `draw_targets`.
        task: single label or multi-label.
        iterations: at most so many moves; one forward and backward of the teacher each.
        stride: how far, as a share of the norm of an example, for each unit of margin.

    Returns:
        (rows, tokens, width), also those that did not cross.

    Reference: Heo et al. 2018, arXiv:1805.05532, and the authors' code.
    Differs from it: embeddings instead of pixels, so the stride is a share of their norm (there 0.3 for images of unit
    variance) and nothing is clamped; for several labels the boundary of one label.
    """
    moved = embeddings.detach().clone()
    length = _norm(torch.where(tokens[:, :, None], moved, 0.0))
    rows = torch.arange(len(moved), device=moved.device)
    for _ in range(iterations):
        with torch.enable_grad():
            here = moved[rows].requires_grad_()
            logits = answer(here, rows)
            left = margins(logits, labels[rows], targets[rows], task)
            (gradient,) = torch.autograd.grad(left.sum(), here)
        still = decided_right(logits.detach(), labels[rows], targets[rows], task)
        if not still.any():
            break
        rows, left, gradient = rows[still], left.detach()[still], gradient[still]
        gradient = torch.where(tokens[rows][:, :, None], gradient, 0.0)
        far = stride * length[rows] * (left[:, None, None] + OVERSHOOT)
        moved[rows] -= far * gradient / _norm(gradient).clamp(min=SMALLEST)
    return moved


def _norm(rows: Tensor) -> Tensor:
    return rows.flatten(1).norm(dim=1)[:, None, None]


class BoundaryTeacher(Wrapper):
    """A model that also answers at the boundary samples of each training batch, for `losses.BoundaryTargets`.

    The samples are made anew in every step, of examples that teacher and student both get right, those first on which
    their probabilities differ most. The student is run on them too: its own embeddings, moved as the teacher's were.
    Token embeddings must be as wide as the teacher's; students made from the teacher have them in the same space.

    Args:
        teacher: a model, its id, or a `Teacher` around a model.
        most: samples of a batch at most.
        iterations: see `boundary_samples`.
        stride: see `boundary_samples`.
    """

    needs_labels = "BoundaryTeacher"  # type: ignore[assignment]

    def __init__(self, teacher: Any, most: int = 64, iterations: int = 10, stride: float = 0.01) -> None:
        for name, value in (("most", most), ("iterations", iterations), ("stride", stride)):
            if value <= 0:
                raise ValueError(f"BoundaryTeacher: {name} is {value}; it must be above 0.")
        super().__init__(teacher)
        self.most, self.iterations, self.stride = most, iterations, stride
        self._order: Tensor | None = None

    @property
    def input_names(self) -> Iterable[str]:  # type: ignore[override]
        return [*self.teacher.input_names, "labels"]

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: the teacher is no model, or answers only once the student has spoken; one of the two takes no
                embeddings; their widths differ; no classifier of whole examples, or one that finds the end of a text
                by its token ids.
        """
        if self.model is None:
            raise ValueError(
                f"boundary samples follow a model's gradient, and {type(self.teacher).__name__} has no model. Pass "
                "the model itself."
            )
        checks.check_takes_embeddings(student, self.model, "boundary samples")
        if anatomy.describe(self.model).causal or anatomy.describe(student).causal:
            raise ValueError(
                "boundary samples are embeddings, and a classifier on a decoder finds the end of a text by its token "
                "ids. Use encoders (BERT, RoBERTa, DistilBERT, ...)."
            )
        self.only_evaluated = self.only_evaluated - {BOUNDARY, LOGITS}  # samples are of its answers
        super().prepare(student, (wanted - {BOUNDARY}) | {LOGITS}, device, tokenizer)
        order = checks.label_order(student, self.model, getattr(self.teacher, "label_map", None))
        self._order = None if order is None else torch.tensor(order, device=device)
        self._student = student

    def observe(self, batch: Batch) -> Signals:
        said = self.teacher.observe(batch)
        self._said = said[LOGITS]
        return said

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`: the answers of both at the boundary samples, nothing but 0 in an evaluation.

        Raises:
            ValueError: the batch has no labels or no token ids.
        """
        found = {**self.teacher.respond(batch, student)}
        if not torch.is_grad_enabled():
            return found | {BOUNDARY: student[LOGITS].new_zeros(batch.rows, 2, student[LOGITS].shape[-1])}
        if batch.labels is None or batch.inputs.get("input_ids") is None or batch.tokens is None:
            raise ValueError(
                "boundary samples are made of labelled texts, and the batch has no labels or no input_ids."
            )
        theirs, mine = self._said.float(), student[LOGITS].detach().float()
        targets = draw_targets(theirs, batch.labels, batch.task, _numbers(batch))
        rows, right = choose(theirs, mine, batch.labels, targets, batch.task, self.most)
        answers = self._answers(batch, rows, targets)
        both = torch.where(right[:, None, None], answers, 0.0)
        return found | {BOUNDARY: both.new_zeros(batch.rows, *both.shape[1:]).index_copy(0, rows, both)}

    def _answers(self, batch: Batch, rows: Tensor, targets: Tensor) -> Tensor:
        """Logits of both at the samples of some rows: (rows, 2, classes)."""
        assert batch.tokens is not None
        assert batch.labels is not None
        assert self.model is not None
        inputs = {name: value[rows] for name, value in batch.inputs.items() if isinstance(value, Tensor)}
        ids = inputs.pop("input_ids")

        def logits(model: Any, embeddings: Tensor, given: Mapping[str, Tensor]) -> Tensor:
            known = anatomy.accepted(model, {**given, "inputs_embeds": embeddings})
            known.pop("labels", None)
            return anatomy.logits_of(model(**known), batch.task)

        def answer(embeddings: Tensor, some: Tensor) -> Tensor:
            found = logits(self.model, embeddings, {name: value[some] for name, value in inputs.items()})
            return found if self._order is None else found.index_select(-1, self._order)

        with torch.no_grad():
            start = anatomy.find_embeddings(self.model)(ids)
        moved = boundary_samples(
            answer,
            start,
            batch.tokens[rows],
            batch.labels[rows],
            targets[rows],
            batch.task,
            self.iterations,
            self.stride,
        )
        with torch.no_grad():
            theirs = answer(moved, torch.arange(len(rows), device=rows.device))
        own = anatomy.find_embeddings(self._student)(ids)
        mine = logits(self._student, own + (moved - start).to(own.dtype), inputs)
        return torch.stack([mine.float(), theirs.float()], 1)


def choose(
    teacher: Tensor, student: Tensor, labels: Tensor, targets: Tensor, task: Task, most: int
) -> tuple[Tensor, Tensor]:
    """The base samples: examples that both get right, those first on whose other classes they differ most.

    Args:
        teacher: logits, (rows, classes).
        student: logits, (rows, classes).
        labels: see `draw_targets`; an example without a label is none.
        targets: see `draw_targets`.
        task: single label: other classes than the label; multi-label: all labels.
        most: at most so many.

    Returns:
        Indices, and whether each is a base sample: where there is none at all, one that is not, so that on several
        processes every student runs.
    """
    if task is Task.MULTI_LABEL:
        apart = (teacher.sigmoid() - student.sigmoid()).square().sum(-1)
        known = (labels >= 0).all(-1)
    else:
        squares = (teacher.softmax(-1) - student.softmax(-1)).square()
        apart = squares.scatter(1, labels.clamp(min=0)[:, None], 0.0).sum(-1)
        known = labels >= 0
    both = decided_right(teacher, labels, targets, task) & decided_right(student, labels, targets, task) & known
    rows = torch.where(both, apart, -1.0).topk(min(most, len(both))).indices
    rows = rows[: max(1, int(both.sum()))]
    return rows, both[rows]


def _numbers(batch: Batch) -> Tensor:
    """One number in [0, 1) for each row, the same when the step is done again."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{batch.seed} boundary".encode()))
    assert batch.labels is not None
    return torch.rand(batch.rows, generator=generator).to(batch.labels.device)
