"""Values as a file may hold them that leaves this machine: no folders of its own, and nothing but plain YAML types."""

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any


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
