"""Mean squared error of hidden states."""

import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.projection import ProjectedLayerLoss


def hidden_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference, mean over the width.

    Args:
        student: hidden states in the teacher's width, shape (..., dim).
        teacher: hidden states, shape (..., dim).

    Returns:
        One value per position, shape (...), float32.

    Reference: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, equation 8.
    Differs from the paper: nothing; the authors' code averages over padding too, `HiddenMSE` does not.
    """
    return F.mse_loss(student.float(), teacher.detach().float(), reduction="none").mean(-1)


class HiddenMSE(ProjectedLayerLoss):
    """Hidden states of matched layers, by squared error over attended tokens.

    Take it where the student was cut out of the teacher, or has a projection and time to learn it; `HiddenCosine` if
    only the direction should be learned; `RKDDistance` where the spaces have nothing in common. One pair of layers
    alone, before all other losses, is FitNets' hint stage (Romero et al. 2015, arXiv:1412.6550).
    """

    citation: str = "Jiao et al. 2020, TinyBERT: Distilling BERT for NLU, arXiv:1909.10351"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return batch.mean(hidden_mse(student, teacher), over="tokens")
