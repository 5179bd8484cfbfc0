"""Embeddings that no text has, made so that a teacher is sure of them: what a student learns from without any text."""

import zlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.augment import statistics as moments
from hf_distill.augment.statistics import Statistics
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task, find_task


def uncertainty(logits: Tensor, task: Task) -> Tensor:
    """How unsure the answers are, in nats, a scalar: the cross entropy with the answer itself.

    Args:
        logits: (rows, classes).
        task: single label: with the most probable class; multi-label: with the most probable label being there.
    """
    if task is Task.MULTI_LABEL:
        return F.softplus(-logits.float().amax(-1)).mean()
    return F.cross_entropy(logits.float(), logits.argmax(-1))


def entropy(logits: Tensor, task: Task) -> Tensor:
    """Of the batch's mean answer, in nats, a scalar: the logarithm of the classes where all are as frequent.

    Args:
        logits: (rows, classes).
        task: multi-label: of the labels' shares in the sum of their probabilities.
    """
    shares = (logits.float().sigmoid() if task is Task.MULTI_LABEL else logits.float().softmax(-1)).mean(0)
    shares = shares / shares.sum()
    return -(shares * shares.clamp(min=torch.finfo(torch.float32).tiny).log()).sum()


@dataclass(frozen=True)
class Wanted:
    """What inputs are made for: `confidence` * uncertainty - `diversity` * entropy + `matching` * distance.

    Reference: Chen et al. 2019 (DAFL), arXiv:1904.01186, its one-hot and information-entropy terms.
    Differs from the paper: natural logarithms, where its code has log10, and no activation term: after a LayerNorm it
    hardly changes. Layer statistics take the place of what others match in batch norms, which transformers have not.

    Args:
        confidence: weight of `uncertainty`.
        diversity: weight of `entropy`.
        matching: weight of `statistics.distance`, where there are statistics.
        statistics: what the teacher's owner published; None: nothing.
    """

    confidence: float = 1.0
    diversity: float = 5.0
    matching: float = 1.0
    statistics: Statistics | None = None


class Answering:
    """A frozen model's answers to embeddings, and how good these are.

    Args:
        model: in eval mode, where it is.
        wanted: what good is.
    """

    def __init__(self, model: nn.Module, wanted: Wanted) -> None:
        self.model, self.wanted = model, wanted
        self.task = find_task(anatomy.unwrap(model))
        self.device = next(model.parameters()).device
        signals = [LOGITS, *(moments.signals_of(model) if wanted.statistics is not None else [])]
        self._capture = Capture(model, signals)
        found = wanted.statistics
        self._statistics = found and Statistics(
            found.mean.to(self.device), found.variance.to(self.device), found.tokens
        )

    def __call__(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """What is to become small, a scalar, and the logits; both with gradient to the embeddings."""
        batch = Batch({"inputs_embeds": embeddings}, self.task)
        with self._capture:
            outputs = self.model(inputs_embeds=embeddings)
        seen = self._capture.take(outputs, batch)
        logits, wanted = seen.pop(LOGITS), self.wanted
        loss = wanted.confidence * uncertainty(logits, self.task) - wanted.diversity * entropy(logits, self.task)
        if self._statistics is not None:
            loss = loss + wanted.matching * moments.distance(seen, batch, self._statistics)
        return loss, logits


def soft_inputs(
    model: nn.Module,
    rows: int,
    length: int,
    wanted: Wanted | None = None,
    steps: int = 100,
    learning_rate: float = 0.1,
    batch_size: int = 64,
    seed: int = 0,
) -> Tensor:
    """Starts from the embeddings of random tokens, and changes them (Adam) until the teacher is sure of them.

    Args:
        model: the teacher, in eval mode, where it is.
        rows: how many.
        length: embeddings in a row.
        wanted: see `Wanted`.
        steps: of the optimizer, for each batch.
        learning_rate: as a share of the deviation of the teacher's table.
        batch_size: rows that are made together, whose answers are to differ.
        seed: of the random tokens.

    Returns:
        (rows, length, width), float32, on the processor.
    """
    answering, table = Answering(model, wanted or Wanted()), table_of(model)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} soft inputs".encode()))
    found = []
    for start in range(0, rows, batch_size):
        ids = torch.randint(len(table), (min(batch_size, rows - start), length), generator=generator)
        embeddings = table[ids.to(table.device)].clone().requires_grad_()
        optimizer = torch.optim.Adam([embeddings], lr=learning_rate * float(table.std()))
        for _ in range(steps):
            with torch.enable_grad():
                (embeddings.grad,) = torch.autograd.grad(answering(embeddings)[0], embeddings)
            optimizer.step()
        found.append(embeddings.detach().cpu())
    return torch.cat(found)


def table_of(model: nn.Module) -> Tensor:
    """The embeddings of all tokens as a model's blocks are given them: (vocabulary, width), float32."""
    table: Any = anatomy.find_embeddings(model)
    with torch.no_grad():
        found: Tensor = table(torch.arange(table.num_embeddings, device=table.weight.device)).float()
    return found
