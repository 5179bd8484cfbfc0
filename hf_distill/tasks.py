"""What kind of problem a model solves, read off the model, and the loss that its labels ask for.

Neither counts nor masks live here: see `batch`. transformers is not imported: class names and the config say enough.
"""

from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class Task(StrEnum):
    """The kinds of problem that a transformers head solves."""

    SINGLE_LABEL = "single_label"
    MULTI_LABEL = "multi_label"
    REGRESSION = "regression"
    TOKENS = "tokens"
    SPAN = "span"
    MASKED_LM = "masked_lm"
    CAUSAL_LM = "causal_lm"
    SEQ2SEQ = "seq2seq"
    EMBEDDING = "embedding"

    @property
    def per_example(self) -> bool:
        """Whether there is one prediction an example, and not one a token."""
        return self in (Task.SINGLE_LABEL, Task.MULTI_LABEL, Task.REGRESSION)

    @property
    def per_token(self) -> bool:
        """Whether there is one prediction a token."""
        return self in (Task.TOKENS, Task.MASKED_LM, Task.CAUSAL_LM, Task.SEQ2SEQ)

    @property
    def of_vocabulary(self) -> bool:
        """Whether the classes are the words of a vocabulary."""
        return self in (Task.MASKED_LM, Task.CAUSAL_LM, Task.SEQ2SEQ)


PROBLEM_TYPES = {
    Task.SINGLE_LABEL: "single_label_classification",
    Task.MULTI_LABEL: "multi_label_classification",
    Task.REGRESSION: "regression",
}
_BY_NAME = (
    ("ForTokenClassification", Task.TOKENS),
    ("ForQuestionAnswering", Task.SPAN),
    ("ForMaskedLM", Task.MASKED_LM),
    ("ForPreTraining", Task.MASKED_LM),
    ("ForCausalLM", Task.CAUSAL_LM),
    ("WithLMHeadModel", Task.MASKED_LM),
    ("LMHeadModel", Task.CAUSAL_LM),
    ("ForConditionalGeneration", Task.SEQ2SEQ),
    ("ForSpeechSeq2Seq", Task.SEQ2SEQ),
)
_UNKNOWN = ("ElectraForPreTraining", "Wav2Vec2ForAudioFrameClassification")  # no row of classes an example or token
_HEADLESS = ("Model", "Encoder", "Backbone", "Transformer")


def find_task(model: Any) -> Task:
    """The task of a model, from its class name and `config.problem_type`.

    A classifier that does not say its `problem_type` is single label, or regression if it has one output, as in
    transformers itself. A class of the user's own is known by the transformers class that it is made from.

    Args:
        model: a transformers model (not a PEFT wrapper).

    Returns:
        The task; `Task.EMBEDDING` for a model without a head.

    Raises:
        ValueError: the model has a head of a kind that is not known here.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    names = names[: next((i for i, name in enumerate(names) if name.endswith("PreTrainedModel")), len(names))]
    for name in names:
        if name in _UNKNOWN:
            break
        if name.endswith("Classification") and "Token" not in name:
            return _classification(model.config)
        if name.endswith("ForConditionalGeneration") and not getattr(model.config, "is_encoder_decoder", False):
            return Task.CAUSAL_LM  # a decoder that also reads images or audio
        for ending, task in _BY_NAME:
            if name.endswith(ending):
                return task
        if name.endswith(_HEADLESS):
            return Task.EMBEDDING
    raise ValueError(
        f"{type(model).__name__} has a head of a kind that is not known here. Make the class from one of "
        "transformers' heads (...ForSequenceClassification, ...ForTokenClassification, ...ForCausalLM, ...), or pass "
        "model.base_model to compare hidden states alone."
    )


def _classification(config: Any) -> Task:
    stated = getattr(config, "problem_type", None)
    for task, problem_type in PROBLEM_TYPES.items():
        if stated == problem_type:
            return task
    return Task.REGRESSION if config.num_labels == 1 else Task.SINGLE_LABEL


def task_values(
    logits: Tensor, labels: Tensor, task: Task, label_smoothing: float = 0.0, pos_weight: Tensor | None = None
) -> Tensor:
    """The supervised loss of every prediction, in float32 and not reduced.

    Args:
        logits: (batch, classes); (batch, tokens, classes) for token tasks; (batch, 2, tokens) for spans.
        labels: (batch,) class ids, (batch, classes) 0/1, (batch,) or (batch, outputs) values, (batch, tokens) ids, or
            (batch, 2) positions. What counts is the caller's business; a negative id or 0/1 label gives 0.
        label_smoothing: share of the target spread over all classes; cross entropy only.
        pos_weight: (classes,) weight of the positives, multi-label only.

    Returns:
        (batch,), or (batch, tokens) for token tasks, or (batch, 2) for spans. Multi-label and regression are means
        over their outputs (those with a label).

    Raises:
        ValueError: class ids are asked for and the labels are floating point.
    """
    logits = logits.float()
    if task is Task.MULTI_LABEL:
        known = labels >= 0
        logits = torch.where(known, logits, 0.0)  # before the formula, so that the gradient is 0 there too
        target = labels.clamp(min=0).to(logits)
        values = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=pos_weight)
        return torch.where(known, values, 0.0).sum(-1) / known.sum(-1).clamp(min=1)
    if task is Task.REGRESSION:
        target = labels.to(logits).view_as(logits)
        return (logits - target).square().flatten(1).mean(-1)
    if labels.is_floating_point():
        raise ValueError(
            f"the labels are floating point and the task is {task}, which takes class ids. For several labels an "
            'example load the models with problem_type="multi_label_classification", for values with "regression".'
        )
    if task is Task.SPAN:  # a position outside the sequence has no answer in it
        labels = labels.masked_fill(labels >= logits.shape[-1], -1)
    flat = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        labels.reshape(-1).masked_fill(labels.reshape(-1) < 0, -1),
        ignore_index=-1,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return flat.view(labels.shape)


def agreement(student: Tensor, teacher: Tensor, task: Task) -> Tensor:
    """Where two models decide the same: 1 or 0 for every prediction; multi-label: the share of labels decided alike.

    Args:
        student: logits, (..., classes).
        teacher: logits, (..., classes), the labels in the student's order.
        task: multi-label decides each label by its sign (probability 0.5); others take the largest logit.

    Returns:
        Shape (...), float32.
    """
    if task is Task.MULTI_LABEL:
        return ((student > 0) == (teacher > 0)).float().mean(-1)
    return (student.argmax(-1) == teacher.argmax(-1)).float()
