"""The student teaches itself: each view of an example is told what the student says of the other view."""

from typing import Any

import torch
from torch import nn

from hf_distill.batch import Batch
from hf_distill.signals import Signal, Signals
from hf_distill.teachers.base import Teacher

ROW = "row_of_view"
"""The column that training rows have and others have not: the number of the row. A batch that has it holds each
example twice, first views first."""


class SwappedViews(Teacher):
    """Answers every row with what the student itself says, in the same step, of the other view of that example.

    Batches come from `augment.TwoViews`. In others, as in an evaluation, every row is answered with what the student
    says of it, so that such a term is 0 there. It answers logits, and what else is one vector an example.

    Reference: Xu and Liu 2019, Data-Distortion Guided Self-Distillation for Deep Neural Networks, AAAI 2019.
    """

    input_names = (ROW,)
    known_as = "its own answers to another view of the text"
    answers_late = True

    def __init__(self) -> None:
        self._wanted: frozenset[Signal] = frozenset()

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`."""
        self._wanted = wanted

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`: nothing is known before the student has spoken."""
        return {}

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`."""
        rows = batch.inputs.get(ROW)
        by = 0 if rows is None else len(rows) // 2
        return {signal: student[signal].detach().roll(by, 0) for signal in self._wanted}
