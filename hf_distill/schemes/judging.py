"""How good students and teachers are: evaluations without what differs from stage to stage."""

import copy
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from hf_distill import attachment
from hf_distill.batch import Batch
from hf_distill.config import DistillationConfig
from hf_distill.losses import SoftTargets
from hf_distill.signals import LOGITS
from hf_distill.teachers import Teacher
from hf_distill.trainer import DistillationTrainer

UNSAID = ("loss", "runtime", "preparation_time", "_per_second", "epoch")  # no quality: other stages have other losses


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


def measured(trainer: DistillationTrainer) -> dict[str, float]:
    """An evaluation, without the losses and the times: {metric: value}; nothing where there is nothing to evaluate."""
    found = trainer.evaluate() if trainer.eval_dataset is not None else {}
    terms = {f"eval_{name}" for name in trainer.objective.losses}
    return {name[5:]: value for name, value in found.items() if name not in terms and not name.endswith(UNSAID)}


def judged(
    teacher: Teacher,
    student: nn.Module,
    args: DistillationConfig,
    trainer_kwargs: Mapping[str, Any],
    only_checks: bool,
    watch: Callable[[DistillationTrainer], None] | None = None,
) -> dict[str, float]:
    """What `compute_metrics` says of a teacher's answers.

    Args:
        teacher: it gives logits.
        student: for what the losses would be of; it is not changed.
        args: of the evaluation; nothing is written to its folder.
        trainer_kwargs: with `eval_dataset` and `compute_metrics`.
        only_checks: whether nothing is evaluated, and only what cannot work is refused.
        watch: called with the trainer that evaluates, as with those of stages.
    """
    args = copy.copy(args)
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder
        heard = [SoftTargets(temperature=teacher.compared_at or 2.0)]
        judge = Judge(student, teacher, heard, args, **{**trainer_kwargs, "peft_config": None})
        if watch is not None and not only_checks:
            watch(judge)
        found = {} if only_checks else measured(judge)
    attachment.release(student)
    found.pop("agreement", None)  # of the student
    return found
