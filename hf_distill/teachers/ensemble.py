"""Several teachers at once: the mean of what they answer, and the inside of each for losses of its own."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.signals import LOGITS, TRUST, ModelShape, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.given import as_teacher, models_of

Mean = Literal["logits", "probabilities"]


def mean_answer(
    answers: Sequence[Tensor],
    task: Task,
    mean: Mean = "logits",
    weights: Sequence[float] | Literal["confidence"] | None = None,
    temperature: float = 1.0,
    trust: Tensor | None = None,
) -> Tensor:
    """The mean of several teachers' logits, or the logits of the mean of their probabilities.

    Args:
        answers: logits of each, (..., classes); of spans with padding masked.
        task: decides what a probability is.
        mean: of ``"logits"`` or of ``"probabilities"``. The latter comes back as log-probabilities, of multi-label
            answers as the logit of each label's mean probability, so that every loss reads it as logits.
        weights: of the answers, any sum; ``"confidence"`` weighs by `confidence`, row by row; None: all the same.
        temperature: at which probabilities are averaged. What comes back has their mean at this temperature.
        trust: what each weight is multiplied by, (answers, ..., 1) or (answers, ..., classes). Where nobody is
            trusted, everybody is.

    Returns:
        (..., classes), float32.
    """
    answers = [each.float() for each in answers]
    mass = mass_of(answers, task, weights)
    shares = mass / mass.sum(0)
    if trust is not None:
        left = mass * trust
        shares = torch.where(left.sum(0) > 0, left / left.sum(0).clamp(min=1e-12), shares)
    if mean == "logits" or task is Task.REGRESSION:
        return sum(share * each for share, each in zip(shares, answers, strict=True))  # type: ignore[return-value]

    def log_mean(logs: list[Tensor]) -> Tensor:
        return torch.logsumexp(torch.stack([a.log() + b for a, b in zip(shares, logs, strict=True)]), 0)

    if task is Task.MULTI_LABEL:
        yes, no = ([nn.functional.logsigmoid(sign * each / temperature) for each in answers] for sign in (1, -1))
        return temperature * (log_mean(yes) - log_mean(no))
    return temperature * log_mean([(each / temperature).log_softmax(-1) for each in answers])


def mass_of(answers: Sequence[Tensor], task: Task, weights: Sequence[float] | Literal["confidence"] | None) -> Tensor:
    """What each answer weighs before the weights are made to sum to 1: (answers, ..., 1), see `mean_answer`."""
    if weights == "confidence":
        return torch.stack([confidence(each, task) for each in answers])
    numbers = torch.tensor([1.0] * len(answers) if weights is None else list(weights), device=answers[0].device)
    return numbers.view(-1, *[1] * answers[0].dim())


def confidence(logits: Tensor, task: Task) -> Tensor:
    """How sure an answer is, between 0 and 1: the largest probability, of multi-label answers the mean over labels of
    the larger one of yes and no.

    Args:
        logits: (..., classes).
        task: decides what a probability is.

    Returns:
        (..., 1), float32.
    """
    if task is Task.MULTI_LABEL:
        return logits.float().abs().sigmoid().mean(-1, keepdim=True)
    return logits.float().softmax(-1).amax(-1, keepdim=True)


class EnsembleTeacher(Teacher):
    """Several teachers: a student learns the mean of their answers, and of each what losses of its own look at.

        teacher = EnsembleTeacher([first, second], mean="probabilities")
        losses = [SoftTargets(), HiddenMSE("last").of(0), RKDDistance().of(1)]

    Teachers may be of other families, sizes and number formats; what they say comes to the student's device in
    float32. They cost their sum: where rows come again and again, a `CachedTeacher` of each is asked once.

    Args:
        teachers: two or more, each a model, its id, or a `Teacher`.
        mean: of ``"logits"`` (a geometric mean of the distributions), which is what None says, or of
            ``"probabilities"``, where one that is sure outweighs less.
        weights: of each teacher, any sum; ``"confidence"``: row by row, each by its own largest probability; None: all
            the same.
        one_at_a_time: moves each model to the accelerator for its forward only, and to the processor's memory after
            it: slow, and for models that do not fit beside one another.
        devices: where each teacher runs, such as ``["cuda:0", "cuda:1"]``; None: all where the student is.
        temperature: at which probabilities are averaged: where a loss softens by as much, its targets are the mean of
            the softened probabilities. None: 1.

    Raises:
        ValueError: fewer than two teachers, or knobs that do not fit them.
    """

    how_it_runs = frozenset({"one_at_a_time", "devices"})

    def __init__(
        self,
        teachers: Sequence[Any],
        mean: Mean | None = None,
        weights: list[float] | Literal["confidence"] | None = None,
        one_at_a_time: bool = False,
        devices: list[str] | None = None,
        temperature: float | None = None,
    ) -> None:
        if isinstance(teachers, str | nn.Module | Teacher) or len(teachers) < 2:
            raise ValueError("EnsembleTeacher takes a list of two teachers or more. Pass one by itself without it.")
        if mean is not None and mean not in get_args(Mean):
            raise ValueError(f'EnsembleTeacher: mean={mean!r} is not known; use "logits" or "probabilities".')
        _check_weights(weights, len(teachers))
        if temperature is not None and not temperature > 0:
            raise ValueError(f"EnsembleTeacher: temperature is {temperature}; it must be above 0.")
        if temperature is not None and mean != "probabilities":
            raise ValueError(
                f"EnsembleTeacher: temperature={temperature} is of probabilities, and logits are averaged. Pass "
                'mean="probabilities", or leave it out.'
            )
        if devices is not None and len(devices) != len(teachers):
            raise ValueError(f"EnsembleTeacher: {len(devices)} devices for {len(teachers)} teachers. Name one each.")
        for each in devices or ():
            _check_device(each)
        self.members = self.teachers = [as_teacher(each) for each in teachers]
        self.mean, self.weights, self.temperature = mean, weights, temperature
        self.one_at_a_time, self.devices = one_at_a_time, devices
        self.shape = shape_of(self.members)
        self.model = next((each.model for each in self.members if each.model is not None), None)
        self.input_names = tuple(dict.fromkeys(name for each in self.members for name in each.input_names))
        self.says_trust = any(each.says_trust for each in self.members)
        self.needs_labels = next((each.needs_labels for each in self.members if each.needs_labels), "")
        self._answers: list[Tensor | None] = []  # of the batch under way, until everybody has spoken
        self._trust: list[Tensor | None] = []

    @property
    def view(self) -> str:  # type: ignore[override]
        return self.members[0].view

    @view.setter
    def view(self, prefix: str) -> None:
        for member in self.members:
            member.view = prefix

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. Each member is prepared for what the losses on it look at.

        Raises:
            ValueError: what a member refuses, with its number; answers that have no such mean.
        """
        self._wanted, self._device = wanted, device
        task = find_task(anatomy.unwrap(student))
        knob = next((name for name in ("probabilities", "confidence") if name in (self.mean, self.weights)), None)
        if task is Task.REGRESSION and LOGITS in wanted and knob is not None:
            raise ValueError(
                f'EnsembleTeacher: "{knob}" is for classes and labels, and the task is {task}. Leave it out.'
            )
        self._where = [torch.device(each) for each in self.devices or [str(device)] * len(self.members)]
        for number, member in enumerate(self.members):
            self._prepare(number, member, student, tokenizer)

    def _prepare(self, number: int, member: Teacher, student: nn.Module, tokenizer: Any) -> None:
        mine = {signal.of(None) for signal in self._wanted if signal.teacher == number}
        answers = LOGITS in self._wanted
        only = {LOGITS} if answers and LOGITS in self.only_evaluated and LOGITS not in mine else set()
        member.only_evaluated = frozenset(only)
        member.compared_heads = {
            signal.of(None): groups for signal, groups in self.compared_heads.items() if signal.teacher == number
        }
        wanted = frozenset(mine | ({LOGITS} if answers else set()))
        try:
            if LOGITS in wanted and member.top_k is not None:
                raise ValueError(
                    f"only its {member.top_k} largest logits are known, and a mean takes all. Cache it without top_k."
                )
            if self.one_at_a_time:
                _check_movable(member)
            member.prepare(student, wanted, self._where[number], tokenizer)
        except ValueError as error:
            raise ValueError(f"teacher {number} of the ensemble: {error}") from error
        self._put_away(member)

    def check_evaluation(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        for member in self.members:
            member.check_evaluation(dataset, collate)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`."""
        self._answers, self._trust = [], []
        said: dict[Signal, Tensor] = {}
        for number, member in enumerate(self.members):
            with self._on_its_device(number, member):
                seen = member.observe(_moved(batch, self._where[number]))
                said |= self._tagged(number, seen)
                self._answers.append(self._brought(seen[LOGITS]) if LOGITS in seen else None)
                self._trust.append(self._brought(seen[TRUST]) if TRUST in seen else None)
        return {**said, **self._mean(batch)}

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`.

        Raises:
            ValueError: a member has given no logits until now, and the losses ask for their mean.
        """
        said: dict[Signal, Tensor] = {}
        late = False
        for number, member in enumerate(self.members):
            seen = member.respond(batch, student)
            said |= self._tagged(number, seen)
            if LOGITS in seen:
                self._answers[number], late = self._brought(seen[LOGITS]), True
        silent = next((number for number, each in enumerate(self._answers) if each is None), None)
        if self._asked_for_mean(batch) and silent is not None:
            raise ValueError(f"teacher {silent} of the ensemble gave no logits, and the losses ask for their mean.")
        mean = self._mean(batch) if late else {}
        self._answers = []
        return {**said, **mean}

    def step(self) -> None:
        for member in self.members:
            member.step()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}": tensor
            for number, member in enumerate(self.members)
            for name, tensor in member.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for number, member in enumerate(self.members):
            mine = f"{number}."
            member.load_state({name[len(mine) :]: each for name, each in state.items() if name.startswith(mine)})

    def _asked_for_mean(self, batch: Batch) -> bool:
        return LOGITS in self._wanted and not (batch.training and LOGITS in self.only_evaluated)

    @torch.no_grad()
    def _mean(self, batch: Batch) -> dict[Signal, Tensor]:
        """The ensemble's own answer, and how far it is trusted, if it is asked for and everybody has spoken."""
        known = [each for each in self._answers if each is not None]
        if not self._asked_for_mean(batch) or len(known) < len(self.members):
            return {}
        if len({each.shape for each in known}) > 1:
            raise ValueError(f"the ensemble's teachers gave logits of shapes {[tuple(each.shape) for each in known]}.")
        if batch.task is Task.SPAN:  # padding is no place for an answer
            known = [batch.align(each) for each in known]
        trust = self._trust_of_all()
        if trust is None:
            return {LOGITS: self._averaged(known, batch.task)}
        mass, beside = mass_of([each.float() for each in known], batch.task, self.weights), trust
        if trust[0].dim() < known[0].dim():  # one a prediction, and not one a label
            mass = mass.squeeze(-1)
            if trust.shape[-1] < known[0].shape[-2]:  # the last position predicts nothing
                mass, beside = mass[..., : trust.shape[-1]], nn.functional.pad(trust, (0, 1), value=1.0)
            beside = beside[..., None]
        together = (mass * trust).sum(0) / mass.sum(0)
        return {LOGITS: self._averaged(known, batch.task, beside), TRUST: together}

    def _averaged(self, known: Sequence[Tensor], task: Task, trust: Tensor | None = None) -> Tensor:
        return mean_answer(known, task, self.mean or "logits", self.weights, self.temperature or 1.0, trust)

    def _trust_of_all(self) -> Tensor | None:
        """In each member's predictions, (members, ...): 1 where one says nothing of it; None where nobody does."""
        found = [each for each in self._trust if each is not None]
        return torch.stack([torch.ones_like(found[0]) if t is None else t for t in self._trust]) if found else None

    def _tagged(self, number: int, seen: Signals) -> dict[Signal, Tensor]:
        """What the losses on one member look at, under its number."""
        return {
            signal.of(number): self._brought(each)
            for signal, each in seen.items()
            if signal == TRUST or signal.of(number) in self._wanted
        }

    def _brought(self, seen: Tensor) -> Tensor:
        """To the student's device, in float32."""
        if isinstance(seen, HeadLogits) and (self.one_at_a_time or seen.device != self._device):
            seen = seen.whole()  # now, while the weights are there
        return seen if seen.dtype is torch.float32 and seen.device == self._device else seen.to(self._device).float()

    @contextmanager
    def _on_its_device(self, number: int, member: Teacher) -> Iterator[None]:
        if self.one_at_a_time:
            for model in models_of(member):
                model.to(self._where[number])
        try:
            yield
        finally:
            self._put_away(member)

    def _put_away(self, member: Teacher) -> None:
        if self.one_at_a_time:
            for model in models_of(member):
                model.to("cpu")


def shape_of(members: Sequence[Teacher]) -> ModelShape:
    """What several teachers are together, see `ModelShape.members`."""
    shapes = [each.shape for each in members]
    names = ", ".join("no model" if each is None else each.name for each in shapes)
    first = next((each for each in shapes if each is not None), ModelShape("", 0, 0, 0, 0))
    causal = any(each is not None and each.causal for each in shapes)
    return replace(first, name=f"ensemble of {names}", causal=causal, members=tuple(shapes))


def _check_weights(weights: Any, count: int) -> None:
    if weights is None or weights == "confidence":
        return
    if isinstance(weights, str) or len(weights) != count:
        raise ValueError(f'EnsembleTeacher: weights={weights!r}; pass {count} numbers, or "confidence".')
    if not all(isfinite(each) and each >= 0 for each in weights) or not sum(weights):
        raise ValueError(f"EnsembleTeacher: weights={list(weights)}; none may be negative, and one must be above 0.")


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # no such name, none of it here, or torch is built without
        raise ValueError(
            f'EnsembleTeacher: devices names {name!r}, and there is none here. Use names such as "cpu" or "cuda:0".'
        ) from error


def _check_movable(member: Teacher) -> None:
    fixed = next((m for m in models_of(member) if _is_placed(m)), None)
    if fixed is not None:
        raise ValueError(
            f"{type(anatomy.unwrap(fixed)).__name__} is quantised or spread over devices and stays where it is. Leave "
            "one_at_a_time out."
        )


def _is_placed(model: nn.Module) -> bool:
    return bool(getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False))


def _moved(batch: Batch, device: torch.device) -> Batch:
    """The batch as a teacher on that device reads it."""
    tensors = [each for each in batch.inputs.values() if isinstance(each, Tensor)]
    if all(each.device == device for each in tensors):
        return batch
    inputs = {name: each.to(device) if isinstance(each, Tensor) else each for name, each in batch.inputs.items()}
    return replace(batch, inputs=inputs)
