"""A written value as the type that a Python annotation names: of a field of `train`, or of a loss's argument."""

import enum
import typing
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.pydantic_errors import explain
from hf_distill.recipe.yaml_lines import Key, Problem, name_of, show


def convert(value: Any, hint: Any, key: Key) -> tuple[Any, list[Problem]]:
    """The value as the type that an annotation names. What pydantic cannot check is taken as it is."""
    name = name_of(key)
    choices = _choices(hint)
    if isinstance(value, str) and choices and value not in choices:
        expected = f"one of {', '.join(choices)}" if len(choices) <= 12 else f"one of {len(choices)} names"
        return value, [(key, f"{name}: expected {expected}, found {show(value)}{did_you_mean(value, choices, False)}")]
    try:
        adapter = TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value, []
    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        return value, explain(error, value, key)
    # pydantic takes True for 1; a yes where a number belongs is a slip.
    if isinstance(value, bool) and not isinstance(result, bool):
        return value, [(key, f"{name}: expected a number, found {show(value)}")]
    whole = isinstance(result, float) and isinstance(value, int)
    return value if whole else result, []  # 3 epochs stay 3, as they were written


def _choices(hint: Any) -> list[str]:
    """The values of the enum in an annotation like `IntervalStrategy | str`, by which any text would pass."""
    for part in typing.get_args(hint) or (hint,):
        if isinstance(part, type) and issubclass(part, enum.Enum) and issubclass(part, str):
            return [member.value for member in part]
    return []
