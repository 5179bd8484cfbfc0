"""Cosine distance of hidden states."""

import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.projection import ProjectedLayerLoss


def hidden_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine of the angle between the two.

    Args:
        student: hidden states in the teacher's width, shape (..., dim).
        teacher: hidden states, shape (..., dim).

    Returns:
        One value per position, 0 (same direction) to 2, shape (...), float32. A zero vector gives 1.

    Reference: Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 2, "Training loss", without a number.
    Differs from the paper: nothing.
    """
    return 1 - F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1)


class HiddenCosine(ProjectedLayerLoss):
    """Hidden states of matched layers, by cosine over attended tokens.

    Take it as DistilBERT does (`layers="last"`), beside soft targets: it aligns directions and leaves the lengths
    free, where `HiddenMSE` fixes both.
    """

    citation: str = "Sanh et al. 2019, DistilBERT, a distilled version of BERT, arXiv:1910.01108"

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        return batch.mean(hidden_cosine(student, teacher), over="tokens")
