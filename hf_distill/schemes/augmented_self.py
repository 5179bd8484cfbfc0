"""Self-distillation by distorted data: the student agrees with itself about two views of each text."""

from functools import partial
from typing import Any

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_distill.augment import TwoViews, word_dropout
from hf_distill.losses import SoftTargets, TaskLoss
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.teachers import SwappedViews
from hf_distill.teachers.learner import weight_like_labels
from hf_distill.teachers.swapped_views import ROW


@scheme
def augmented_self(plan: Plan, share: float = 0.1, temperature: float = 2.0, weight: float = 1.0) -> PreTrainedModel:
    """Trains one student without a teacher: each text is read twice, with other words hidden, and each reading is
    taught by the other.

    A batch of so many examples holds twice as many rows. The labels of both views count, and the KL goes both ways;
    what is hidden is drawn anew for each example in each epoch, and is the same after a resume. An evaluation hides
    nothing, and its term of soft targets is 0.

    Args:
        plan: its teacher is not asked; its data is a `datasets.Dataset` of token ids, and its `processing_class` the
            tokenizer that made them.
        share: of the tokens that are hidden; special tokens are not.
        temperature: of the soft targets.
        weight: of the soft targets; the labels weigh 1. With several labels it is of their mean, as the labels' is.

    Returns:
        The student.

    Raises:
        ValueError: `share` is none, the plan has losses, no tokenizer, or data of another kind.

    Reference: Xu and Liu 2019, Data-Distortion Guided Self-Distillation for Deep Neural Networks, AAAI 2019.
    Differs from the paper: texts have words hidden where its images are cropped and flipped; its third term, the
    maximum mean discrepancy of the views' features, is left out; its temperature and weights could not be confirmed.
    """
    if not 0 < share < 1:
        raise ValueError(f"augmented_self: share={share} hides nothing or all; it must be between 0 and 1.")
    if plan.losses is not None:
        raise ValueError("augmented_self makes its losses itself: labels and soft targets. Leave losses out.")
    views, student = _views(plan, share), plan.fresh()
    losses = [TaskLoss(), SoftTargets(temperature=temperature, weight=weight * weight_like_labels(student))]
    return plan.stage(
        "student",
        student,
        SwappedViews(),
        losses,
        train_dataset=_numbered(plan.train_dataset),
        data_collator=views,
        callbacks=[*(plan.trainer_kwargs.get("callbacks") or ()), views],
    )


def _views(plan: Plan, share: float) -> TwoViews:
    tokenizer = plan.trainer_kwargs.get("processing_class")
    mask = getattr(tokenizer, "mask_token_id", None)
    mask = getattr(tokenizer, "unk_token_id", None) if mask is None else mask
    if mask is None:
        raise ValueError(
            "augmented_self hides words behind the tokenizer's mask token, or the one for unknown words, and finds "
            "neither. Pass processing_class=tokenizer to the Plan."
        )
    collate = plan.trainer_kwargs.get("data_collator") or DataCollatorWithPadding(tokenizer)
    hide = partial(_hide, share=share, mask=mask, special=tokenizer.all_special_ids)
    return TwoViews(collate, hide, plan.args.seed)


def _hide(
    example: dict[str, Any], generator: torch.Generator, share: float, mask: int, special: list[int]
) -> dict[str, Any]:
    ids = word_dropout(torch.as_tensor(example["input_ids"]), share, mask, special, generator)
    return {**example, "input_ids": ids.tolist()}


def _numbered(dataset: Any) -> Dataset:
    if not isinstance(dataset, Dataset) or "input_ids" not in dataset.column_names:
        raise ValueError(
            f"augmented_self hides words in the column input_ids of a datasets.Dataset, and the train_dataset is a "
            f"{type(dataset).__name__} without. Tokenize the texts first, as data.encode does."
        )
    return dataset.add_column(ROW, list(range(len(dataset))))
