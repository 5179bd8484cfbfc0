"""Neuron selectivity transfer: at which tokens the neurons of a layer are active, as one distribution of patterns."""

from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import LayerLoss
from hf_distill.losses.states import refuse_other_positions, sum_in_blocks, unit, valid
from hf_distill.signals import Layer, Signal, hidden


def _squares(rows: Tensor, their_rows: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    with torch.autocast(student.device.type, enabled=False):
        difference = rows @ student.transpose(1, 2) - their_rows @ teacher.transpose(1, 2)
    return difference.square().sum((1, 2))


def nst(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared maximum mean discrepancy of the two sets of neurons, with the kernel k(a, b) = (a . b)^2.

    A neuron is one entry of the width; what it says at the valid tokens, divided by its length, is its pattern. The
    mean kernels over all pairs of neurons are the squared difference of two Gram matrices over tokens, which is never
    negative and needs no pairs of neurons. Goes over blocks of tokens where there are many.

    Args:
        student: hidden states, shape (batch, tokens, dim of its own).
        teacher: hidden states, shape (batch, tokens, dim of its own).
        mask: shape (batch, tokens), True where a token counts; None: all do. What is masked may hold NaN.

    Returns:
        One value per example, 0 to 2, shape (batch,), float32; 0 for an example without tokens. One token has no
        pattern: it gives 0 as well.

    Raises:
        ValueError: the numbers of positions differ.

    Reference: Huang, Wang 2017, arXiv:1707.01219, the squared MMD with the polynomial kernel (degree 2, no constant).
    Differs from the paper: tokens stand for the places of a map and width for its channels.
    """
    refuse_other_positions(student.shape[1], teacher.shape[1], "nst")
    sides = (valid(student, mask), valid(teacher.detach(), mask))
    student, teacher = (unit(side, dim=1) * side.shape[2] ** -0.5 for side in sides)
    return sum_in_blocks(_squares, student, teacher, student, teacher, each=student.shape[0] * student.shape[1])


class NST(LayerLoss):
    """Token patterns of the neurons in hidden states of matched layers, mean over examples. Any widths, no projection.

    Take it where the two spaces have no axes in common and an example has many tokens or patches; `AttentionTransfer`
    keeps one number a token, `HiddenMSE` compares neuron with neuron.

    Args:
        layers: {student layer: teacher layer}, ``"embeddings"`` among them, or ``"uniform"`` over the depth, or
            ``"last"``; see `LayerLoss`.
        weight: what the term is multiplied by in the total, a number or a schedule; others' code takes 50.
    """

    citation: str = "Huang, Wang 2017, Like What You Like: Neuron Selectivity Transfer, arXiv:1707.01219"
    allows_embeddings: ClassVar[bool] = True

    def signal(self, layer: Layer) -> Signal:
        return hidden(layer)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return batch.mean(nst(student, teacher, batch.tokens), over="examples")
