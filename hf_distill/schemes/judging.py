"""What a teacher itself is worth: it is evaluated as a student is."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS
from hf_distill.trainer import DistillationTrainer


class Judge(DistillationTrainer):
    """A trainer whose predictions are the teacher's, so that `compute_metrics` is of those:

    Judge(student, teacher, losses, args, eval_dataset=..., compute_metrics=...).evaluate()

    The losses and the agreement are still the student's.
    """

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """See `DistillationTrainer.compute_loss`.

        Raises:
            ValueError: the teacher gives no logits.
        """
        found = super().compute_loss(model, inputs, return_outputs, *args, **kwargs)
        if not return_outputs:
            return found
        seen = self.teacher.observe(Batch(inputs, self.task, causal=self._causal))
        if LOGITS not in seen:
            raise ValueError(f"{type(self.teacher).__name__} gives no logits, so it cannot be judged by them.")
        return found[0], {"logits": seen[LOGITS]}
