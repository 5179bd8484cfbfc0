"""Derivatives of a model's answer by its token embeddings, from what one forward left behind."""

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.signals import Signal
from hf_distill.tasks import task_values


@torch.enable_grad()  # also for a teacher, and in evaluation
def input_gradient(logits: Tensor, embeddings: Tensor, batch: Batch, signal: Signal, create_graph: bool) -> Tensor:
    """What a signal made by `signals.input_gradient` asks for.

    Every example's derivative is that of its own answer: rows do not see one another, and padding gets 0.

    Args:
        logits: of the forward that read `embeddings`, with their graph.
        embeddings: (batch, tokens, width), part of that graph.
        batch: knows the labels, what counts, and the random directions of this step.
        signal: says along what, and how often.
        create_graph: whether the result is differentiated again.

    Returns:
        (batch, tokens, width).

    Raises:
        ValueError: the labels' loss is asked for, and the batch has none.
    """
    answers = batch.align(logits)
    if signal.direction == "loss":
        if batch.labels is None:
            raise ValueError("input_gradient along the loss needs a labels column, and the batch has none.")
        answer = batch.total(task_values(answers, batch.labels, batch.task), over="targets")
    else:
        along = batch.random_direction(f"logits {signal.direction}", answers.shape[-1])
        answer = batch.total((answers.float() * along).sum(-1), over="predictions")
    gradient = _derivative(answer, embeddings, create_graph or signal.order == 2)
    if signal.order == 1:
        return gradient
    along = batch.random_direction(f"embeddings {signal.direction}", embeddings.shape[-1])
    return _derivative((batch.clean(signal, gradient) * along).sum(), embeddings, create_graph)


def _derivative(answer: Tensor, embeddings: Tensor, create_graph: bool) -> Tensor:
    (found,) = torch.autograd.grad(answer, embeddings, retain_graph=True, create_graph=create_graph)
    return found
