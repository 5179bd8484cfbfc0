"""Runs the teacher once over what is not cached yet."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.heads import HeadLogits
from hf_distill.relations import triangle
from hf_distill.signals import LOGITS, MAPS, Signal
from hf_distill.tasks import Task
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.keys import LABELS, counted_of, keys_of, names_of, other_inputs
from hf_distill.teachers.cache.layout import CLASSES, Layout, enough, heads_of, largest_of, layout_of, related_of
from hf_distill.teachers.cache.manifest import Manifest
from hf_distill.teachers.cache.refusals import check_heads, check_same, check_top_k
from hf_distill.teachers.cache.shards import at_work, facts_of, finish, is_there, write_shard
from hf_distill.top_k import largest

SHARD = 2048  # examples; what is lost at most when a worker is killed
_READ = 256  # examples that are read at once to find their keys
_LOGITS = 2**24  # of a vocabulary that exist at once: 64 MiB in float32

Report = Callable[[int, int], None]  # how many examples are done, of how many


class _Example(NamedTuple):
    """One that is to be answered: its number of tokens, its key, how many tokens count, and a row that holds it."""

    tokens: int
    key: bytes
    counted: int
    row: int


class Filler:
    """Fills one folder with the answers of one teacher.

    The work is cut into shards by what is missing, the same way on every worker and after every interruption. A shard
    is written beside its place and put there whole; a lock that dies with its process says who writes it. Who comes to
    the end sweeps up the shards of other plans that nobody works on.

    Args:
        folder: of the cache.
        model: the teacher, in eval mode, on its device.
        fingerprint: of it.
        signals: what is stored of each example.
        task: what it solves.
        collate: makes a batch of rows, as in training.
        dtype: of the numbers in the files.
        batch_size: examples in one forward pass.
        top_k: of the logits only so many of each position are stored, with the rest as one class; None for all.
        heads: of attention maps only averages over so many groups of heads are stored; all heads of others. Of
            queries, keys and values only relations in so many heads, where they are smaller for the examples that a
            folder is begun with.
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
        top_k: int | None = None,
        heads: Mapping[Signal, int] | None = None,
    ) -> None:
        self.folder, self.model, self.fingerprint, self.signals = folder, model, fingerprint, signals
        self.task, self.collate, self.dtype, self.batch_size, self.top_k = task, collate, dtype, batch_size, top_k
        self.heads = {name: count for name, count in (heads or {}).items() if name in signals}
        self.device = next(model.parameters()).device
        self._pads_left = False
        self.accepted = anatomy.forward_names(model)

    def holds(self, datasets: Sequence[Any]) -> bool:
        """Whether every example is there. The model is not run, and needs no weights.

        Raises:
            ValueError: as `fill`.
        """
        manifest = Manifest.read(self.folder)
        self._check(manifest)
        return manifest is not None and not self._missing(self._rows(datasets), manifest)[0]

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
        manifest = Manifest.read(self.folder)
        begun = self._check(manifest)
        rows = self._rows(datasets)
        missing, names = self._missing(rows, manifest)
        if not begun:
            lengths = np.array([example.tokens for example in missing])
            self.heads = enough(self.heads, lengths, anatomy.describe(self.model))
        if not missing and manifest is not None:
            return manifest
        with at_work(self.folder):
            return self._answer(missing, names, rows, report)

    def _answer(self, missing: list[_Example], names: list[str], rows: "_Rows", report: Report) -> Manifest:
        plan = self._plan(missing)
        done = {name for name in plan if is_there(self.folder, name)}
        report(sum(len(plan[name]) for name in done), len(missing))
        while len(done) < len(plan):
            for name in [name for name in plan if name not in done]:
                if self._write_or_skip(name, plan[name], rows):
                    done.add(name)
                    report(sum(len(plan[each]) for each in done), len(missing))
            if len(done) < len(plan):
                time.sleep(0.2)  # the others are writing
        return finish(self.folder, list(plan), names, self.fingerprint)

    def _rows(self, datasets: Sequence[Any]) -> "_Rows":
        rows = _Rows(datasets, self.accepted)
        if not len(rows):
            raise ValueError("there are no rows to ask the teacher about.")
        return rows

    def _check(self, manifest: Manifest | None) -> bool:
        """Whether there is something in the folder, which is then what is asked for, and says how it is stored."""
        unfinished = sorted(self.folder.glob("shards/*/shard.json"))
        if manifest is not None:
            found, layouts = manifest.fingerprint, manifest.layouts
        elif unfinished:
            facts = facts_of(self.folder, unfinished[0].parent.name)
            found, layouts = facts["fingerprint"], [Layout.of_plain(each) for each in facts["layouts"]]
        else:
            return False
        check_same(self.folder, found, self.fingerprint)
        there, wanted = {str(layout.signal) for layout in layouts} - {str(CLASSES)}, set(map(str, self.signals))
        if not wanted <= there:
            raise ValueError(
                f"{self.folder} holds {', '.join(sorted(there))}, and the losses ask for "
                f"{', '.join(sorted(wanted - there))} too. Cache anew, in another folder."
            )
        self.signals = frozenset(layout.signal for layout in layouts) - {CLASSES}
        dtype = next(layout.dtype for layout in layouts if layout.signal != CLASSES)
        if dtype != self.dtype:
            raise ValueError(
                f'{self.folder} holds {dtype}, not {self.dtype}. Pass dtype="{dtype}" (in a recipe cache_dtype: '
                f"{dtype}), or cache anew, in another folder."
            )
        check_top_k(self.folder, layouts, self.top_k)
        cached_heads = heads_of(layouts)
        check_heads(self.folder, cached_heads, self.heads, anatomy.describe(self.model).heads, wanted)
        self.heads = cached_heads
        return True

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
            counted = self._counted(batch)
            counts = np.zeros(len(numbers), int) if counted is None else counted.sum(1).numpy()
            keys, spans = keys_of(batch.inputs, names, batch.tokens, counted)
            there = np.zeros(len(keys), bool) if cache is None else cache.find(keys)[:, 0] >= 0
            for number, key, (start, end), count, known in zip(numbers, keys, spans, counts, there, strict=True):
                self._pads_left |= bool(start > 0)
                if not known:
                    found.setdefault(key.tobytes(), _Example(int(end - start), key.tobytes(), int(count), number))
        return sorted(found.values()), names

    def _batch(self, rows: "_Rows", numbers: Iterable[int], device: torch.device) -> Batch:
        inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.collate([rows[number] for number in numbers]).items()
        }
        return Batch(inputs, self.task)

    def _counted(self, batch: Batch) -> Tensor | None:
        return counted_of(batch) if LOGITS in self.signals else None

    def _plan(self, missing: list[_Example]) -> dict[str, list[_Example]]:
        """{shard: examples}; the name says what all shards of this plan hold."""
        whole = blake2b(b"".join(example.key for example in missing), digest_size=4)
        whole.update(
            f"{self.dtype} {self.batch_size} {self.top_k} {sorted(map(str, self.signals))} {self._groups()}".encode()
        )
        parts = [missing[first : first + SHARD] for first in range(0, len(missing), SHARD)]
        return {f"{whole.hexdigest()}-{i:05d}": part for i, part in enumerate(parts)}

    def _groups(self) -> list[str]:
        """Which heads are kept; maps of which all are, as what is there says of them, are not told."""
        own = anatomy.describe(self.model).heads
        told = {each: groups for each, groups in self.heads.items() if each.kind not in MAPS or groups != own}
        return sorted(f"{signal} {groups}" for signal, groups in told.items())

    def _write_or_skip(self, name: str, examples: list[_Example], rows: "_Rows") -> bool:
        """Whether the shard is there now; it is not if another worker is writing it."""
        try:
            with FileLock(self.folder / "shards" / f".{name}.lock", timeout=0):
                if not is_there(self.folder, name):
                    keys = np.frombuffer(b"".join(each.key for each in examples), np.uint64).reshape(-1, 2)
                    lengths = np.array([(each.tokens, each.counted) for each in examples])
                    write_shard(self.folder, name, keys, lengths, self._parts(examples, rows), self.fingerprint)
                return True
        except Timeout:
            return False

    @torch.no_grad()
    def _parts(self, examples: list[_Example], rows: "_Rows") -> Iterator[tuple[Layout, np.ndarray]]:
        """What is stored, signal by signal and example by example."""
        for batch, spans, counted, seen in self._answers(examples, rows):
            for signal, values in seen.items():
                if signal in self.heads and signal.kind in MAPS:
                    values = values.float().unflatten(1, (self.heads[signal], -1)).mean(2)
                layout = layout_of(signal, values, batch, self.dtype, counted is not None)
                for numbers in map(Tensor.float, _own_numbers(values, layout, spans, counted)):
                    yield from self._kept(layout, numbers)

    def _kept(self, layout: Layout, numbers: Tensor) -> Iterator[tuple[Layout, np.ndarray]]:
        """What is stored of a signal of one example."""
        signal = layout.signal
        if signal in self.heads and signal.kind not in MAPS:
            related = triangle(numbers[None], self.heads[signal])[0]
            yield related_of(layout, self.heads[signal]), self._stored(signal, related)
        elif signal == LOGITS and self.top_k is not None:
            logits, classes = largest(numbers, self.top_k)
            of_logits, of_classes = largest_of(layout, self.top_k)
            yield of_logits, self._stored(signal, logits)
            yield of_classes, np.ascontiguousarray(classes.cpu().numpy(), of_classes.dtype)
        else:
            yield layout, self._stored(signal, numbers)

    def _answers(
        self, examples: list[_Example], rows: "_Rows"
    ) -> Iterator[tuple[Batch, np.ndarray, Tensor | None, dict[Signal, Tensor]]]:
        """Batches, where their examples lie in them, what counts, and what was seen."""
        capture = Capture(self.model, self.signals)
        for first in range(0, len(examples), self.batch_size):
            part = examples[first : first + self.batch_size]
            batch = self._batch(rows, [example.row for example in part], self.device)
            counted = self._counted(batch)
            keys, spans = keys_of(batch.inputs, names_of(self.accepted, batch.inputs), batch.tokens, counted)
            if keys.tobytes() != b"".join(example.key for example in part):
                raise ValueError(
                    "the collator made other inputs of the same row when it was asked again: random masking or "
                    "augmentation cannot be cached. Pass the model itself as the teacher."
                )
            seen = self._observe(capture, replace(batch, counted_only=counted is not None))
            if self._pads_left:
                self._check_padding(capture, batch, *spans[0])
                self._pads_left = False  # once is enough
            yield batch, spans, counted, seen

    def _observe(self, capture: Capture, batch: Batch) -> dict[Signal, Tensor]:
        read = {name: value for name, value in batch.inputs.items() if name not in LABELS}
        inputs = anatomy.accepted(self.model, read)
        if "use_cache" in self.accepted:
            inputs["use_cache"] = False
        with capture.counting(batch):
            outputs = self.model(**inputs)
        return capture.take(outputs, batch)

    def _check_padding(self, capture: Capture, batch: Batch, start: int, end: int) -> None:
        """Refuses a teacher whose answers depend on how much padding stands on the left, as it does in batches.

        Args:
            capture: looks at it.
            batch: its first row is asked about by itself, and once more with more padding.
            start: where that row begins.
            end: where it ends.
        """
        alone = Batch({name: each[:1] for name, each in batch.inputs.items()}, self.task)
        shifted = {
            name: torch.cat([torch.zeros_like(each[:, :1]), each[:, :end]], 1)  # one more than there is
            for name, each in alone.inputs.items()
            if isinstance(each, Tensor) and alone.tokens is not None and each.shape[:2] == alone.tokens.shape
        }
        further = Batch({**alone.inputs, **shifted}, self.task)
        seen = self._observe(capture, alone)
        for signal, values in self._observe(capture, further).items():
            layout = layout_of(signal, values, further, self.dtype)
            here = seen[signal][0][layout.inside(start, end)].float().cpu().numpy()
            there = values[0][layout.inside(start + 1, end + 1)].float().cpu().numpy()
            if not np.allclose(here, there, rtol=1e-3, atol=1e-3 * float(np.abs(here).max(initial=0.0))):
                raise ValueError(
                    f"the teacher's {signal} depends on how much padding stands on the left, and batches differ in "
                    'that. Set tokenizer.padding_side = "right", or pass the model itself as the teacher.'
                )

    def _stored(self, signal: Signal, values: Tensor) -> np.ndarray:
        """As they lie in the file; what padding holds was cut off."""
        numbers = values.cpu().numpy()
        if not np.isfinite(numbers).all():
            raise FloatingPointError(
                f"the teacher's {signal} is not finite. Load it in float32, or check its weights; nothing was cached."
            )
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(numbers, self.dtype)
        if not np.isfinite(stored).all():
            raise FloatingPointError(f"the teacher's {signal} is too large for {self.dtype}. Cache it in float32.")
        return stored


def _own_numbers(values: Tensor, layout: Layout, spans: np.ndarray, counted: Tensor | None) -> Iterator[Tensor]:
    """What is stored of a batch, example by example, padding left out.

    A vocabulary's logits come some positions at a time, computed only then, and not parted by example: they lie in the
    file one after the other, whose they are says the index.
    """
    if isinstance(values, HeadLogits):
        for hidden in values.hidden.split(max(1, _LOGITS // values.shape[-1])):
            yield hidden if values.weight is None else F.linear(hidden, values.weight, values.bias)
        return
    for row, (start, end) in enumerate(spans):
        yield values[row][layout.inside(start, end, None if counted is None else counted[row])]


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
