"""Patient knowledge distillation: the direction of the first token's state, layer by layer."""

from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses.projection import ProjectedLayerLoss
from hf_distill.losses.states import unit
from hf_distill.signals import ModelShape
from hf_distill.tasks import Task


def patient(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the two vectors, each divided by its length first.

    Args:
        student: states in the teacher's width, shape (..., dim).
        teacher: states, shape (..., dim).

    Returns:
        One value per vector, 0 (same direction) to 4 (opposite), summed over dim, shape (...), float32. A vector of
        zeros has no direction: against another it gives 1, with a finite gradient.

    Reference: Sun et al. 2019, arXiv:1908.09355, the loss L_PT.
    Differs from the paper: nothing; the authors' code averages over the width as well, so their weights are larger.
    """
    return (unit(student) - unit(teacher.detach())).square().sum(-1)


class Patient(ProjectedLayerLoss):
    """First attended tokens of matched layers, by the squared distance of their directions, mean over examples.

    Take it for classifiers of the BERT kind, whose answer is read off the first token; `HiddenCosine` where every
    token answers, and for decoders, whose first token sees nothing but itself.

    Args:
        layers: {student layer: teacher layer}, or ``"last"``; ``"uniform"`` over the depth leaves out the student's
            last layer, which the logits teach (the paper's PKD-Skip: 6 layers of 12 learn from 2, 4, 6, 8, 10, counted
            from 1).
        projection: ``"auto"`` builds a linear one for each pair where the widths differ, ``"linear"`` always,
            ``"shared"`` one for all pairs; ``"none"`` refuses widths that differ.
        bias: whether projections have one.
        weight: what the term is multiplied by in the total, a number or a schedule; the paper tries 10 to 1000.
    """

    citation: str = "Sun et al. 2019, Patient Knowledge Distillation for BERT, arXiv:1908.09355"

    def setup(self, student: ModelShape, teacher: ModelShape | None, task: Task) -> None:
        """See `Loss.setup`.

        Raises:
            ValueError: as `ProjectedLayerLoss.setup`, or nothing is left of a student of one layer.
        """
        super().setup(student, teacher, task)
        if self.layers != "uniform":
            return
        self.matched.pop(student.layers - 1)
        if not self.matched:
            raise ValueError(
                f'Patient: layers="uniform" leaves out the last layer, and the student {student.name} has no other. '
                'Pass layers="last" to match it.'
            )
        del self.projections[len(self.matched) :]

    def compare(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        first = batch.pool(student, "first"), batch.pool(teacher, "first")
        return batch.mean(patient(*first), over="examples")
