"""The losses that a recipe names: which class each is, and whether the class takes the arguments beside the name."""

import importlib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_distill.recipe.conversion import convert
from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.yaml_lines import Key, Origin, Problem, show

MEMBER = "teacher"  # of an ensemble: `{name: HiddenMSE, layers: last, teacher: 1}`


class Refused(Exception):
    """Why a name is no loss class."""


def problems_of(
    losses: list[Any], origin: Origin, allow_custom_code: bool, catalogue: types.ModuleType | None
) -> list[Problem]:
    """What is wrong with the names and arguments of the losses, as they were written."""
    problems: list[Problem] = []
    for index, loss in enumerate(losses):
        if not isinstance(loss, dict) or not isinstance(loss.get("name"), str):
            continue  # pydantic says so
        key: Key = ("losses", index)
        try:
            loss_class = loss_class_of(loss["name"], origin.folder, allow_custom_code, catalogue)
        except Refused as error:
            problems.append(((*key, "name"), f"losses[{index}]: {error}"))
            continue
        arguments = {name: value for name, value in loss.items() if name != "name"}
        problems += checked_arguments(loss_class, arguments, key)[1]
    return problems


def loss_class_of(name: str, folder: Path, allow_custom_code: bool, catalogue: types.ModuleType | None) -> type:
    """The class of the catalogue that has this name, or the one at this dotted path; `Refused` where there is none."""
    catalogue = catalogue or importlib.import_module("hf_distill.losses")
    base: type = catalogue.Loss
    if "." in name:
        if not allow_custom_code:
            raise Refused(f"'{name}' is code outside the catalogue; pass --allow-custom-code to run it")
        return _custom_class(name, folder, base)
    classes = {
        key: value
        for key, value in vars(catalogue).items()
        if isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value) and value is not base
    }
    if name not in classes:
        raise Refused(f"there is no loss '{name}'{did_you_mean(name, classes)}")
    return classes[name]


def function_at(name: Any, folder: Path, allow_custom_code: bool) -> Callable[..., Any]:
    """What can be called at a dotted path; `Refused` where there is nothing such, or code is not allowed."""
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) < 2 or not all(map(str.isidentifier, parts)):
        raise Refused(f"expected the dotted path of a function, such as my_rules.answer, found {show(name)}")
    if not allow_custom_code:
        raise Refused(f"'{name}' is code; pass --allow-custom-code to run it")
    found = _imported(name, folder)
    if not callable(found):
        raise Refused(f"'{name}' is {'nothing' if found is None else show(found)}; expected a function")
    return found  # type: ignore[no-any-return]


def _custom_class(name: str, folder: Path, base: type) -> type:
    found = _imported(name, folder)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = "nothing" if found is None else show(found)
        raise Refused(f"'{name}' is {what}; expected a subclass of hf_distill.losses.Loss")
    return found


def _imported(name: str, folder: Path) -> Any:
    """What is at a dotted path, None if there is nothing; `Refused` where its module cannot be imported."""
    module_name, _, attribute = name.rpartition(".")
    try:
        with _importable(folder):
            module = importlib.import_module(module_name)
    except Exception as error:  # the user's own module, which may raise anything
        raise Refused(f"'{module_name}' cannot be imported: {type(error).__name__}: {error}") from error
    return getattr(module, attribute, None)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules beside the recipe and in the current folder can be imported, as under `python script.py`."""
    added = [str(folder.resolve()), str(Path.cwd())]
    sys.path.extend(added)  # at the end: a file here never hides an installed package
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


def checked_arguments(
    called: Callable[..., Any], arguments: dict[str, Any], key: Key, place: str | None = None, given: int = 0
) -> tuple[dict[str, Any], list[Problem]]:
    """Arguments converted to what the annotations say, and what is wrong with them.

    Args:
        called: a class or a function.
        arguments: as written.
        key: where.
        place: what messages call it; None: a loss.
        given: how many of its first parameters are not written in a recipe.
    """
    place = place or f"losses[{key[1]}] ({called.__name__})"
    parameters = dict(list(inspect.signature(called).parameters.items())[given:])
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    hints = _hints(called)
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in arguments.items():
        if name == MEMBER and name not in named and key[0] == "losses":
            converted[name], found = convert(value, int, (*key, name))
            problems += found
        elif name == "weight" and name in named:
            converted[name], found = _weight(value, (*key, name))
            problems += found
        elif name in named:
            converted[name], found = convert(value, hints.get(name, Any), (*key, name))
            problems += found
        elif open_ended:
            converted[name] = value
        else:
            problems.append(((*key, name), f"unknown key '{name}' in {place}{did_you_mean(name, named)}"))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            problems.append((key, f"'{name}' is missing in {place}"))
    return converted, problems


def _weight(value: Any, key: Key) -> tuple[Any, list[Problem]]:
    """A number, or a schedule such as `{linear: [1.0, 0.0]}`."""
    if not isinstance(value, dict):
        return convert(value, float, key)
    from hf_distill.losses.schedules import as_weight  # with torch, which the loss itself has imported

    try:
        return as_weight(value), []
    except ValueError as error:
        return value, [(key, f"losses[{key[1]}].weight: {error}")]


def _hints(called: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(called.__init__ if inspect.isclass(called) else inspect.unwrap(called))
    except Exception:  # annotations that only a type checker can resolve are not checked here
        return {}
