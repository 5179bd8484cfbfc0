"""What a teacher's owner may publish instead of texts: of each layer the mean and variance of its hidden states."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import EMBEDDINGS, Signal, Signals, hidden
from hf_distill.tasks import find_task

TENSORS, FACTS = "statistics.safetensors", "statistics.json"
SMALLEST = 1e-6  # of a published variance: what never changes is not divided by 0


@dataclass(frozen=True)
class Statistics:
    """Moments of a model's hidden states over the attended tokens of its owner's texts.

    Args:
        mean: (layers + 1, width), what enters block 0 first, then the output of each block.
        variance: the same shape.
        tokens: over how many they were taken.
    """

    mean: Tensor
    variance: Tensor
    tokens: int


def signals_of(model: nn.Module) -> list[Signal]:
    """The hidden states that statistics are of: what enters block 0, then each block's output."""
    return [hidden(EMBEDDINGS), *(hidden(layer) for layer in range(anatomy.describe(model).layers))]


@torch.no_grad()
def measure(
    model: nn.Module, rows: Any, collate: Callable[[list[Any]], Mapping[str, Any]], batch_size: int = 32
) -> Statistics:
    """Takes the statistics of a model on texts; the owner does, and publishes them with `save`.

    Args:
        model: in eval mode, where it is.
        rows: tokenised, a sequence of what `collate` puts together.
        collate: makes a batch, such as `DataCollatorWithPadding(tokenizer)`.
        batch_size: rows at a time.
    """
    signals, task = signals_of(model), find_task(anatomy.unwrap(model))
    capture, device = Capture(model, signals), next(model.parameters()).device
    total, squares, count = 0.0, 0.0, 0
    for start in range(0, len(rows), batch_size):
        inputs = collate([rows[index] for index in range(start, min(start + batch_size, len(rows)))])
        batch = Batch({name: value.to(device) for name, value in inputs.items()}, task)
        known = anatomy.accepted(model, batch.inputs)
        known.pop("labels", None)
        with capture:
            outputs = model(**known)
        seen = _at_tokens(capture.take(outputs, batch), signals, batch).double()
        total, squares, count = total + seen.sum(1), squares + seen.square().sum(1), count + seen.shape[1]
    mean = total / count
    return Statistics(mean.float().cpu(), (squares / count - mean.square()).clamp(min=0).float().cpu(), count)


def save(statistics: Statistics, folder: str | Path) -> None:
    """Writes `statistics.safetensors` and `statistics.json`, which hold no text and nothing of a single one.

    Args:
        statistics: of `measure`.
        folder: made where it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"mean": statistics.mean, "variance": statistics.variance}, folder / TENSORS)
    layers, width = statistics.mean.shape
    facts = {"version": 1, "tokens": statistics.tokens, "layers": layers - 1, "width": width}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load(folder: str | Path, model: nn.Module) -> Statistics:
    """What `save` wrote.

    Args:
        folder: the owner's.
        model: whose statistics they must be.

    Raises:
        ValueError: there are none, or they are of a model of another size.
    """
    folder = Path(folder)
    if not (folder / TENSORS).exists() or not (folder / FACTS).exists():
        raise ValueError(
            f"{folder} holds no {TENSORS} and {FACTS}. The teacher's owner makes them: "
            "augment.statistics.save(augment.statistics.measure(model, rows, collate), folder)."
        )
    tensors, facts = load_file(folder / TENSORS), json.loads((folder / FACTS).read_text(encoding="utf-8"))
    shape = anatomy.describe(model)
    if tensors["mean"].shape != (shape.layers + 1, shape.width):
        raise ValueError(
            f"{folder} holds statistics of {facts['layers']} layers of width {facts['width']}, and the teacher has "
            f"{shape.layers} of width {shape.width}. Take those of this teacher."
        )
    return Statistics(tensors["mean"], tensors["variance"], int(facts["tokens"]))


def distance(seen: Signals, batch: Batch, statistics: Statistics) -> Tensor:
    """How far a batch's hidden states are from the published ones: a scalar, 0 where the moments are the same.

    The squared difference of means in units of the published variance, and of variances in units of it, averaged over
    layers and width.

    Args:
        seen: hidden states of `signals_of` the model, with gradient.
        batch: knows the attended tokens.
        statistics: on the same device.
    """
    found = _at_tokens(seen, list(seen_in_order(seen)), batch).float()
    variance = statistics.variance.clamp(min=SMALLEST)
    mean = found.mean(1)
    apart = (mean - statistics.mean).square() / variance
    spread = ((found - mean[:, None]).square().mean(1) / variance - 1).square()
    return (apart + spread).mean()


def seen_in_order(seen: Signals) -> list[Signal]:
    """The hidden states among what was seen, from the embeddings up."""
    layers = sorted(signal.layer for signal in seen if signal.kind == "hidden" and isinstance(signal.layer, int))
    return [hidden(EMBEDDINGS), *map(hidden, layers)]


def _at_tokens(seen: Signals, signals: list[Signal], batch: Batch) -> Tensor:
    """Hidden states at the attended tokens: (layers, tokens, width)."""
    stacked = torch.stack([seen[signal] for signal in signals])
    kept = batch.tokens
    return stacked.flatten(1, 2) if kept is None else stacked[:, kept]
