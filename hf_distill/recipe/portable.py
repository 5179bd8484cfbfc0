"""Values as a file may hold them that leaves this machine: no folders of its own, and nothing but plain YAML types."""

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import yaml

from hf_distill.recipe.yaml_lines import Dumper

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe


def without_folders(value: Any) -> Any:
    """Absolute paths in a value, however deep, as their last names."""
    if isinstance(value, Mapping):
        return {name: without_folders(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(entry) for entry in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    path = value.removeprefix("file://")
    windows = PureWindowsPath(path)
    if windows.drive:
        return windows.name
    if path.startswith(("/", "~")):
        return PurePosixPath(path).name
    return value


def basic(value: Any) -> Any:
    """What YAML can say without tags."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return basic(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {name: basic(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [basic(entry) for entry in value]
    return value


def dump(recipe: "Recipe") -> str:
    """The recipe as YAML that `load` reads back as an equal recipe, to be saved beside the model.

    A path that is absolute, or starts in a home folder, is reduced to its last name, so that nothing of this machine
    is in the file; relative paths are kept as they were written. What was left to its default stays left out.
    """
    data = recipe.model_dump(by_alias=True, exclude_unset=True)
    if recipe.train:
        data["train"] = recipe.train
    for part, name in (
        ("teacher", "model"),
        ("teacher", "cache"),
        ("student", "model"),
        ("dataset", "path"),
        ("dataset", "label_names"),
    ):
        if isinstance(data.get(part, {}).get(name), str):
            data[part][name] = without_folders(data[part][name])
    if recipe.teacher.also is not None:
        data["teacher"]["also"] = without_folders(recipe.teacher.also)
    for part in ("train", "losses", "scheme"):
        if data.get(part) is not None:
            data[part] = without_folders(data[part])
    return yaml.dump(basic(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
