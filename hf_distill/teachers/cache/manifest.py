"""What a cache says of itself: whose answers it holds, to what, in which files."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hf_distill import anatomy
from hf_distill.tasks import find_task
from hf_distill.teachers.cache.layout import Layout
from hf_distill.weights import digest

MANIFEST = "manifest.json"
VERSION = 2
_NOT_THE_MODEL = frozenset({"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"})

Files = dict[str, dict[str, Any]]  # {path in the cache: {"bytes": ..., "blake2b": ...}}


@dataclass
class Manifest:
    """Written last, and whole: a cache without one is not finished.

    Args:
        fingerprint: of the teacher, see `fingerprint`.
        inputs: what the teacher read.
        layouts: one a signal.
        shards: names of their folders, in the order in which the index counts them.
        index: name of its folder.
        examples: how many.
        files: size and hash of every file.
    """

    fingerprint: dict[str, Any]
    inputs: list[str]
    layouts: list[Layout]
    shards: list[str]
    index: str
    examples: int
    files: Files = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The manifest of a folder; None where there is none.

        Raises:
            ValueError: it is broken, or of another version.
        """
        try:
            plain = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{folder / MANIFEST} is broken ({error}). Remove the folder, and cache anew.") from None
        if plain.pop("version", None) != VERSION:
            raise ValueError(
                f"{folder / MANIFEST} is of another version than {VERSION}. Cache anew in another folder."
            )
        return cls(**{**plain, "layouts": [Layout.of_plain(each) for each in plain["layouts"]]})

    def write(self, folder: Path) -> None:
        """Puts it in the place of the former one, at once."""
        layouts = [layout.plain() for layout in self.layouts]
        write_json(folder / MANIFEST, {"version": VERSION, **asdict(self), "layouts": layouts})


def fingerprint(model: nn.Module, tokenizer: Any = None) -> dict[str, Any]:
    """Whose answers these are. What was asked is no part of it: an example is found by what the teacher reads.

    Args:
        model: the teacher.
        tokenizer: what made the inputs, or None.
    """
    plain = anatomy.unwrap(model)
    config = json.loads(plain.config.to_json_string(use_diff=False))
    return {
        "architecture": type(plain).__name__,
        "task": str(find_task(plain)),
        "dtype": str(plain.dtype).removeprefix("torch."),
        "config": {name: value for name, value in config.items() if name not in _NOT_THE_MODEL},
        "weights": digest(model),
        "tokenizer": vocabulary(tokenizer),
    }


def vocabulary(tokenizer: Any) -> str | None:
    """A hash of words and their ids; None of what has none."""
    if not hasattr(tokenizer, "get_vocab"):
        return None
    words = json.dumps(sorted(tokenizer.get_vocab().items()))
    return blake2b(words.encode(), digest_size=16).hexdigest()


def difference(cached: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first field in which two fingerprints differ, in words; None if in none. Unknown is no difference."""
    for name in here:
        theirs, mine = cached[name], here[name]
        if name == "config":
            fields = sorted(theirs.keys() | mine.keys())
            differ = next((each for each in fields if theirs.get(each) != mine.get(each)), None)
            if differ is not None:
                return f"config.{differ} is {theirs.get(differ)!r} there and {mine.get(differ)!r} here"
        elif theirs != mine and None not in (theirs, mine):
            return f"{name} is {theirs} there and {mine} here"
    return None


def skeleton(found: Mapping[str, Any]) -> PreTrainedModel:
    """The teacher of a fingerprint without its weights, to be compared with a student.

    Raises:
        ValueError: it is of a class of the user's own.
    """
    if not hasattr(transformers, found["architecture"]):
        raise ValueError(f"{found['architecture']} is no class of transformers. Pass the model too.")
    config = AutoConfig.for_model(**found["config"])
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, found["architecture"])(config)
    return model.eval()


def described(file: Path) -> dict[str, Any]:
    """Size and hash of a file."""
    content = blake2b(digest_size=16)
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            content.update(part)
    return {"bytes": file.stat().st_size, "blake2b": content.hexdigest()}


def write_json(file: Path, content: Any) -> None:
    """Whole or not at all, by one process at a time; what one that was killed left is written over."""
    temporary = file.with_name(f".{file.name}.tmp")
    with temporary.open("w", encoding="utf-8") as opened:
        json.dump(content, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(temporary, file)
