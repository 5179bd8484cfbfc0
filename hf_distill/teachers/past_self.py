"""The student as it was when it last saw an example: the teacher of progressive self-distillation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache.keys import keys_of, names_of

CERTAIN = 1e4  # a logit that is a probability of exactly 0 or 1 in float32, at any temperature below 90
_TASKS = (Task.SINGLE_LABEL, Task.MULTI_LABEL, Task.REGRESSION, Task.TOKENS)
_STATE = {"keys", "rows", "logits"}


class PastSelf(Teacher):
    """Answers with the student's own logits of the last time that it was trained on the example.

    What was never trained on is answered with its label as a certain prediction, so that the KL to it is the cross
    entropy with the label (an evaluation shows that); and where there is no label either, with what the student says
    now, from which nothing is learned.

    An example is known by its content, as in a teacher's cache: by all that the student reads of it, padding left out.
    It needs no column of ids, and shuffling, padding, accumulation and several processes change nothing. The same text
    twice is one example, and text that is changed at random anew in every epoch is never met again.

    All logits of the training set are kept in memory, float32, on every process, and are part of each checkpoint.

    Reference: Kim, Ji, Yoon, Hwang 2021, Self-Knowledge Distillation with Progressive Refinement of Targets (PS-KD),
    arXiv:2006.12000.
    Differs from the paper: logits are kept where it keeps probabilities, so that several labels and numbers work too.
    """

    known_as = "its own answers of an epoch before"
    answers_late = True

    def __init__(self) -> None:
        self._seen: dict[bytes, Tensor] = {}
        self._read: list[str] = []
        self._task, self._classes = Task.SINGLE_LABEL, 0
        self._now: tuple[np.ndarray, np.ndarray] | None = None
        self._said = self._unknown = torch.empty(0)

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. Forgets all.

        Raises:
            ValueError: the task has no logits that are worth keeping, or the losses look at something else.
        """
        self._task = find_task(anatomy.unwrap(student))
        if self._task not in _TASKS:
            raise ValueError(
                f"PastSelf keeps the logits of every example, and those of a {self._task} model are none or too many. "
                "Use EMATeacher."
            )
        if beyond := sorted(str(signal) for signal in wanted - {LOGITS}):
            raise ValueError(
                f"the losses ask for {', '.join(beyond)}, and PastSelf keeps logits alone. Use EMATeacher, or losses "
                "on logits."
            )
        self._read, self._classes = anatomy.forward_names(student), anatomy.describe(student).classes
        self._seen = {}

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`. In an evaluation it has no opinion to agree with, and only `respond` answers."""
        self._now = keys_of(batch.inputs, names_of(self._read, batch.inputs), batch.tokens)
        said, unknown = self._by_labels(batch)
        for row, (key, (start, end)) in enumerate(zip(*self._now, strict=True)):
            if (past := self._seen.get(key.tobytes())) is not None:
                place = (row, slice(start, end)) if self._task is Task.TOKENS else (slice(row, row + 1),)
                said[place], unknown[place] = past.to(said.device), False
        self._said, self._unknown = said, unknown
        return {LOGITS: said} if torch.is_grad_enabled() else {}

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`: remembers what the student said, if it is being trained."""
        logits = student[LOGITS].detach().float()
        if torch.is_grad_enabled():
            self._remember(batch, logits)
        return {LOGITS: torch.where(self._unknown, logits, self._said)}

    def _by_labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the labels say as logits, and where they say nothing: (batch, classes), tokens between for tokens."""
        labels, shape = batch.labels, (batch.rows, self._classes)
        if self._task is Task.TOKENS:
            tokens = batch.tokens if labels is None else labels
            assert tokens is not None, "a model of tokens reads tokens"
            shape = (*tokens.shape, self._classes)
        if labels is None:
            device = next(each.device for each in batch.inputs.values() if isinstance(each, Tensor))
            return torch.zeros(shape, device=device), torch.ones(shape, dtype=torch.bool, device=device)
        if self._task is Task.REGRESSION:
            said = labels.float().reshape(shape)
            return said.clone(), torch.zeros_like(said, dtype=torch.bool)
        if self._task is Task.MULTI_LABEL:
            said = labels.float().clamp(0, 1).logit().clamp(-CERTAIN, CERTAIN)
            return torch.where(labels >= 0, said, 0.0), labels < 0
        known = (labels >= 0)[..., None].expand(shape)
        chosen = F.one_hot(labels.clamp(min=0), self._classes).bool()
        return torch.where(chosen | ~known, 0.0, -CERTAIN), ~known

    def _remember(self, batch: Batch, logits: Tensor) -> None:
        """What all processes said: another one may be asked about the example in the next epoch."""
        assert self._now is not None, "observe() comes first"
        keys, spans = self._now
        if batch.processes > 1:
            if self._task is Task.TOKENS:
                width = torch.tensor(logits.shape[1], device=logits.device)
                dist.all_reduce(width, dist.ReduceOp.MAX)
                logits = F.pad(logits, (0, 0, 0, int(width) - logits.shape[1]))
            numbers = torch.from_numpy(np.concatenate([keys.view(np.int64), spans], 1)).to(logits.device)
            every = batch.gather(numbers).cpu().numpy()
            keys, spans, logits = every[:, :2].copy().view(np.uint64), every[:, 2:], batch.gather(logits)
        said = logits.cpu()
        for row, (key, (start, end)) in enumerate(zip(keys, spans, strict=True)):
            kept = said[row, start:end] if self._task is Task.TOKENS else said[row : row + 1]
            self._seen[key.tobytes()] = kept.clone()

    def state(self) -> dict[str, Tensor]:
        """See `Teacher.state`: every example's key, number of rows and logits."""
        if not self._seen:
            return {}
        keys = np.frombuffer(b"".join(self._seen), np.int64).reshape(-1, 2)
        rows = [len(each) for each in self._seen.values()]
        logits = torch.cat(list(self._seen.values()))
        return {"keys": torch.from_numpy(keys.copy()), "rows": torch.tensor(rows), "logits": logits}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Teacher.load_state`.

        Raises:
            ValueError: the checkpoint holds no such memory, or one of another number of classes.
        """
        if state and (state.keys() != _STATE or state["logits"].shape[-1] != self._classes):
            raise ValueError(
                f"the checkpoint holds {', '.join(sorted(state))}, which is no memory of a student with "
                f"{self._classes} classes. Resume with the teacher and the student that wrote it, or start anew."
            )
        self._seen = {}
        if state:
            parts = state["logits"].split(state["rows"].tolist())
            keys = state["keys"].numpy()
            self._seen = {key.tobytes(): part.clone() for key, part in zip(keys, parts, strict=True)}
