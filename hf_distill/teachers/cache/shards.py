"""Shards on disk: written whole, put together under one index, and swept up where nothing refers to them."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from hf_distill.signals import Signal
from hf_distill.teachers.cache import file_of
from hf_distill.teachers.cache.layout import Layout, before_each
from hf_distill.teachers.cache.manifest import Manifest, described, write_json

_FINISH = ".finish.lock"
_OURS = re.compile(r"[0-9a-f]{8}-\d{5}|\.[0-9a-f]{8}-\d{5}\.(lock|tmp)")  # what `plan` names, and what is beside it


def is_there(folder: Path, name: str) -> bool:
    """Whether a shard is whole."""
    return (folder / "shards" / name / "shard.json").exists()


def write_shard(
    folder: Path,
    name: str,
    keys: np.ndarray,
    lengths: np.ndarray,
    parts: Iterable[tuple[Layout, np.ndarray]],
    fingerprint: dict[str, Any],
) -> None:
    """Writes a shard beside its place and puts it there whole; what a killed writer left is written over.

    Args:
        folder: of the cache.
        name: of the shard.
        keys: of its examples, (examples, 2).
        lengths: their numbers of tokens, and of those that count, (examples, 2).
        parts: numbers as they lie in the file, with their layout; those of one signal in the order of the examples.
        fingerprint: of the teacher.

    Raises:
        ValueError: a signal has another shape in another part.
    """
    place, temporary = folder / "shards" / name, folder / "shards" / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    layouts: dict[Signal, Layout] = {}
    with ExitStack() as stack:
        files: dict[Signal, Any] = {}
        for layout, numbers in parts:
            check_layout(layouts.setdefault(layout.signal, layout), layout)
            if layout.signal not in files:
                files[layout.signal] = stack.enter_context((temporary / file_of(layout.signal)).open("wb"))
            files[layout.signal].write(numbers.data)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    np.save(temporary / "keys.npy", keys)
    np.save(temporary / "lengths.npy", lengths)
    facts = {
        "fingerprint": fingerprint,
        "layouts": [layouts[signal].plain() for signal in sorted(layouts, key=str)],
        "files": {file.name: described(file) for file in sorted(temporary.iterdir())},
    }
    write_json(temporary / "shard.json", facts)
    os.replace(temporary, place)


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    """What a whole shard says of itself."""
    found: dict[str, Any] = json.loads((folder / "shards" / name / "shard.json").read_text(encoding="utf-8"))
    return found


def finish(folder: Path, plan: Sequence[str], names: list[str], fingerprint: dict[str, Any]) -> Manifest:
    """Index and manifest, by whoever comes first; shards that were there before come first.

    Args:
        folder: of the cache.
        plan: the shards that are whole now.
        names: of the inputs that the teacher reads.
        fingerprint: of the teacher.

    Raises:
        ValueError: a signal has another shape in another shard.
    """
    with FileLock(folder / _FINISH):
        former = Manifest.read(folder)
        if former is not None and set(plan) <= set(former.shards):
            return former
        shards = [*(former.shards if former else []), *plan]
        facts = {name: facts_of(folder, name) for name in shards}
        layouts = [Layout.of_plain(each) for each in facts[shards[0]]["layouts"]]
        for name in shards:
            for first, other in zip(layouts, facts[name]["layouts"], strict=True):
                check_layout(first, Layout.of_plain(other))
        index, examples = _index(folder, shards)
        files = {
            f"shards/{name}/{file}": described_file
            for name in shards
            for file, described_file in facts[name]["files"].items()
        }
        files |= {f"{index.name}/{file.name}": described(file) for file in sorted(index.iterdir())}
        manifest = Manifest(fingerprint, names, layouts, shards, index.name, examples, files)
        manifest.write(folder)
        return manifest


def _index(folder: Path, shards: list[str]) -> tuple[Path, int]:
    keys, where = [], []
    for number, name in enumerate(shards):
        lengths = np.load(folder / "shards" / name / "lengths.npy")
        keys.append(np.load(folder / "shards" / name / "keys.npy"))
        where.append(np.concatenate([np.full((len(lengths), 1), number), before_each(lengths), lengths], 1))
    every, places = np.concatenate(keys), np.concatenate(where)
    order = np.lexsort((every[:, 1], every[:, 0]))
    again = np.append(False, (every[order[1:]] == every[order[:-1]]).all(1))  # two fills at once, of some same rows
    order = order[~again]
    index = folder / f"index-{len(order)}"
    shutil.rmtree(index, ignore_errors=True)
    index.mkdir()
    np.save(index / "high.npy", np.ascontiguousarray(every[order, 0]))
    np.save(index / "low.npy", np.ascontiguousarray(every[order, 1]))
    np.save(index / "where.npy", places[order].astype(np.int64))
    return index, len(order)


def check_layout(first: Layout, other: Layout) -> None:
    """Refuses a signal whose shape is not the same everywhere.

    Raises:
        ValueError: it differs.
    """
    if first != other:
        raise ValueError(
            f"{first.signal} has shape {first.shape} in one batch and {other.shape} in another, and can be cached in "
            "one shape only. Pass the model itself as the teacher."
        )


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Inside of it nothing that a worker has written is swept up. Of those who come to the end the last one sweeps."""
    mine = folder / f".worker-{uuid4().hex}.lock"
    folder.joinpath("shards").mkdir(parents=True, exist_ok=True)
    lock = FileLock(mine)  # dies with its process
    with FileLock(folder / _FINISH):  # not while somebody sweeps
        lock.acquire()
    ended = False
    try:
        yield
        ended = True
    finally:
        with FileLock(folder / _FINISH):
            lock.release()
            mine.unlink(missing_ok=True)
            if ended and not _others_at_work(folder):
                _sweep(folder)


def _others_at_work(folder: Path) -> bool:
    for each in folder.glob(".worker-*.lock"):
        try:
            with FileLock(each, timeout=0):
                each.unlink(missing_ok=True)  # of one that was killed
        except Timeout:
            return True
    return False


def _sweep(folder: Path) -> None:
    """Removes what a cache wrote and its manifest does not name."""
    manifest = Manifest.read(folder)
    assert manifest is not None, "somebody came to the end"
    for each in (folder / "shards").iterdir():
        if _OURS.fullmatch(each.name) and each.name not in manifest.shards:
            shutil.rmtree(each, ignore_errors=True) if each.is_dir() else each.unlink()
    for other in folder.glob("index-*"):
        if other.name != manifest.index and re.fullmatch(r"index-\d+", other.name):
            shutil.rmtree(other, ignore_errors=True)
