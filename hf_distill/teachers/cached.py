"""A teacher that answers from disk."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import ModelShape, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.fill import Filler, Report, check_same
from hf_distill.teachers.cache.keys import keys_of, names_of, other_inputs
from hf_distill.teachers.cache.layout import DTYPES
from hf_distill.teachers.cache.manifest import Manifest, fingerprint, skeleton, vocabulary
from hf_distill.teachers.model import ModelTeacher, check_pair, tokenizer_beside

CACHED_KINDS = frozenset(
    {"logits", "hidden", "pooled", "label_embeddings", "attention", "attention_scores", "query", "key", "value"}
)

logger = logging.getLogger(__name__)


class CachedTeacher(Teacher):
    """Runs the model once over all examples, and reads what it said from disk in every step of every epoch:

        teacher = CachedTeacher("cache", model)
        trainer = DistillationTrainer(student, teacher, losses, args, train_dataset=train, eval_dataset=dev)
        teacher.fill([train, dev], trainer.data_collator)
        trainer.train()

    An example is found by what the teacher reads of it, never by its place: shuffling, padding, accumulation, workers
    and processes need no care. Once filled, the folder is enough: `CachedTeacher("cache")` loads no model.

    Args:
        folder: of the cache.
        model: a transformers model or PEFT wrapper in eval mode; None where everything is in the folder.
        missing: what to do with an example that is not there: an ``"error"``, or ask the model ``"live"``. The same
            goes for signals that cannot be cached, such as derivatives along directions that change in every step.
        dtype: of the numbers on disk: ``"float32"``, or ``"float16"`` in half the space.
        batch_size: examples in one forward pass of `fill`.
        label_map: see `ModelTeacher`.
        tokenizer: see `ModelTeacher`.

    Raises:
        ValueError: neither a model nor a finished cache; another model than the one that filled it; a damaged cache.
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module | None = None,
        *,
        missing: Literal["error", "live"] = "error",
        dtype: str = "float32",
        batch_size: int = 32,
        label_map: Literal["by_name"] | None = None,
        tokenizer: Any = None,
    ) -> None:
        if dtype not in DTYPES or missing not in ("error", "live"):
            raise ValueError(f"dtype is one of {', '.join(DTYPES)}, missing is error or live; not {dtype}, {missing}.")
        if missing == "live" and model is None:
            raise ValueError('missing="live" asks the model. Pass it too.')
        self.folder, self.missing, self.dtype, self.batch_size = Path(folder), missing, dtype, batch_size
        self.label_map, self.tokenizer = label_map, tokenizer
        manifest = Manifest.read(self.folder)
        if manifest is None and model is None:
            raise ValueError(
                f"{folder} is no finished cache. Pass the model too and call fill, or run hf-distill cache RECIPE."
            )
        self._cache = None if manifest is None else Cache(self.folder, manifest)
        self._live = None if model is None else ModelTeacher(model, label_map, tokenizer)
        self.model: nn.Module = skeleton(manifest.fingerprint) if model is None and manifest is not None else model  # type: ignore[assignment]
        self.shape: ModelShape = anatomy.describe(self.model)
        self.input_names: Iterable[str] = anatomy.forward_names(self.model)
        self._wanted: dict[Signal, Signal] = {}  # {as the losses ask for it: as it is stored}
        self._only_live = False
        self._fingerprint: dict[str, Any] = {}

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: as `ModelTeacher`; another teacher than the one that filled the folder; signals that are not
                there or cannot be cached.
        """
        task = find_task(anatomy.unwrap(self.model))
        why = _why_not(task, wanted)
        self._only_live = why is not None and self.missing == "live"
        if why is not None and self.missing == "error":
            raise ValueError(f'{why} Pass missing="live", or the model itself as the teacher.')
        if self._live is not None:
            self._live.label_map = self.label_map
            self._live.prepare(student, wanted, device, tokenizer)
        if self._only_live:
            logger.warning("%s The teacher answers live.", why)
            return
        own = self.tokenizer or (tokenizer_beside(self.model) if self._live is not None else None)
        self._order = check_pair(self.model, self.label_map, student, wanted, tokenizer, own, device)
        self._device, self._task = device, task
        self._wanted = {signal: self._counted(signal) for signal in wanted}
        if self._live is None:
            self._fingerprint = {"tokenizer": vocabulary(tokenizer)}  # nothing else is known here
        else:
            self._fingerprint = fingerprint(self._live.model, tokenizer)
        if self._cache is not None:
            self._check_cache(self._cache, self._fingerprint)

    def _check_cache(self, cache: Cache, here: dict[str, Any]) -> None:
        check_same(self.folder, cache.manifest.fingerprint, here)
        missing = sorted(str(signal) for signal in self._wanted.values() if signal not in cache.layouts)
        if missing:
            raise ValueError(
                f"{self.folder} holds {', '.join(sorted(map(str, cache.layouts)))}, and the losses ask for "
                f"{', '.join(missing)} too. Cache anew, in another folder."
            )

    def fill(
        self,
        datasets: Any,
        collate: Callable[[list[Any]], dict[str, Any]],
        report: Report | None = None,
    ) -> None:
        """Runs the model over every example that is not there yet; after an interruption, call it again.

        Args:
            datasets: all that the trainer reads, for training and evaluation: one, several, or splits by name.
            collate: the trainer's `data_collator`.
            report: called with how many examples are done, of how many.

        Raises:
            ValueError: the trainer was not made yet, so that nobody knows what the losses ask for; there are examples
                that are not in the cache, and no model.
            FloatingPointError: the answers are not finite, or too large for `dtype`.
        """
        if self._only_live:
            return
        if not self._wanted:
            raise ValueError("fill comes after the trainer is made: its losses say what is to be cached.")
        if self._live is None:
            raise ValueError(f"{self.folder} was opened without its teacher: pass the model too to add examples.")
        filler = Filler(
            self.folder,
            self._live.model,
            self._fingerprint,
            frozenset(self._wanted.values()),
            self._task,
            collate,
            self.dtype,
            self.batch_size,
        )
        self._cache = Cache(self.folder, filler.fill(_parts(datasets), report))

    @torch.no_grad()
    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`.

        Raises:
            ValueError: an example is not in the cache, and the model is not to be asked.
        """
        if self._only_live:
            assert self._live is not None
            return self._live.observe(batch)
        if self._cache is None:
            return self._not_cached(batch, f"nothing is cached in {self.folder} yet. Call fill before training.")
        known, names = self._cache.manifest.inputs, names_of(self.input_names, batch.inputs)
        if names != known:
            return self._not_cached(batch, other_inputs(known, names))
        keys, spans = keys_of(batch.inputs, names, batch.tokens)
        where = self._cache.find(keys)
        unknown = (where[:, 0] < 0).nonzero()[0]
        if len(unknown):
            row = int(unknown[0])
            return self._not_cached(
                batch,
                f"row {row} of the batch ({spans[row, 1] - spans[row, 0]} tokens) is not in {self.folder}, which "
                f"holds {self._cache.manifest.examples:,} examples. It is new, or was tokenised in another way: call "
                'fill with it, or pass missing="live".',
            )
        tokens = 0 if batch.tokens is None else batch.tokens.shape[1]
        return {
            signal: self._in_order(
                signal, torch.from_numpy(self._cache.read(counted, where, spans[:, 0], tokens)).to(self._device)
            )
            for signal, counted in self._wanted.items()
        }

    def _not_cached(self, batch: Batch, why: str) -> Signals:
        """A live answer, if one was asked for."""
        if self.missing == "live" and self._live is not None:
            return self._live.observe(batch)
        raise ValueError(why)

    def _in_order(self, signal: Signal, values: torch.Tensor) -> torch.Tensor:
        """In the order of the student's labels."""
        axis = {"logits": -1, "label_embeddings": 1}.get(signal.kind)
        return values if self._order is None or axis is None else values.index_select(axis, self._order)

    def _counted(self, signal: Signal) -> Signal:
        """With its layer counted from 0, as it is stored."""
        if isinstance(signal.layer, int) and signal.layer < 0:
            return Signal(signal.kind, signal.layer + self.shape.layers)
        return signal


def _why_not(task: Task, wanted: frozenset[Signal]) -> str | None:
    """Why these signals cannot be cached; None if they can."""
    if task is Task.SEQ2SEQ:
        return "A decoder reads what is made of the labels, and its answers cannot be found by the inputs."
    changing = sorted(str(signal) for signal in wanted if signal.kind not in CACHED_KINDS)
    if changing:
        return f"{', '.join(changing)} is along another direction in every step, and cannot be cached."
    return None


def _parts(datasets: Any) -> list[Any]:
    """One data set, several, or splits by name, as a list."""
    if hasattr(datasets, "column_names") and not isinstance(datasets, Mapping):
        return [datasets]
    several = datasets.values() if isinstance(datasets, Mapping) else datasets
    return [part for each in several for part in (each.values() if isinstance(each, Mapping) else [each])]
