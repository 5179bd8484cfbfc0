"""YAML in which every value knows where it was written: file and line, or the `--set` that gave it.

Scalars are read by the rules of YAML 1.2 (`5e-5` is a number, `no` is a word), and no key may stand twice.
"""

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SECRETS = ("hub_token", "push_to_hub_token", "token")

Key = tuple[str | int, ...]
"""The way from the top of a recipe to one of its values: ("losses", 1, "temperature")."""
Problem = tuple[Key, str]
"""Where something is wrong, and what."""


class RecipeError(ValueError):
    """A recipe that cannot be used. One line a problem, each starting with its place: `recipe.yaml:12: ...`.

    Attributes:
        problems: the lines, in the order of the file.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass
class Origin:
    """Where each value was written. Equal to every other origin, since two recipes that say the same are equal."""

    file: str = field(default="recipe", compare=False)
    folder: Path = field(default=Path(), compare=False)
    lines: dict[Key, int] = field(default_factory=dict, compare=False, repr=False)
    overrides: dict[Key, str] = field(default_factory=dict, compare=False, repr=False)

    def place(self, key: Key) -> str:
        """`recipe.yaml:12`, or the `--set` that gave the value; of the nearest value around it where it has none."""
        line, override = self._nearest(key)
        return override or (self.file if line is None else f"{self.file}:{line}")

    def _nearest(self, key: Key) -> tuple[int | None, str | None]:
        for end in range(len(key), 0, -1):
            if key[:end] in self.overrides:
                return None, self.overrides[key[:end]]
            if key[:end] in self.lines:
                return self.lines[key[:end]], None
        return self.lines.get(()), None

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """One exception for all of them, in the order of the file; those of `--set` come last."""
        ordered = sorted(problems, key=lambda problem: self._nearest(problem[0])[0] or sys.maxsize)
        return RecipeError(*(f"{self.place(key)}: {message}" for key, message in ordered))


def name_of(key: Key) -> str:
    """`losses[1].temperature`"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


def show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_secret(name: Any) -> bool:
    return isinstance(name, str) and name.rpartition(".")[2] in SECRETS


class Loader(yaml.SafeLoader):
    """Scalars by the core schema of YAML 1.2, in which `5e-5` is a number and `no` is a word."""

    yaml_implicit_resolvers: dict[str, Any] = {}


_NUMBER = r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
FLOAT = _NUMBER + r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", FLOAT, "-+0123456789."),
    ("merge", r"<<", "<"),
):
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class Dumper(yaml.SafeDumper):
    """Quotes a text that either version of YAML would read as something else; what fits in a line is one."""

    def represent_mapping(self, *arguments: Any, **keywords: Any) -> yaml.MappingNode:
        node = super().represent_mapping(*arguments, **keywords)
        node.flow_style = _width(node) <= 90
        return node

    def represent_sequence(self, *arguments: Any, **keywords: Any) -> yaml.SequenceNode:
        node = super().represent_sequence(*arguments, **keywords)
        node.flow_style = _width(node) <= 90
        return node

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        # Only between double quotes does PyYAML escape these line breaks, which it would read back as spaces.
        return super().represent_scalar(tag, value, '"' if re.search("[\x85\u2028\u2029\ufeff]", value) else style)

    def represent(self, data: Any) -> None:
        node = self.represent_data(data)
        if isinstance(node, yaml.MappingNode):
            node.flow_style = False  # the recipe itself is never one line
        self.serialize(node)


def _width(node: yaml.Node) -> int:
    """About how many characters a node takes in one line."""
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 2
    children = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
    return 2 + sum(map(_width, children))


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^(?:{FLOAT})$"), list("-+0123456789."))

_MAX_VALUES = 100_000  # anchors that repeat each other grow without end; no recipe is as long as this


def read(text: str, origin: Origin) -> dict[str, Any]:
    """The recipe as plain values; `origin.lines` gets the line of each."""
    data = _plain(text, origin)
    if not isinstance(data, dict):
        found = "is empty" if data is None else f"is {show(data)}"
        raise origin.error([((), f"the recipe {found}; expected a map with at least teacher, student and dataset")])
    return data


def _plain(text: str, origin: Origin) -> Any:
    _refuse_unprintable(text, origin)
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        origin.lines[()] = 1
        return None if node is None else _Reader(loader, origin).value(node, ())
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{origin.file}:{line}: {_syntax(error)}") from error
    finally:
        loader.dispose()


def _refuse_unprintable(text: str, origin: Origin) -> None:
    """PyYAML gives no line for a character that YAML does not allow, so such characters are looked for first."""
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise RecipeError(f"{origin.file}:{line}: the character {bad.group()!r} is not allowed in YAML")


def _syntax(error: yaml.MarkedYAMLError) -> str:
    problem = " ".join(filter(None, (error.context, error.problem))).replace("\n", " ")
    if "'\\t'" in problem:
        return "a tab where YAML wants spaces; indent with spaces"
    return f"not YAML: {problem}"


class _Reader:
    """Nodes to values, with what PyYAML's own constructor does not do: lines, and no key twice."""

    def __init__(self, loader: Loader, origin: Origin) -> None:
        self.loader, self.origin, self.open, self.count = loader, origin, set[int](), 0

    def value(self, node: yaml.Node, key: Key) -> Any:
        self.count += 1
        if id(node) in self.open or self.count > _MAX_VALUES:
            raise self._error(node, "an alias that repeats itself without end")
        self.origin.lines.setdefault(key, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self.loader.construct_object(node)
        if node.tag not in ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise self._error(node, f"the tag {node.tag} means nothing in a recipe")
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
            return self._map(node, key)
        finally:
            self.open.discard(id(node))

    def _map(self, node: yaml.Node, key: Key) -> dict[Any, Any]:
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        first: dict[Any, int] = {}
        for name_node, value_node in node.value:
            if name_node.tag.endswith(":merge"):  # `<<: *other`; what is written here wins over it
                merged |= self._merge(value_node, key)
                continue
            name, line = self._name(name_node), name_node.start_mark.line + 1
            if name in first:
                place = name_of(key) or "the recipe"
                raise self._error(name_node, f"'{name}' is in {place} twice, first in line {first[name]}")
            first[name] = line
            self._forget((*key, name))
            self.origin.lines[(*key, name)] = line
            own[name] = self.value(value_node, (*key, name))
        return merged | own

    def _merge(self, node: yaml.Node, key: Key) -> dict[Any, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[Any, Any] = {}
        for part in reversed(nodes):  # the first of several wins
            value = self.value(part, key)
            if not isinstance(value, dict):
                raise self._error(node, "'<<' takes a map")
            merged |= value
        return merged

    def _name(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key must be one word or number")
        return self.loader.construct_object(node)

    def _forget(self, key: Key) -> None:
        for known in [known for known in self.origin.lines if known[: len(key)] == key]:
            del self.origin.lines[known]

    def _error(self, node: yaml.Node, message: str) -> RecipeError:
        return RecipeError(f"{self.origin.file}:{node.start_mark.line + 1}: {message}")


def override(data: dict[str, Any], text: str, origin: Origin) -> None:
    """Put the value of one `--set` into `data`."""
    name, equals, written = text.partition("=")
    if not equals or not all(name.strip().split(".")):
        raise RecipeError(f"--set {text}: expected key=value, such as train.num_train_epochs=3")
    shown = f"--set {name}=..." if is_secret(name) else f"--set {text}"
    place = Origin(file=shown)
    value = _override_value(written, shown)
    container: Any = data
    key: Key = ()
    parts = [part.strip() for part in name.split(".")]
    for depth, part in enumerate(parts):
        step = _step(container, part, key, place)
        key = (*key, step)
        last = depth == len(parts) - 1
        present = step < len(container) if isinstance(container, list) else container.get(step) is not None
        if last or not present:
            _put(container, step, value if last else {}, key, origin, shown)
        container = container[step]


def _override_value(written: str, shown: str) -> Any:
    try:
        return _plain(written, Origin(file=shown))
    except RecipeError as error:
        raise RecipeError(re.sub(rf"^{re.escape(shown)}:\d+: ", f"{shown}: ", error.problems[0])) from error


def _step(container: Any, part: str, key: Key, place: Origin) -> Any:
    number = int(part) if re.fullmatch(r"-?\d+", part) else None
    if isinstance(container, dict):
        return part if number is None or part in container else number
    if not isinstance(container, list):
        raise place.error([((), f"{name_of(key)} is {show(container)}, which holds no '{part}'")])
    if number is None or not 0 <= number <= len(container):
        found = f"{name_of(key)} is a list of {len(container)} (0 to {len(container) - 1})"
        raise place.error([((), f"{found}, and '{part}' is not among them")])
    return number


def _put(container: Any, step: Any, value: Any, key: Key, origin: Origin, shown: str) -> None:
    if isinstance(container, list) and step == len(container):
        container.append(value)
    else:
        container[step] = value
    for known in [known for known in origin.lines if known[: len(key)] == key]:
        del origin.lines[known]
    origin.overrides[key] = shown
