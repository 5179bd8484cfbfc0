"""Any function as the teacher: rules, a service elsewhere, another library's model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, ModelShape, Signal, Signals
from hf_distill.teachers.base import Teacher


class CallableTeacher(Teacher):
    """Asks a function about every batch:

        def service(batch):
            texts = tokenizer.batch_decode(batch.inputs["input_ids"], skip_special_tokens=True)
            return requests.post(URL, json=texts, timeout=60).json()       # a row of logits for each text

        teacher = CallableTeacher(service)

    What it answers is checked in every batch, brought to the student's device in float32, and cut from any graph. It
    is asked by every process about its own rows, and again in every epoch: keep answers in the function if it is slow,
    and try again in it where a connection may break.

    Args:
        function: is given the `Batch`, and answers logits of the student's classes in their order (a tensor, an array
            or a list of rows), or {signal: tensor} where losses ask for more.
        input_names: columns that it reads beside the student's own.
        shape: what it is, for losses that match layers.

    Raises:
        ValueError: it cannot be called.
    """

    def __init__(
        self,
        function: Callable[[Batch], Any],
        input_names: Sequence[str] = (),
        shape: ModelShape | None = None,
    ) -> None:
        if not callable(function):
            raise ValueError(f"CallableTeacher needs a function of a batch, not a {type(function).__name__}.")
        self.function, self.input_names, self.shape = function, input_names, shape
        self._name = getattr(function, "__name__", type(function).__name__)

    @property
    def known_as(self) -> str:  # type: ignore[override]
        """See `Teacher`."""
        return f"the function {self._name}" if self._name.isidentifier() else "a function"

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. The function is not called."""
        self._wanted, self._device = wanted, device
        self._classes = anatomy.describe(student).classes

    @torch.no_grad()
    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`.

        Raises:
            RuntimeError: the function failed.
            ValueError: it answered something else than what was asked: names what, and what was expected.
        """
        try:
            said = self.function(batch)
        except Exception as error:
            found = " ".join(str(error).split()) or "no message"
            raise RuntimeError(
                f"the teacher's function {self._name} failed on {batch.rows} rows at step {batch.seed}: "
                f"{type(error).__name__}: {found}"
            ) from error
        answers = said if isinstance(said, Mapping) else {LOGITS: said}
        wanted = self._wanted - self.only_evaluated if batch.training else self._wanted
        missing = sorted(str(signal) for signal in wanted if signal not in answers)
        if missing:
            raise ValueError(
                f"{self._name} answered {', '.join(map(str, answers)) or 'nothing'}, and the losses ask for "
                f"{', '.join(missing)} too. Return {{signal: tensor}} with all of them."
            )
        return {signal: self._checked(signal, value, batch) for signal, value in answers.items()}

    def _checked(self, signal: Signal, value: Any, batch: Batch) -> Tensor:
        try:
            answer = torch.as_tensor(value, dtype=torch.float32, device=self._device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{self._name} answered a {type(value).__name__} for {signal}, which is no tensor and makes none: "
                f"{' '.join(str(error).split())}"
            ) from error
        expected: tuple[Any, ...] = (batch.rows, *answer.shape[1:])
        if signal == LOGITS and self._classes and not batch.task.of_vocabulary:
            expected = _shape_of_logits(batch, self._classes)
        if tuple(answer.shape) != expected:
            raise ValueError(
                f"{self._name} answered {tuple(answer.shape)} for {signal} of a batch of {batch.rows} rows; expected "
                f"{expected}. Return a row for each example, with a logit for each of the student's classes."
            )
        looked_at = batch.align(answer) if signal == LOGITS else batch.clean(signal, answer)
        if not looked_at.isfinite().all():
            raise ValueError(f"{self._name} answered {signal} that is not finite at step {batch.seed}.")
        return answer


def _shape_of_logits(batch: Batch, classes: int) -> tuple[int, ...]:
    """What the student's own logits are of, where it is not a vocabulary."""
    if batch.task.per_example or batch.tokens is None:
        return (batch.rows, classes)
    tokens = batch.tokens.shape[1]
    return (batch.rows, tokens, classes) if batch.task.per_token else (batch.rows, classes, tokens)
