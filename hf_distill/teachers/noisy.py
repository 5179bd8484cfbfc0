"""A teacher whose logits are noisy while the student trains."""

import math
from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import Task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache.keys import LABELS, keys_of, names_of
from hf_distill.teachers.other_view import check_outside
from hf_distill.teachers.wrapper import Wrapper
from hf_distill.top_k import TopK


class NoisyTeacher(Wrapper):
    """Disturbs the logits of some examples of every step by Gaussian noise, which regularises the student:

        teacher = NoisyTeacher(teacher, sigma=0.3, share=0.5)

    With noise n ~ N(0, sigma^2) for each logit, ``"multiplicative"`` makes (1 + n) z of a logit z and ``"additive"``
    z + n. An evaluation hears the teacher as it is. Other signals than the logits are left alone.

    What is drawn belongs to the example, the step and `seed`: it is the same whether a step's examples come at once,
    accumulated or on several processes, and after a resume; an example that stands twice in one step is disturbed
    alike. It is drawn on the CPU, and all of a vocabulary's logits come to exist for it.

    Args:
        teacher: who is disturbed: a model in eval mode, its id, or a `Teacher`.
        sigma: standard deviation of the noise.
        share: probability that an example is disturbed, drawn for each example by itself.
        kind: of the noise.
        seed: another one for each of several noisy teachers that one student hears.

    Raises:
        ValueError: an argument is out of range.

    Reference: Sau, Balasubramanian 2016, Distilling Knowledge from Noisy Teachers, arXiv:1610.09650.
    Differs from the paper: its values could not be confirmed. An implementation (KD_Lib) multiplies, with
    sigma^2 = 0.1 and a probability of 0.5 drawn once a batch; the additive kind is offered beside it.
    """

    def __init__(
        self,
        teacher: nn.Module | Teacher | str,
        sigma: float = 0.3,
        share: float = 0.5,
        kind: Literal["multiplicative", "additive"] = "multiplicative",
        seed: int = 0,
    ) -> None:
        super().__init__(teacher)
        if not (math.isfinite(sigma) and sigma >= 0):
            raise ValueError(f"NoisyTeacher: sigma is {sigma}; it must be 0 or more, 0.3 for example.")
        if not 0 <= share <= 1:
            raise ValueError(f"NoisyTeacher: share is {share}; it is a probability, 0 to 1.")
        if kind not in ("multiplicative", "additive"):
            raise ValueError(f'NoisyTeacher: kind={kind!r} is not known; use "multiplicative" or "additive".')
        self.sigma, self.share, self.kind, self.seed = sigma, share, kind, seed

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: an `OtherView` is inside.
        """
        check_outside(self)
        super().prepare(student, wanted, device, tokenizer)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`."""
        seen = self.teacher.observe(batch)
        if LOGITS not in seen or not torch.is_grad_enabled():  # an evaluation
            return seen
        theirs: Any = seen[LOGITS]
        if isinstance(theirs, TopK):
            return {**seen, LOGITS: cast(Tensor, replace(theirs, logits=self._disturbed(theirs.logits, batch)))}
        return {**seen, LOGITS: self._disturbed(theirs, batch)}

    def _disturbed(self, logits: Tensor, batch: Batch) -> Tensor:
        noise = self._noise(logits.shape, batch).to(logits.device)
        return logits + noise if self.kind == "additive" else logits * (1 + noise)

    def _noise(self, shape: torch.Size, batch: Batch) -> Tensor:
        """One number a logit, 0 in examples that are left alone and in padding, which moves nothing that is drawn."""
        noise = torch.zeros(shape)
        counted = batch.counted_positions(noise)
        tokens = batch.tokens if batch.task is Task.SPAN else None
        names = names_of(self.input_names, batch.inputs) or names_of(set(batch.inputs) - LABELS, batch.inputs)
        for row, key in enumerate(keys_of(batch.inputs, names, batch.tokens)[0]):
            generator = torch.Generator().manual_seed(_seed(batch.seed, self.seed, key))
            if torch.rand((), generator=generator) >= self.share:
                continue
            if counted is not None:
                kept: Iterable[Any] = (row, counted[row].cpu())
            else:
                kept = (row, ...) if tokens is None else (row, slice(None), tokens[row].cpu())
            noise[kept] = self.sigma * torch.randn(noise[kept].shape, generator=generator)
        return noise


def _seed(step: int, seed: int, key: Any) -> int:
    """A number for a generator, of the step, the teacher and the example."""
    digest = blake2b(f"{step} {seed} ".encode() + key.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
