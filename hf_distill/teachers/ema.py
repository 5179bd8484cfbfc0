"""The student's own average as its teacher: a mean teacher."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.signals import Signal
from hf_distill.teachers.model import ModelTeacher

_STEPS = "steps"


class EMATeacher(ModelTeacher):
    """An exponential average of the student's weights over its training, run as any frozen model is.

    After every optimizer step the average moves towards the student by `1 - decay`. In the first steps it is the plain
    mean of the start and of all steps so far, until `decay` remembers longer than that: else a short training would
    never get away from its start. Weights that are not trained (a base under adapters) are the student's, as buffers
    are. It answers every signal, so that hidden states may be matched with the average's too.

    Only a copy of the student is made, so that the student must not be spread over devices (FSDP, DeepSpeed).

    Args:
        student: what is trained. It is copied by `prepare`, and begins anew with a student that is made anew.
        decay: what is kept of the average in each step, 0 to below 1.

    Attributes:
        model: the average; the student itself before it is prepared.

    Raises:
        ValueError: `decay` is outside of that.

    Reference: Tarvainen and Valpola 2017, Mean teachers are better role models, arXiv:1703.01780.
    Differs from the paper: the shorter memory at the start is that of the authors' code, and one decay holds after it;
    the consistency cost is whatever losses are given, and one reading of the batch serves both, without noise of its
    own beside the student's dropout.
    """

    known_as = "the average of its own weights"

    def __init__(self, student: nn.Module, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMATeacher: decay={decay} keeps too much or too little; it must be 0 to below 1.")
        super().__init__(student)
        self.student = student
        self.decay = decay
        self._steps = 0
        self._averaged: dict[str, tuple[Tensor, Tensor]] = {}  # what is trained: the average's, the student's
        self._copied: list[tuple[Tensor, Tensor]] = []

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. The average starts as the student is now, in float32: its steps are small.

        Raises:
            ValueError: as that of `ModelTeacher`.
        """
        self.student, self.tokenizer, self._steps = student, tokenizer, 0
        self.model = copy.deepcopy(student).float().eval()
        super().prepare(student, wanted, device, tokenizer)
        mine = dict(self.model.named_parameters())
        trained = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
        self._averaged = {name: (mine[name], weight) for name, weight in trained.items()}
        theirs = dict(student.named_buffers())
        self._copied = [(buffer, theirs[name]) for name, buffer in self.model.named_buffers()]

    @torch.no_grad()
    def step(self) -> None:
        """See `Teacher.step`: the average moves."""
        self._steps += 1
        decay = min(self.decay, 1 - 1 / (self._steps + 1))
        for average, weight in self._averaged.values():
            average.lerp_(weight.to(average), 1 - decay)
        self._copy_buffers()

    def state(self) -> dict[str, Tensor]:
        """See `Teacher.state`: the averaged weights, and how many steps they are of."""
        return {_STEPS: torch.tensor(self._steps), **{name: mine for name, (mine, _) in self._averaged.items()}}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Teacher.load_state`.

        Raises:
            ValueError: the checkpoint holds no average, or one of another student.
        """
        wanted = {_STEPS: (), **{name: tuple(mine.shape) for name, (mine, _) in self._averaged.items()}}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if differ := [name for name in wanted | found if wanted.get(name) != found.get(name)]:
            raise ValueError(
                f"the checkpoint holds no average of this student: {differ[0]} is "
                f"{found.get(differ[0], 'missing')} there and {wanted.get(differ[0], 'missing')} here. Resume with "
                "the teacher and the student that wrote it, or start anew."
            )
        self._steps = int(state[_STEPS])
        for name, (average, _) in self._averaged.items():
            average.copy_(state[name])
        self._copy_buffers()

    def _copy_buffers(self) -> None:
        for mine, theirs in self._copied:
            mine.copy_(theirs)
