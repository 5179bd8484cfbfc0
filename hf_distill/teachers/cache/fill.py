"""Runs the teacher once over what is not cached yet."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import Signal
from hf_distill.tasks import Task
from hf_distill.teachers.cache import Cache, file_of
from hf_distill.teachers.cache.keys import LABELS, keys_of, names_of, other_inputs
from hf_distill.teachers.cache.layout import Layout, layout_of
from hf_distill.teachers.cache.manifest import Manifest, described, difference, write_json

SHARD = 2048  # examples; what is lost at most when a worker is killed
_READ = 256  # examples that are read at once to find their keys

Report = Callable[[int, int], None]  # how many examples are done, of how many


class _Example(NamedTuple):
    """One that is to be answered: its number of tokens, its key, and a row that holds it."""

    tokens: int
    key: bytes
    row: int


class Filler:
    """Fills one folder with the answers of one teacher.

    The work is cut into shards by what is missing, the same way on every worker and after every interruption. A shard
    is written beside its place and put there whole; a lock that dies with its process says who writes it.

    Args:
        folder: of the cache.
        model: the teacher, in eval mode, on its device.
        fingerprint: of it.
        signals: what is stored of each example.
        task: what it solves.
        collate: makes a batch of rows, as in training.
        dtype: of the numbers in the files.
        batch_size: examples in one forward pass.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        fingerprint: dict[str, Any],
        signals: frozenset[Signal],
        task: Task,
        collate: Callable[[list[Any]], dict[str, Any]],
        dtype: str = "float32",
        batch_size: int = 32,
    ) -> None:
        self.folder, self.model, self.fingerprint, self.signals = folder, model, fingerprint, signals
        self.task, self.collate, self.dtype, self.batch_size = task, collate, dtype, batch_size
        self.device = next(model.parameters()).device
        self._pads_left = False
        self.accepted = anatomy.forward_names(model)

    def fill(self, datasets: Sequence[Any], report: Report | None = None) -> Manifest:
        """Answers every example that is not there, and waits for those that other workers are answering.

        Args:
            datasets: rows as the collator takes them.
            report: told how far it is.

        Returns:
            What is there now.

        Raises:
            ValueError: the folder holds the answers of another teacher, or other signals; what cannot be cached; a
                teacher in train mode.
            FloatingPointError: the teacher's answers are not finite, or too large for float16.
        """
        if self.model.training:
            raise ValueError("the teacher is in train mode, its dropout would be cached. Call teacher.eval().")
        report = report or (lambda done, total: None)
        self.folder.joinpath("shards").mkdir(parents=True, exist_ok=True)
        manifest = Manifest.read(self.folder)
        self._check(manifest)
        rows = _Rows(datasets, self.accepted)
        if not len(rows):
            raise ValueError("there are no rows to ask the teacher about.")
        missing, names = self._missing(rows, manifest)
        if not missing and manifest is not None:
            return manifest
        plan = self._plan(missing)
        done = {name for name in plan if self._is_there(name)}
        report(sum(len(plan[name]) for name in done), len(missing))
        while len(done) < len(plan):
            for name in [name for name in plan if name not in done]:
                if self._write_or_skip(name, plan[name], rows):
                    done.add(name)
                    report(sum(len(plan[each]) for each in done), len(missing))
            if len(done) < len(plan):
                time.sleep(0.2)  # the others are writing
        return self._finish(list(plan), names)

    def _check(self, manifest: Manifest | None) -> None:
        unfinished = sorted(self.folder.glob("shards/*/shard.json"))
        if manifest is not None:
            found, layouts = manifest.fingerprint, manifest.layouts
        elif unfinished:
            facts = json.loads(unfinished[0].read_text(encoding="utf-8"))
            found, layouts = facts["fingerprint"], [Layout.of_plain(each) for each in facts["layouts"]]
        else:
            return
        check_same(self.folder, found, self.fingerprint)
        there, wanted = {str(layout.signal) for layout in layouts}, {str(signal) for signal in self.signals}
        if not wanted <= there:
            raise ValueError(
                f"{self.folder} holds {', '.join(sorted(there))}, and the losses ask for "
                f"{', '.join(sorted(wanted - there))} too. Cache anew, in another folder."
            )
        self.signals = frozenset(layout.signal for layout in layouts)
        if layouts[0].dtype != self.dtype:
            raise ValueError(
                f"{self.folder} holds {layouts[0].dtype}, not {self.dtype}. Cache anew, in another folder."
            )

    def _missing(self, rows: "_Rows", manifest: Manifest | None) -> tuple[list[_Example], list[str]]:
        """Each different example that is not there, short ones first; and the names of the inputs."""
        names = [] if manifest is None else manifest.inputs
        cache = None if manifest is None else Cache(self.folder, manifest)
        found: dict[bytes, _Example] = {}
        for first in range(0, len(rows), _READ):
            numbers = range(first, min(first + _READ, len(rows)))
            batch = self._batch(rows, numbers, torch.device("cpu"))
            read = names_of(self.accepted, batch.inputs)
            names = names or read
            if read != names:
                raise ValueError(other_inputs(names, read))
            keys, spans = keys_of(batch.inputs, names, batch.tokens)
            there = np.zeros(len(keys), bool) if cache is None else cache.find(keys)[:, 0] >= 0
            for number, key, (start, end), known in zip(numbers, keys, spans, there, strict=True):
                self._pads_left |= bool(start > 0)
                if not known:
                    found.setdefault(key.tobytes(), _Example(int(end - start), key.tobytes(), number))
        return sorted(found.values()), names

    def _batch(self, rows: "_Rows", numbers: Iterable[int], device: torch.device) -> Batch:
        inputs = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.collate([rows[number] for number in numbers]).items()
            if name not in LABELS
        }
        return Batch(inputs, self.task)

    def _plan(self, missing: list[_Example]) -> dict[str, list[_Example]]:
        """{shard: examples}; the name says what all shards of this plan hold."""
        whole = blake2b(b"".join(example.key for example in missing), digest_size=4)
        whole.update(f"{self.dtype} {self.batch_size} {sorted(map(str, self.signals))}".encode())
        parts = [missing[first : first + SHARD] for first in range(0, len(missing), SHARD)]
        return {f"{whole.hexdigest()}-{i:05d}": part for i, part in enumerate(parts)}

    def _is_there(self, name: str) -> bool:
        return (self.folder / "shards" / name / "shard.json").exists()

    def _write_or_skip(self, name: str, examples: list[_Example], rows: "_Rows") -> bool:
        """Whether the shard is there now; it is not if another worker is writing it."""
        try:
            with FileLock(self.folder / "shards" / f".{name}.lock", timeout=0):
                if not self._is_there(name):
                    self._write(name, examples, rows)
                return True
        except Timeout:
            return False

    def _write(self, name: str, examples: list[_Example], rows: "_Rows") -> None:
        place, temporary = self.folder / "shards" / name, self.folder / "shards" / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        layouts: dict[Signal, Layout] = {}
        with ExitStack() as stack:
            files = {signal: stack.enter_context((temporary / file_of(signal)).open("wb")) for signal in self.signals}
            for batch, spans, seen in self._answers(examples, rows):
                for signal, values in seen.items():
                    layout = layout_of(signal, values, batch, self.dtype)
                    _check_layout(layouts.setdefault(signal, layout), layout)
                    plain = values.float().cpu().numpy()
                    for row, (start, end) in enumerate(spans):
                        files[signal].write(self._stored(signal, layout.cut(plain[row], start, end)).data)
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        np.save(
            temporary / "keys.npy", np.frombuffer(b"".join(each.key for each in examples), np.uint64).reshape(-1, 2)
        )
        np.save(temporary / "lengths.npy", np.array([example.tokens for example in examples]))
        facts = {
            "fingerprint": self.fingerprint,
            "layouts": [layouts[signal].plain() for signal in sorted(layouts, key=str)],
            "files": {file.name: described(file) for file in sorted(temporary.iterdir())},
        }
        write_json(temporary / "shard.json", facts)
        os.replace(temporary, place)

    @torch.no_grad()
    def _answers(
        self, examples: list[_Example], rows: "_Rows"
    ) -> Iterator[tuple[Batch, np.ndarray, dict[Signal, torch.Tensor]]]:
        """Batches, where their examples lie in them, and what was seen."""
        capture = Capture(self.model, self.signals)
        for first in range(0, len(examples), self.batch_size):
            part = examples[first : first + self.batch_size]
            batch = self._batch(rows, [example.row for example in part], self.device)
            keys, spans = keys_of(batch.inputs, names_of(self.accepted, batch.inputs), batch.tokens)
            if keys.tobytes() != b"".join(example.key for example in part):
                raise ValueError(
                    "the collator made other inputs of the same row when it was asked again: random masking or "
                    "augmentation cannot be cached. Pass the model itself as the teacher."
                )
            seen = self._observe(capture, batch)
            if self._pads_left:
                self._check_padding(capture, batch, spans, seen)
                self._pads_left = False  # once is enough
            yield batch, spans, seen

    def _observe(self, capture: Capture, batch: Batch) -> dict[Signal, torch.Tensor]:
        inputs = anatomy.accepted(self.model, batch.inputs)
        if "use_cache" in self.accepted:
            inputs["use_cache"] = False
        with capture:
            outputs = self.model(**inputs)
        return capture.take(outputs, batch)

    def _check_padding(
        self, capture: Capture, batch: Batch, spans: np.ndarray, seen: dict[Signal, torch.Tensor]
    ) -> None:
        """Refuses a teacher whose answers depend on how much padding stands on the left, as it does in batches."""
        start, end = spans[0]
        shifted = {
            name: torch.cat([torch.zeros_like(each[:1, :1]), each[:1, :end]], 1)  # one more than there is
            for name, each in batch.inputs.items()
            if isinstance(each, torch.Tensor) and batch.tokens is not None and each.shape[:2] == batch.tokens.shape
        }
        alone = Batch({**{name: each[:1] for name, each in batch.inputs.items()}, **shifted}, self.task)
        for signal, values in self._observe(capture, alone).items():
            layout = layout_of(signal, values, alone, self.dtype)
            here = layout.cut(seen[signal][0].float().cpu().numpy(), start, end)
            there = layout.cut(values[0].float().cpu().numpy(), start + 1, end + 1)
            if not np.allclose(here, there, rtol=1e-3, atol=1e-3 * float(np.abs(here).max(initial=0.0))):
                raise ValueError(
                    f"the teacher's {signal} depends on how much padding stands on the left, and batches differ in "
                    'that. Set tokenizer.padding_side = "right", or pass the model itself as the teacher.'
                )

    def _stored(self, signal: Signal, numbers: np.ndarray) -> np.ndarray:
        """As they lie in the file; what padding holds was cut off."""
        if not np.isfinite(numbers).all():
            raise FloatingPointError(
                f"the teacher's {signal} is not finite. Load it in float32, or check its weights; nothing was cached."
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(numbers, self.dtype)
        if not np.isfinite(stored).all():
            raise FloatingPointError(f"the teacher's {signal} is too large for {self.dtype}. Cache it in float32.")
        return stored

    def _finish(self, plan: list[str], names: list[str]) -> Manifest:
        """Index and manifest, by whoever comes first."""
        with FileLock(self.folder / ".finish.lock"):
            former = Manifest.read(self.folder)
            if former is not None and set(plan) <= set(former.shards):
                return former
            shards = [*(former.shards if former else []), *plan]
            facts = {
                name: json.loads((self.folder / "shards" / name / "shard.json").read_text(encoding="utf-8"))
                for name in shards
            }
            index, examples = self._index(shards)
            files = {
                f"shards/{name}/{file}": described_file
                for name in shards
                for file, described_file in facts[name]["files"].items()
            }
            files |= {f"{index.name}/{file.name}": described(file) for file in sorted(index.iterdir())}
            layouts = [Layout.of_plain(each) for each in facts[shards[0]]["layouts"]]
            for name in shards:
                for first, other in zip(layouts, facts[name]["layouts"], strict=True):
                    _check_layout(first, Layout.of_plain(other))
            manifest = Manifest(self.fingerprint, names, layouts, shards, index.name, examples, files)
            manifest.write(self.folder)
            for other in self.folder.glob("index-*"):
                if other != index:  # the former one, or of one that was killed before it wrote the manifest
                    shutil.rmtree(other, ignore_errors=True)
            return manifest

    def _index(self, shards: list[str]) -> tuple[Path, int]:
        keys, where = [], []
        for number, name in enumerate(shards):
            folder = self.folder / "shards" / name
            lengths = np.load(folder / "lengths.npy")
            before = np.arange(len(lengths)), _sum_before(lengths), _sum_before(lengths**2)
            keys.append(np.load(folder / "keys.npy"))
            where.append(np.stack([np.full(len(lengths), number), *before, lengths], 1))
        every, places = np.concatenate(keys), np.concatenate(where)
        order = np.lexsort((every[:, 1], every[:, 0]))
        index = self.folder / f"index-{len(every)}"
        shutil.rmtree(index, ignore_errors=True)
        index.mkdir()
        np.save(index / "high.npy", np.ascontiguousarray(every[order, 0]))
        np.save(index / "low.npy", np.ascontiguousarray(every[order, 1]))
        np.save(index / "where.npy", places[order].astype(np.int64))
        return index, len(every)


def _check_layout(first: Layout, other: Layout) -> None:
    if first != other:
        raise ValueError(
            f"{first.signal} has shape {first.shape} in one batch and {other.shape} in another, and can be cached in "
            "one shape only. Pass the model itself as the teacher."
        )


def check_same(folder: Path, cached: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuses a folder with the answers of another teacher.

    Raises:
        ValueError: the first field that differs.
    """
    differs = difference(cached, here)
    if differs is not None:
        raise ValueError(f"{folder} holds the answers of another teacher: {differs}. Cache anew, in another folder.")


class _Rows:
    """The rows of several data sets, with the columns that a model reads, and the labels that all of them have."""

    def __init__(self, datasets: Sequence[Any], names: Iterable[str]) -> None:
        labels = LABELS.intersection(*(each.column_names for each in datasets if getattr(each, "column_names", None)))
        self.parts = [_without_others(each, set(names) - LABELS, labels) for each in datasets]
        self.ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> Any:
        part = int(np.searchsorted(self.ends, number, side="right"))
        return self.parts[part][int(number - (self.ends[part - 1] if part else 0))]


def _without_others(dataset: Any, read: set[str], labels: frozenset[str]) -> Any:
    """As the Trainer cuts it; as it is where the collator makes the inputs out of other columns."""
    if not hasattr(dataset, "__len__"):
        raise ValueError(f"a {type(dataset).__name__} has no length, and its answers cannot be cached ahead.")
    columns = getattr(dataset, "column_names", [])
    if read.isdisjoint(columns):
        return dataset
    return dataset.select_columns([name for name in columns if name in read | labels])


def _sum_before(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values) - values
