"""Schemes and kinds of teachers that a recipe names: which function or class each is, and whether it takes the knobs.

A scheme's first parameter is the `Plan`. A kind of teacher is a class whose first parameter says what it is made of:
`teacher` (the recipe's teacher), `teachers` (that and the `also` ones), or `student`. The rest are knobs. One without
parameters is made of nothing.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.losses import Refused, checked_arguments
from hf_distill.recipe.paths import located
from hf_distill.recipe.yaml_lines import Key, Origin, Problem

MADE_OF = ("teacher", "teachers", "student")
MODELS, FOLDERS = ("lm", "masked_lm"), ("published",)  # knobs of schemes that name a model or Hub id, or a folder
ELSEWHERE = {  # teachers that a recipe does not name as a kind, and what to do instead
    "AdapterOffTeacher": "recipes train whole students: use Python",
    "CachedTeacher": "give a folder, teacher.cache",
    "CallableTeacher": "a function is code: use Python",
    "ModelTeacher": "a model teaches as it is: leave teacher.kind out",
    "Nobody": "baseline: true trains the student alone",
    "OtherView": "say which column it reads, teacher.text",
    "PeerTeacher": "use scheme: {name: mutual} or {name: online}",
    "SwappedViews": "use scheme: {name: augmented_self}",
    "Teacher": "it is what all of them are",
    "Wrapper": "it changes nothing",
}


def schemes() -> dict[str, Callable[..., Any]]:
    """All schemes by name."""
    module = importlib.import_module("hf_distill.schemes")
    return {name: value for name, value in vars(module).items() if getattr(value, "is_scheme", False)}


def teacher_kinds() -> dict[str, Callable[..., Any]]:
    """All kinds of teachers that a recipe can make, by class name."""
    module = importlib.import_module("hf_distill.teachers")
    classes = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, module.Teacher)]
    own = [each for each in classes if not inspect.isabstract(each) and each.__name__ not in ELSEWHERE]
    return {each.__name__: each for each in own if made_of(each) is not None}


def made_of(kind: Callable[..., Any]) -> str | None:
    """The name of its first parameter where a recipe gives that, "" where it has none; None where a recipe cannot."""
    first = next(iter(inspect.signature(kind).parameters), "")
    return first if first in ("", *MADE_OF) else None


def problems_of(part: Any, known: Callable[[], dict[str, Callable[..., Any]]], key: Key) -> list[Problem]:
    """What is wrong with `{name: ..., knob: ...}` as it was written; what is no such map, pydantic refuses."""
    if not isinstance(part, dict) or not isinstance(part.get("name"), str):
        return []
    try:
        return _checked(part["name"], {name: value for name, value in part.items() if name != "name"}, known, key)[2]
    except Refused as error:
        return [((*key, "name"), str(error))]


def built(
    name: str, knobs: dict[str, Any], known: Callable[[], dict[str, Callable[..., Any]]], key: Key
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function or class, and its knobs as the types that it annotates."""
    called, converted, _ = _checked(name, knobs, known, key)
    return called, converted


def with_paths(knobs: dict[str, Any], origin: Origin) -> dict[str, Any]:
    """A scheme's knobs; models and folders that they name are looked for as the recipe's teacher is."""
    named = {name for name in (*MODELS, *FOLDERS) if knobs.get(name) is not None}
    return knobs | {name: located(knobs[name], ("scheme", name), origin, name in MODELS) for name in named}


def _checked(
    name: str, knobs: dict[str, Any], known: Callable[[], dict[str, Callable[..., Any]]], key: Key
) -> tuple[Callable[..., Any], dict[str, Any], list[Problem]]:
    found = known()
    what = ".".join(map(str, key))
    if name not in found and key != ("scheme",) and name in ELSEWHERE:
        raise Refused(f"{what}: '{name}' is made otherwise: {ELSEWHERE[name]}")
    if name not in found:
        raise Refused(f"{what}: there is no '{name}'{did_you_mean(name, found)}")
    given = 1 if key == ("scheme",) or made_of(found[name]) else 0
    converted, problems = checked_arguments(found[name], knobs, key, f"{what} ({name})", given)
    return found[name], converted, problems
