"""What the Hub refuses in a model card, and what must not be public, found without the Hub."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from huggingface_hub import ModelCard

from hf_distill import privacy
from hf_distill.card.hub_id import is_hub_id

_RELATIONS = ("adapter", "merge", "quantized", "finetune")


def check(card: ModelCard) -> None:
    """What the Hub refuses in a card, and what must not be public, found without the Hub.

    Raises:
        ValueError: a local path as base model or dataset, a base model without its relation, a configuration that is
            no string, a measured value that is no number, an absolute path or a secret in the text, or metadata that
            does not survive being written and read. All of them, in one line.
    """
    problems = [*_metadata_problems(card.data), *(f"the text contains {what}" for what in privacy.leaks(str(card)))]
    again = ModelCard(str(card))
    if again.data.to_dict() != card.data.to_dict():  # type: ignore[no-untyped-call]
        problems.append("the metadata reads back differently")
    if problems:
        raise ValueError(f"model card: {'; '.join(problems)}.")


def _metadata_problems(data: Any) -> Iterator[str]:
    bases = data.base_model if isinstance(data.base_model, list) else [data.base_model] if data.base_model else []
    sets = data.datasets if isinstance(data.datasets, list) else [data.datasets] if data.datasets else []
    for field, names in (("base_model", bases), ("datasets", sets)):
        yield from (f"{field} {privacy.public(str(name))!r} is no Hub id" for name in names if not is_hub_id(name))
    relation = data.get("base_model_relation")
    if bases and relation not in _RELATIONS:
        yield f"base_model_relation is {relation!r}; the Hub knows {', '.join(_RELATIONS)}"
    for result in data.eval_results or []:
        if not is_hub_id(result.dataset_type):
            yield f"model-index dataset {privacy.public(str(result.dataset_type))!r} is no Hub id"
        if not isinstance(result.dataset_config, str | None):
            yield f"model-index dataset.config is {result.dataset_config!r}, no string"
        if not isinstance(result.metric_value, int | float) or not math.isfinite(result.metric_value):
            yield f"model-index {result.metric_type} is {result.metric_value!r}, no number"
