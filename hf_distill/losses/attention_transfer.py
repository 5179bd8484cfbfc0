"""Attention transfer: how strong each token of an example is, compared as one map."""

from typing import ClassVar

from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.base import LayerLoss
from hf_distill.losses.states import refuse_other_positions, unit, valid
from hf_distill.signals import Layer, Signal, hidden


def attention_transfer(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the two maps of energy over tokens, each of length 1, mean over tokens.

    The energy of a token is the mean of its squared state; the patches of an image are tokens too.

    Args:
        student: hidden states, shape (batch, tokens, dim of its own).
        teacher: hidden states, shape (batch, tokens, dim of its own).
        mask: shape (batch, tokens), True where a token counts; None: all do. What is masked may hold NaN.

    Returns:
        One value per example, shape (batch,), float32; 0 for an example without tokens. At most 2 / tokens, so that
        weights are large.

    Raises:
        ValueError: the numbers of positions differ.

    Reference: Zagoruyko, Komodakis 2017, arXiv:1612.03928, equation 2 with the map of summed squares.
    Differs from the paper: tokens stand for places and width for channels; the mean of squares, as in the authors'
    code, where the equation has the norm, whose gradient is not defined where both agree. In images the class token is
    one of the places, and maps of other sizes are refused, where the authors pool the larger one.
    """
    refuse_other_positions(student.shape[1], teacher.shape[1], "attention_transfer")
    energies = (valid(side, mask).square().mean(-1) for side in (student, teacher.detach()))
    mine, theirs = (unit(energy) for energy in energies)
    squares = (mine - theirs).square()
    return squares.mean(-1) if mask is None else squares.sum(-1) / mask.sum(-1).clamp(min=1)


class AttentionTransfer(LayerLoss):
    """Which tokens have strong hidden states in matched layers, one map an example, mean over examples. Any widths.

    Take it between models that share no space and have no attention to record (convolutions, state spaces, families
    that `AttentionKL` refuses), and for images; `NST` compares more than one number a token.

    Args:
        layers: {student layer: teacher layer}, ``"embeddings"`` among them, or ``"uniform"`` over the depth, or
            ``"last"``; see `LayerLoss`.
        weight: what the term is multiplied by in the total, a number or a schedule; the authors' is 1000.
    """

    citation: str = "Zagoruyko, Komodakis 2017, Paying More Attention to Attention, arXiv:1612.03928"
    allows_embeddings: ClassVar[bool] = True

    def signal(self, layer: Layer) -> Signal:
        return hidden(layer)

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return batch.mean(attention_transfer(student, teacher, batch.tokens), over="examples")
