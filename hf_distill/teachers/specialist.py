"""A generalist and specialists for confusable classes, put together to one distribution (Hinton et al. 2015)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hf_distill import anatomy, checks
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.model import ModelTeacher, load, tokenizer_beside
from hf_distill.teachers.wrapper import Wrapper

SUBSET, OVERSAMPLING = "special_classes", "special_oversampling"  # in the config of a specialist
MAX_STEPS = 2000


class Opinion(NamedTuple):
    """What one specialist says of some examples.

    Args:
        classes: that it tells apart, (special,).
        logits: of these and of the dustbin, (examples, special + 1).
        active: whether it is heard, bool (examples,).
    """

    classes: Tensor
    logits: Tensor
    active: Tensor


@torch.no_grad()
def joint_distribution(generalist: Tensor, opinions: Sequence[Opinion], tolerance: float = 1e-6) -> Tensor:
    """The distribution q with the least KL(generalist || q) + sum over specialists of KL(specialist || q).

    A specialist is compared with q of its classes, and of its dustbin with the sum of q over all others. Only those
    that are active for an example are heard for it.

    The gradient of that sum by the logits of q is (1 + m) q - r, with m specialists heard and r the sum of all
    opinions, each dustbin shared out in proportion to q. Steps of the size 1 / (1 + m) against it, q <- r / (1 + m),
    never make the sum larger, need no learning rate, and start at the generalist.

    Args:
        generalist: logits, (examples, classes).
        opinions: of the specialists.
        tolerance: the largest change of a probability, relative to itself, at which it ends.

    Returns:
        log q, (examples, classes), float32.

    Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 5.
    Differs from the paper: gradient steps of this size rather than of a learning rate; a softmax of temperature 1.
    """
    dtype = torch.float32 if generalist.device.type == "mps" else torch.float64
    whole = generalist.to(dtype).softmax(-1)
    heard = [_spread(each, whole) for each in opinions]
    count = 1 + sum((each.active.to(dtype) for each in opinions), torch.zeros_like(whole[:, 0]))
    q = whole
    for step in range(MAX_STEPS):
        before, q = q, whole
        for own, outside, dustbin in heard:
            rest = (before * outside).sum(-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
            q = q + own + dustbin * outside * before / rest
        q = q / count[:, None]
        if step % 8 == 7 and bool(((q - before).abs() <= tolerance * q).all()):  # looking waits for the device
            break
    return q.clamp(min=torch.finfo(torch.float32).tiny).log().float()


def _spread(opinion: Opinion, whole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Over all classes: its probabilities, which are in its dustbin, and how probable that is; 0 if not heard."""
    said = opinion.logits.to(whole.dtype).softmax(-1) * opinion.active[:, None]
    own = torch.zeros_like(whole).index_copy(-1, opinion.classes, said[:, :-1])
    outside = torch.ones_like(whole[:1]).index_fill(-1, opinion.classes, 0.0)
    return own, outside, said[:, -1:]


class SpecialistTeacher(Wrapper):
    """A generalist for all classes, and specialists that tell apart those that it confuses:

        teacher = SpecialistTeacher(["generalist", "specialist_1", "specialist_2"])

    The generalist's most probable classes say which specialists are asked for an example; their answers are put
    together by `joint_distribution`. Where none is asked, the generalist's own stand. Other signals than logits are
    the generalist's. `schemes.specialists` makes specialists. For tasks with one label an example.

    Args:
        teachers: the generalist first (a model, an id or a `Teacher`), then one specialist or more (models or ids),
            with a logit for each of its classes and the last one for all others, its dustbin.
        subsets: the classes of each specialist, as numbers of the generalist's; None: as their configs say
            (`special_classes`), which those of `schemes.specialists` do.
        probable: so many of the generalist's most probable classes say who is asked.
        oversampling: how many times more often each specialist saw its classes, relative to the others, than they are
            there; the logarithm is added to its dustbin's logit. None: as their configs say (`special_oversampling`).

    Raises:
        ValueError: no specialist, no subset, or one that does not fit its model.
    """

    def __init__(
        self,
        teachers: Sequence[Any],
        subsets: list[list[int]] | None = None,
        probable: int = 1,
        oversampling: list[float] | None = None,
    ) -> None:
        if isinstance(teachers, str | nn.Module | Teacher) or len(teachers) < 2:
            raise ValueError("SpecialistTeacher takes a list: the generalist, and one specialist or more.")
        super().__init__(teachers[0])
        self.teachers, self.probable = teachers, probable
        self.specialists = [_specialist(each) for each in teachers[1:]]
        self.members = (self.teacher, *self.specialists)
        if probable < 1:
            raise ValueError(f"SpecialistTeacher: probable is {probable}; it must be at least 1.")
        self.subsets = [self._said(number, subsets, SUBSET, None) for number in range(len(self.specialists))]
        self.oversampling = [
            float(self._said(number, oversampling, OVERSAMPLING, 1.0)) for number in range(len(self.specialists))
        ]
        for number in range(len(self.specialists)):
            self._check(number, None if self.shape is None else self.shape.classes)

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: the task is another one, the labels stand in another order than the generalist's, or what the
                generalist or a specialist refuses.
        """
        task = find_task(anatomy.unwrap(student))
        if task is not Task.SINGLE_LABEL:
            raise ValueError(f"SpecialistTeacher is for one label an example, and the task is {task}.")
        super().prepare(student, wanted, device, tokenizer)
        if self.model is not None and checks.label_order(student, self.model, "by_name") is not None:
            raise ValueError(
                "SpecialistTeacher counts classes as the generalist does, and the student's stand in another order. "
                "Load the student with id2label=generalist.config.id2label."
            )
        if self.top_k is not None and LOGITS in wanted:
            raise ValueError(f"SpecialistTeacher needs all logits of the generalist, and {self.top_k} are known.")
        for number, specialist in enumerate(self.specialists):
            self._check(number, anatomy.describe(student).classes)  # a generalist that is a function has as many
            specialist.prepare(student, frozenset({LOGITS}), device, tokenizer)
        self._classes = [torch.tensor(each, device=device) for each in self.subsets]

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`. Each specialist reads those examples only that it is asked for."""
        seen = self.teacher.observe(batch)
        if LOGITS not in seen:
            return seen
        whole = seen[LOGITS]
        likely = whole.topk(min(self.probable, whole.shape[-1]), -1).indices
        opinions = []
        for specialist, classes, by in zip(self.specialists, self._classes, self.oversampling, strict=True):
            active = torch.isin(likely, classes).any(-1)
            if not active.any():
                continue
            logits = whole.new_zeros(len(whole), len(classes) + 1, dtype=torch.float32)
            logits[active] = specialist.observe(_rows(batch, active))[LOGITS].float()
            logits[:, -1] += math.log(by)
            opinions.append(Opinion(classes, logits, active))
        return {**seen, LOGITS: joint_distribution(whole, opinions) if opinions else whole}

    def _said(self, number: int, given: Sequence[Any] | None, name: str, default: Any) -> Any:
        """What a knob says of a specialist, or its config."""
        if given is not None:
            if len(given) != len(self.specialists):
                raise ValueError(f"SpecialistTeacher: {len(given)} values for {len(self.specialists)} specialists.")
            return given[number]
        return getattr(anatomy.unwrap(self.specialists[number].model).config, name, default)

    def _check(self, number: int, total: int | None) -> None:
        """Of so many classes of the generalist; None: not known."""
        subset, shape, who = self.subsets[number], self.specialists[number].shape, f"specialist {number + 1}"
        if not subset:
            raise ValueError(f"{who}: its config names no {SUBSET}. Pass subsets=, a list of classes for each.")
        if len(set(subset)) < len(subset) or min(subset) < 0 or (total is not None and max(subset) >= total):
            raise ValueError(f"{who}: subset {list(subset)} must be different classes of the generalist's {total}.")
        if total is not None and len(subset) == total:
            raise ValueError(
                f"{who}: its subset is all {total} classes of the generalist, and its dustbin would stand for none. "
                "Leave out one class or more."
            )
        if shape.classes != len(subset) + 1:
            raise ValueError(
                f"{who} has {shape.classes} logits for a subset of {len(subset)} classes; it must have one for each, "
                "and the last for its dustbin."
            )
        if not self.oversampling[number] > 0:
            raise ValueError(f"{who}: oversampling is {self.oversampling[number]}; it must be above 0.")


class Specialist(ModelTeacher):
    """A model with classes of its own, which no student has."""

    def _checked_order(
        self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any
    ) -> torch.Tensor | None:
        if not self.view:
            own = self.tokenizer or tokenizer_beside(self.model)
            checks.check_vocabulary(student, self.model, tokenizer, own)
        return None


def _specialist(given: Any) -> Specialist:
    if isinstance(given, str):
        return Specialist(load(given))
    if type(given) in (ModelTeacher, Specialist):  # a subclass may say something else than its model
        return Specialist(given.model, tokenizer=given.tokenizer)
    if not isinstance(given, nn.Module):
        raise ValueError(f"SpecialistTeacher: a specialist is a model or its id, not a {type(given).__name__}.")
    return Specialist(given)


def _rows(batch: Batch, kept: Tensor) -> Batch:
    """Some examples of a batch."""
    inputs = {
        name: each[kept] if isinstance(each, Tensor) and each.dim() and len(each) == len(kept) else each
        for name, each in batch.inputs.items()
    }
    return replace(batch, inputs=inputs, counts=None)
