"""How long models take: forward passes timed in turns, so that ratios are fair on a machine that slows down."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Measurement, Timer


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of a forward pass, divided by the examples in it.

    Attributes:
        milliseconds: median, per example.
        iqr: interquartile range (75th less 25th percentile) of the same, milliseconds per example.
        batch_size: examples in one forward pass.
        threads: CPU threads of torch while measuring.
        device: where it ran: "cpu", or the name of the accelerator.
        runs: how many timings the median is taken of.
    """

    milliseconds: float
    iqr: float
    batch_size: int
    threads: int
    device: str
    runs: int


def latency(
    model: nn.Module, inputs: Mapping[str, Tensor], seconds: float = 2.0, threads: int = 1, rounds: int = 5
) -> Latency:
    """Time one model; see `latencies`. Two models are to be compared by one call of `latencies`, not two of this."""
    return latencies({"model": model}, inputs, seconds=seconds, threads=threads, rounds=rounds)["model"]


def latencies(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    seconds: float = 2.0,
    threads: int = 1,
    rounds: int = 5,
) -> dict[str, Latency]:
    """Time several models in turns, so that a machine that slows down slows all of them: ratios are fair.

    Runs in eval and inference mode; every submodule gets its own mode back afterwards, also after an error.

    Args:
        models: by name, each on one device.
        inputs: one batch of tensors, the first dimension the examples, without labels (they would add the loss).
            Each model gets those that its `forward` names: a DistilBERT takes no `token_type_ids`.
        seconds: measured per model, over all rounds, after a warm-up.
        threads: CPU threads of torch while measuring. One, by default: it is comparable between machines.
        rounds: turns that each model gets; every second one goes backwards through the models.

    Returns:
        A `Latency` per name.

    Raises:
        ValueError: no models, no inputs, or numbers that are not positive.
    """
    if not models or not inputs:
        raise ValueError(f"nothing to time: {len(models)} models, {len(inputs)} inputs.")
    if seconds <= 0 or threads < 1 or rounds < 1:
        raise ValueError(f"seconds={seconds}, threads={threads} and rounds={rounds} must be positive.")
    batch_size = len(next(iter(inputs.values())))
    timers = {name: Timer("forward()", globals={"forward": _forward(model, inputs)}, num_threads=threads)
              for name, model in models.items()}  # fmt: skip
    turns: dict[str, list[Measurement]] = {name: [] for name in models}
    with _evaluating(models), torch.inference_mode():
        for timer in timers.values():
            timer.timeit(1)
        for turn in range(rounds):
            for name in list(models)[:: -1 if turn % 2 else 1]:
                turns[name].append(timers[name].blocked_autorange(min_run_time=seconds / rounds))
    return {
        name: _latency(
            [time for measured in turns[name] for time in measured.times], batch_size, threads, models[name]
        )
        for name in models
    }


def _forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
    named = inspect.signature(model.forward).parameters
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    wanted = {key: value for key, value in inputs.items() if key in named} or dict(inputs)
    here = {key: value.to(device) for key, value in wanted.items()}
    return lambda: model(**here)


@contextmanager
def _evaluating(models: Mapping[str, nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for model in models.values() for module in model.modules()]
    try:
        for model in models.values():
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _latency(times: Sequence[float], batch_size: int, threads: int, model: nn.Module) -> Latency:
    per_example = torch.tensor(times, dtype=torch.float64) / batch_size * 1e3
    low, median, high = torch.quantile(per_example, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Latency(median, high - low, batch_size, threads, name, len(times))
