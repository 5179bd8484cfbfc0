"""What pydantic found wrong, as the problems of a recipe: one line each, in the words of a recipe."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.yaml_lines import Key, Problem, name_of, show

_EXPECTED = {
    "model_type": "a map (key: value)",
    "dict_type": "a map (key: value)",
    "mapping_type": "a map (key: value)",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
    "too_short": "at least one entry",
    "string_too_short": "some text",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
}


def explain(
    error: ValidationError, data: Any, base: Key = (), keys_of: Callable[[Key], Iterable[str]] = lambda part: ()
) -> list[Problem]:
    """pydantic's errors as problems: alternatives of a union become one `expected A or B`.

    Args:
        error: from pydantic.
        data: what it was given.
        base: where in the recipe `data` is.
        keys_of: the keys that a part of `data` may have, for "did you mean".
    """
    expected: dict[Key, list[str]] = {}
    found: dict[Key, Any] = {}
    problems: list[Problem] = []
    for entry in error.errors(include_url=False):
        key = _inside(entry["loc"], data, entry["type"] == "missing")
        if entry["type"] in ("extra_forbidden", "invalid_key"):
            parent, name = key[:-1], str(key[-1])
            place, hint = name_of(parent) or "the recipe", did_you_mean(name, keys_of(parent))
            problems.append((base + key, f"unknown key '{name}' in {place}{hint}"))
        elif entry["type"] == "missing":
            place = name_of(base + key[:-1]) or "the recipe"
            problems.append((base + key[:-1], f"'{key[-1]}' is missing in {place}"))
        elif entry["type"] == "value_error":
            problems.append((base + key, f"{name_of(base + key)} {entry['ctx']['error']}".lstrip()))
        else:
            expected.setdefault(key, []).append(_expected(entry))
            found[key] = entry["input"]
    for key, wanted in expected.items():
        if any(other != key and other[: len(key)] == key for other in expected):
            continue  # a list with one wrong item: the item says it, "expected a list or a number" would mislead
        text = f"{name_of(base + key)}: expected {' or '.join(dict.fromkeys(wanted))}, found {show(found[key])}"
        choices = [choice for one in wanted for choice in re.findall(r"'([^']*)'", one)]
        problems.append((base + key, text + did_you_mean(found[key], choices, False)))
    return problems


def _inside(location: tuple[str | int, ...], data: Any, keep_last: bool) -> Key:
    """The part of pydantic's location that is in the data; the rest names the branches of a union."""
    key: list[str | int] = []
    for depth, part in enumerate(location):
        if isinstance(data, list):
            names: list[Any] = [part] if isinstance(part, int) and part < len(data) else []
        else:  # pydantic writes a key that is a number as text
            names = [name for name in data if str(name) == str(part)] if isinstance(data, dict) else []
        if names:
            data = data[names[0]]
            key.append(names[0])
        elif keep_last and depth == len(location) - 1:
            key.append(part)
    return tuple(key)


def _expected(entry: Any) -> str:
    if entry["type"] in _EXPECTED:
        return _EXPECTED[entry["type"]].format_map(entry.get("ctx", {}))
    return str(entry["msg"]).replace("Input should be ", "").replace("should ", "to ")
