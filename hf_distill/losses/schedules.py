"""Weights that change while the student trains: a number from the share of the training that is done."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Weight = float | Callable[[float], float]


@dataclass(frozen=True)
class Schedule:
    """A weight as a function of training progress, 0 at the first step and 1 at the end. Make it with the functions.

    Args:
        kind: the curve between `start` and `end`.
        start: the weight at the first step.
        end: the weight from `over` on.
        over: the share of the training after which it stays at `end`.

    Raises:
        ValueError: a value is not finite, `over` is not in (0, 1], or the curve is not known.
    """

    kind: Literal["linear", "cosine"]
    start: float
    end: float
    over: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "cosine"):
            raise ValueError(f'a schedule is "linear" or "cosine", not {self.kind!r}.')
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"a schedule goes between two numbers, not {self.start} and {self.end}.")
        if not 0 < self.over <= 1:
            raise ValueError(f"over={self.over} is no share of the training; it must be above 0 and at most 1.")

    def __call__(self, progress: float) -> float:
        """The weight when `progress`, 0 to 1, of the training is done."""
        share = min(max(progress / self.over, 0.0), 1.0)
        if self.kind == "cosine":
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share

    def __str__(self) -> str:
        when = "" if self.over == 1 else f" over {self.over:g} of the training"
        return f"{self.kind} from {self.start:g} to {self.end:g}{when}"


@dataclass(frozen=True)
class Stairs:
    """A weight that stays as it is through each of `count` equal parts of the training. Make it with `stairs`.

    Args:
        start: one stair before the first.
        end: the last stair.
        count: how many stairs; the last of 2.5 is half as long as the others.

    Raises:
        ValueError: a value is not finite, or there is no stair.
    """

    start: float
    end: float
    count: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise ValueError(f"stairs go between two numbers, not {self.start} and {self.end}.")
        if not (isinstance(self.count, int | float) and math.isfinite(self.count) and self.count > 0):
            raise ValueError(f"stairs: count={self.count!r} is no number of stairs; it must be above 0.")

    def __call__(self, progress: float) -> float:
        """The weight when `progress`, 0 to 1, of the training is done."""
        stair = math.floor(progress * self.count + 1e-6) + 1  # a step that begins a part stands on its own stair
        last = math.ceil(self.count)
        return self.start + (self.end - self.start) * min(max(stair, 1), last) / last

    def __str__(self) -> str:
        return f"{self.count:g} stairs from {self.start:g} to {self.end:g}"


def linear(start: float, end: float, over: float = 1.0) -> Schedule:
    """A straight line from `start` to `end`, reached when the share `over` of the training is done."""
    return Schedule("linear", start, end, over)


def cosine(start: float, end: float, over: float = 1.0) -> Schedule:
    """Half a cosine from `start` to `end`: slow, fast, slow."""
    return Schedule("cosine", start, end, over)


def warmup(end: float = 1.0, over: float = 0.1) -> Schedule:
    """A straight line from 0 to `end`, then `end`: what DKD does over its first epochs."""
    return Schedule("linear", 0.0, end, over)


def stairs(start: float, end: float, count: float) -> Stairs:
    """`count` equal parts of the training, the first one stair away from `start` and the last at `end`: by the epoch.

    With one stair an epoch it is the weight of PS-KD in epoch e = 0, 1, ...: start + (end - start) (e + 1) / count.
    """
    return Stairs(start, end, count)


SCHEDULES: dict[str, Callable[..., Schedule | Stairs]] = {
    "linear": linear,
    "cosine": cosine,
    "warmup": warmup,
    "stairs": stairs,
}


def weight_at(weight: Weight, progress: float) -> float:
    """A weight, whether it is a number or a schedule, when `progress`, 0 to 1, of the training is done."""
    return weight(progress) if callable(weight) else weight


def check_weight(weight: Any, who: str) -> None:
    """Refuses what is no weight.

    Raises:
        ValueError: it is neither a number that is finite and not negative, nor a schedule.
    """
    number = isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0
    if not (callable(weight) or number):
        raise ValueError(f"{who}: weight={weight!r} is neither a number of at least 0 nor a schedule, such as linear.")


def as_weight(value: Any) -> Weight:
    """A weight as a recipe writes it: a number, or one schedule with its arguments, `{linear: [1.0, 0.0]}`.

    Raises:
        ValueError: there is no such schedule, or its arguments do not fit.
    """
    if not isinstance(value, dict):
        return float(value)
    if len(value) != 1 or (kind := next(iter(value))) not in SCHEDULES:
        known = ", ".join(SCHEDULES)
        raise ValueError(f"a weight is a number or one of {known} with its arguments, such as {{linear: [1.0, 0.0]}}.")
    arguments = value[kind]
    make = SCHEDULES[kind]
    try:
        if isinstance(arguments, dict):
            return make(**arguments)
        return make(*(arguments if isinstance(arguments, list) else [arguments]))
    except TypeError as error:
        raise ValueError(f"{kind}: {error}; write {{{kind}: [...]}}.") from error
