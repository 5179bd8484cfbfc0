"""Schemes and kinds of teachers that a recipe names: which function or class each is, and whether it takes the knobs.

A scheme's first parameter is the `Plan`. A kind of teacher is a class whose first parameter says what it is made of:
`teacher` (the recipe's teacher), `teachers` (that and the `also` ones), or `student`. The rest are knobs. One without
such a parameter is made of nothing that a recipe loads; a `function` among its knobs is a dotted path to code.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.losses import Refused, checked_arguments, function_at
from hf_distill.recipe.paths import located
from hf_distill.recipe.yaml_lines import Key, Origin, Problem

MADE_OF, FUNCTION = ("teacher", "teachers", "student"), "function"
WITHOUT_TEACHER = ("augmented_self", "be_your_own_teacher", "born_again", "mutual", "progressive_self")  # schemes
MODELS, FOLDERS = ("lm", "masked_lm"), ("published",)  # knobs of schemes that name a model or Hub id, or a folder
ELSEWHERE = {  # teachers that a recipe does not name as a kind, and what to do instead
    "CachedTeacher": "give a folder, teacher.cache",
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
    """The name of its first parameter where a recipe gives that, "" where it needs none; None where one cannot."""
    first = next(iter(inspect.signature(kind).parameters), "")
    return "" if first == FUNCTION else first if first in ("", *MADE_OF) else None


def does_without_model(kind: str | None, scheme: str | None) -> bool:
    """Whether somebody teaches though the recipe names no teacher's model; a name that is not known says nothing."""
    if kind is not None:
        known = teacher_kinds()
        return kind not in known or made_of(known[kind]) in ("", "student")
    return scheme is not None and (scheme in WITHOUT_TEACHER or scheme not in schemes())


def problems_of(
    part: Any,
    known: Callable[[], dict[str, Callable[..., Any]]],
    key: Key,
    origin: Origin | None = None,
    allow_custom_code: bool = False,
) -> list[Problem]:
    """What is wrong with `{name: ..., knob: ...}` as it was written; what is no such map, pydantic refuses.

    Args:
        part: as written.
        known: all that may be named.
        key: where.
        origin: whose folder functions are looked for beside.
        allow_custom_code: whether there may be functions.
    """
    if not isinstance(part, dict) or not isinstance(part.get("name"), str):
        return []
    knobs, place = {name: value for name, value in part.items() if name != "name"}, "name"
    try:
        problems = _checked(part["name"], knobs, known, key)[2]
        if FUNCTION in knobs and origin is not None and not problems:
            place = FUNCTION
            function_at(knobs[FUNCTION], origin.folder, allow_custom_code)
    except Refused as error:
        where = "" if place == "name" else f"{'.'.join(map(str, key))}.{place}: "
        return [((*key, place), f"{where}{error}")]
    return problems


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
    called, first = found[name], next(iter(inspect.signature(found[name]).parameters), "")
    place = f"{what} ({name})"
    if first == FUNCTION:  # reads what the student reads; its other knobs are for Python
        strange = [((*key, knob), f"unknown key '{knob}' in {place}") for knob in knobs if knob != FUNCTION]
        missing = [] if FUNCTION in knobs else [(key, f"'{FUNCTION}' is missing in {place}")]
        return called, dict(knobs), [*strange, *missing]
    given = 1 if key == ("scheme",) or first in MADE_OF else 0
    converted, problems = checked_arguments(called, knobs, key, place, given)
    return called, converted, problems
