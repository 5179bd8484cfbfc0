"""Weights from gradients: each term pulls on the student as hard as it was asked to."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

LARGEST = 1e3  # a term whose gradient has all but vanished is not blown up beyond this, nor shrunk below its inverse


def gradient_norms(
    terms: Mapping[str, Tensor],
    layers: Sequence[Iterable[nn.Parameter]],
    reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient,
) -> Tensor:
    """How hard each term pulls on the last layer that all of them reach.

    Args:
        terms: {name: scalar with its graph}; the graph is kept.
        layers: the trainable parameters of the student's layers, first to last.
        reduce: makes of one process's gradient that of all processes.

    Returns:
        (terms,), float32: the norm of each term's gradient by that layer's parameters.

    Raises:
        ValueError: no layer is reached by all terms.
    """
    for parameters in reversed([list(each) for each in layers]):
        if not parameters:
            continue
        found = [_norm(term, parameters, reduce) for term in terms.values()]
        norms = [norm for norm in found if norm is not None]
        if len(norms) == len(found):
            return torch.stack(norms)
    raise ValueError(
        f'balance="gradient_norm" needs a trainable layer of the student that all terms reach, and {", ".join(terms)} '
        "have none in common. Leave balance out."
    )


def _norm(term: Tensor, parameters: list[nn.Parameter], reduce: Callable[[Tensor], Tensor]) -> Tensor | None:
    if not term.requires_grad:
        return None
    gradients = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    reached = [each.float().flatten() for each in gradients if each is not None]
    return torch.linalg.vector_norm(reduce(torch.cat(reached))) if reached else None


def multipliers(norms: Tensor, ratios: Tensor) -> Tensor:
    """What the weighted terms are multiplied by, so that their gradients have the ratios of the weights.

    The sum of the norms stays what the weights alone make it, but where `LARGEST` cuts.

    Args:
        norms: (terms,), of the gradients of the terms without their weights.
        ratios: (terms,), the weights, not negative. One that is 0 now and grows later gets its multiplier now.

    Returns:
        (terms,). 1 where there is no gradient, or none that is finite; between 1 / `LARGEST` and `LARGEST`.

    Reference: Chen et al. 2018, GradNorm, arXiv:1711.02257, the norms at the last shared layer.
    Differs from the paper: the ratios are the user's and are met at once, where the paper learns weights that equal
    the rates of training.
    """
    pulls = (norms > 0) & norms.isfinite()
    known, asked = torch.where(pulls, norms, 0.0), torch.where(pulls, ratios, 0.0)
    if not asked.any():
        asked = pulls.float()
    mean = (asked * known).sum() / asked.sum().clamp(min=torch.finfo(asked.dtype).tiny)
    return torch.where(pulls, mean / torch.where(pulls, norms, 1.0), 1.0).clamp(1 / LARGEST, LARGEST)
