"""A teacher that is not listened to, or less, where it is wrong or unsure."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, TRUST, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.wrapper import Wrapper
from hf_distill.top_k import TopK


class SelectiveTeacher(Wrapper):
    """Says beside each answer how much it counts: less where it is wrong against the label, or unsure.

        teacher = SelectiveTeacher(teacher)                                      # nothing is learned from its errors
        teacher = SelectiveTeacher(teacher, wrong=1.0, min_confidence=0.8)       # where there are no labels

    Every value of a loss that looks at the teacher is multiplied by that; the labels' loss is not. It goes prediction
    by prediction: example by example, token by token, start and end of a span apart, and in multi-label label by
    label (`SoftTargets` and the divergences; other losses take the mean over the labels of an example). Losses that
    have one value an example or a layer, such as `HiddenMSE`, take the mean over the predictions of an example. What
    is divided by stays the number of all, so that accumulated steps add up, and a step in which much is left out is a
    small one.

    The log says how much its answers counted on average: `trust`. In an evaluation the same counts as in training;
    where that has no labels, nothing is found wrong. A label that is ignored (-100) is none, so that rows with and
    without labels may be mixed.

    Args:
        teacher: a model in eval mode, its id, or a `Teacher`; of single label, multi-label, tokens, spans or words.
        wrong: what a prediction counts whose most probable class is not the label (in multi-label: a label that it
            decides otherwise at probability 0.5); 1 looks at no labels.
        unsure: what a prediction counts of which it is unsure; one that is both counts the smaller of the two.
        min_confidence: it is unsure where its largest probability is below this (in multi-label: that of the yes or
            no of a label, which is 0.5 at least); 0 never.
        max_entropy: it is unsure where its entropy is above this share of the largest possible one; 1 never.

    Raises:
        ValueError: an argument is no share between 0 and 1, or nothing would ever be left out.
    """

    says_trust = True  # type: ignore[assignment]

    def __init__(
        self,
        teacher: nn.Module | Teacher | str,
        wrong: float = 0.0,
        unsure: float = 0.0,
        min_confidence: float = 0.0,
        max_entropy: float = 1.0,
    ) -> None:
        super().__init__(teacher)
        given = {"wrong": wrong, "unsure": unsure, "min_confidence": min_confidence, "max_entropy": max_entropy}
        for name, value in given.items():
            if not 0 <= value <= 1:
                raise ValueError(f"SelectiveTeacher: {name} is {value}; it must be between 0 and 1.")
        if wrong == 1 and (unsure == 1 or (min_confidence == 0 and max_entropy == 1)):
            raise ValueError(
                "SelectiveTeacher: everything counts in full. Pass wrong=0.0, or wrong=1.0 with min_confidence=0.8 "
                "for example."
            )
        self.wrong, self.unsure = wrong, unsure
        self.min_confidence, self.max_entropy = min_confidence, max_entropy

    @property
    def needs_labels(self) -> str:  # type: ignore[override]
        return f"SelectiveTeacher(wrong={self.wrong})" if self.wrong < 1 else super().needs_labels

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. The teacher inside is asked for its logits whatever the losses look at.

        Raises:
            ValueError: as the teacher inside; the task has no probabilities; a loss looks at a member of an ensemble.
        """
        task = find_task(anatomy.unwrap(student))
        if task in (Task.REGRESSION, Task.EMBEDDING):
            raise ValueError(
                f"SelectiveTeacher: in {task} there is nothing to be unsure of or wrong about. Leave it out."
            )
        self.check_in_time()
        if any(signal.teacher is not None for signal in wanted):
            raise ValueError(
                "SelectiveTeacher around an ensemble says how far its mean is trusted, and a loss looks at one member "
                "with .of(...). Put a SelectiveTeacher around each member instead."
            )
        self.teacher.only_evaluated = self.teacher.only_evaluated - {LOGITS}
        self.teacher.prepare(student, wanted | {LOGITS}, device, tokenizer)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`.

        Raises:
            ValueError: the student trains on rows without labels, and they are asked for.
        """
        seen = self.teacher.observe(batch)
        theirs: Any = seen[LOGITS]
        compared = self.wrong < 1 and self._has_labels(batch)
        with torch.no_grad():
            logits = batch.align((theirs.whole() if isinstance(theirs, TopK) else theirs).float())
            trust = torch.where(self._is_unsure(logits, batch), self.unsure, 1.0)
            if compared:
                trust = torch.where(_is_wrong(logits, batch), trust.clamp(max=self.wrong), trust)
        return {**seen, TRUST: seen[TRUST] * trust if TRUST in seen else trust}

    def _has_labels(self, batch: Batch) -> bool:
        if batch.labels is None and torch.is_grad_enabled():
            raise ValueError(
                f"SelectiveTeacher(wrong={self.wrong}) compares the teacher with labels, and the batch has none. Pass "
                "wrong=1.0 with min_confidence=0.8 for example."
            )
        return batch.labels is not None

    def _is_unsure(self, logits: Tensor, batch: Batch) -> Tensor:
        """Of each prediction, or each label of an example: the shape of its trust."""
        if batch.task is Task.MULTI_LABEL:
            logits = torch.stack([logits, -logits], -1) / 2  # the two logits of each label's yes and no
        log_p = F.log_softmax(logits, -1)
        p = log_p.exp()
        classes = torch.tensor(float(logits.shape[-1]), device=logits.device)
        if batch.task is Task.SPAN and batch.tokens is not None:  # the others are no place for an answer
            classes = batch.tokens.sum(1, keepdim=True).float()
        entropy = torch.where(p > 0, -p * log_p, 0.0).sum(-1) / classes.clamp(min=2).log()
        return (p.amax(-1) < self.min_confidence) | (entropy > self.max_entropy + 1e-6)  # even odds are rounded


def _is_wrong(logits: Tensor, batch: Batch) -> Tensor:
    """Of each prediction, or each label of an example."""
    labels = batch.labels
    assert labels is not None
    if batch.task is Task.MULTI_LABEL:
        return (labels >= 0) & ((logits > 0) != (labels > 0))
    return (labels >= 0) & (logits.argmax(-1) != labels)
