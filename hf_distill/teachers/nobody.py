"""No teacher: the student learns alone, in the same trainer, from the same batches."""

from typing import Any

import torch
from torch import nn

from hf_distill.batch import Batch
from hf_distill.signals import Signal, Signals
from hf_distill.teachers.base import Teacher


class Nobody(Teacher):
    """Says nothing. With `losses=[TaskLoss()]` it is the baseline that a distilled student is compared with."""

    known_as = "the labels alone"

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: a loss asks the teacher for something.
        """
        if wanted:
            asked = ", ".join(sorted(str(signal) for signal in wanted))
            raise ValueError(
                f"the losses ask a teacher for {asked}, and Nobody says nothing. Pass losses=[TaskLoss()]."
            )

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`: an empty answer."""
        return {}
