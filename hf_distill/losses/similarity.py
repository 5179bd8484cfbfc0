"""Similarity-preserving distillation: examples that are alike for the teacher are alike for the student."""

import torch
from torch import Tensor

from hf_distill.losses.relation import RelationLoss, unit


def _similarities(rows: Tensor) -> Tensor:
    """Dot products of all rows, each row of them over its length: (batch, dim) -> (batch, batch)."""
    with torch.autocast(rows.device.type, enabled=False):
        return unit(rows @ rows.T)


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of the two row-normalised Gram matrices of a batch.

    Args:
        student: embeddings, shape (batch, dim).
        teacher: embeddings, shape (batch, dim of its own).

    Returns:
        A scalar, float32, in [0, 4 / batch]: mean over all batch^2 entries. Free of each side's scale and rotation.
        0, with gradient 0, for one row.

    Reference: Tung, Mori 2019, arXiv:1907.09682, equation 4; the authors use weight 3000.
    Differs from the paper: a row of zeros is similar to nothing, with gradient 0.
    """
    student, teacher = student.float(), teacher.detach().float()
    if len(student) == 1:  # 1 against 1, unless one is a row of zeros
        return student.sum() * 0.0
    return (_similarities(student) - _similarities(teacher)).square().mean()


class SimilarityPreserving(RelationLoss):
    """Dot products between the examples of a batch, relative to those of the same example. Any widths.

    Take it where the direction from the origin has a meaning, as in the vector that a classifier reads;
    `CorrelationCongruence` where lengths should not matter, `RKDDistance` where the origin should not. Values are of
    order 1 / batch, so that weights in the thousands are usual.

    Args:
        pooling: the vector of an example: its ``"first"``, ``"last"`` or ``"mean"`` attended token in the last block.
        weight: what the term is multiplied by in the total, a number or a schedule.
    """

    citation: str = "Tung, Mori 2019, Similarity-Preserving Knowledge Distillation, arXiv:1907.09682"

    def relate(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_preserving(student, teacher)
