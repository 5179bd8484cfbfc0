"""A teacher that answers from disk."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from hf_distill import anatomy
from hf_distill.batch import Batch, host
from hf_distill.relations import Relations
from hf_distill.signals import LOGITS, ModelShape, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.fill import Filler, Report
from hf_distill.teachers.cache.keys import counted_of, keys_of, names_of, other_inputs
from hf_distill.teachers.cache.layout import CLASSES, DTYPES, heads_of, is_related
from hf_distill.teachers.cache.manifest import Manifest, fingerprint, skeleton, vocabulary
from hf_distill.teachers.cache.refusals import check_heads, check_same, check_top_k
from hf_distill.teachers.model import ModelTeacher, check_pair, tokenizer_beside
from hf_distill.top_k import TopK, largest
from hf_distill.weights import digest

CACHED_KINDS = frozenset(
    {"logits", "hidden", "pooled", "label_embeddings", "attention", "attention_scores", "query", "key", "value"}
)
_SOFTMAX = (Task.SINGLE_LABEL, Task.TOKENS, Task.MASKED_LM, Task.CAUSAL_LM)  # over classes that always are the same

logger = logging.getLogger(__name__)


class CachedTeacher(Teacher):
    """Runs the model once over all examples, and reads what it said from disk in every step of every epoch:

        teacher = CachedTeacher("cache", model)
        trainer = DistillationTrainer(student, teacher, losses, args, train_dataset=train, eval_dataset=dev)
        teacher.fill([train, dev], trainer.data_collator)
        trainer.train()

    An example is found by what the teacher reads of it, never by its place: shuffling, padding, accumulation, workers
    and processes need no care. Once filled, the folder is enough: `CachedTeacher("cache")` loads no model, and
    `CachedTeacher("cache", lambda: teachers.load("teacher"))` only if something is missing.

    Of logits beside tokens only those that count are kept: those with a label, or all attended ones without labels. A
    vocabulary's logits are kept where a loss looks at them; without them no agreement is told. Of queries, keys and
    values of which the losses compare relations alone (`MiniLM`, `MiniLMv2`) these are kept, where they are fewer
    numbers for the examples that a folder is begun with: where (tokens + 1) / 2 x relation heads is below the width.

    Args:
        folder: of the cache.
        model: a transformers model or PEFT wrapper in eval mode, or a function that loads it; None where everything is
            in the folder.
        missing: what to do with an example that is not there: an ``"error"``, or ask the model ``"live"``. The same
            goes for signals that cannot be cached, such as derivatives along directions that change in every step.
        dtype: of the numbers on disk: ``"float32"``, or ``"float16"`` in half the space.
        batch_size: examples in one forward pass of `fill`.
        top_k: keep so many of the largest logits of each position, and the others as one class: see `TopK`. For
            vocabularies; divergences between softmaxes can learn from them. None keeps all; without a model it is
            what the folder says.
        label_map: see `ModelTeacher`.
        tokenizer: see `ModelTeacher`.

    Raises:
        ValueError: neither a model nor a finished cache; another model than the one that filled it; a damaged cache.
    """

    how_it_runs = frozenset({"folder", "missing", "dtype", "batch_size"})  # what is filled keeps its own dtype

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module | Callable[[], nn.Module] | None = None,
        *,
        missing: Literal["error", "live"] = "error",
        dtype: str = "float32",
        batch_size: int = 32,
        top_k: int | None = None,
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
        self.top_k = top_k
        if manifest is not None and (model is not None or top_k is not None):
            check_top_k(self.folder, manifest.layouts, top_k)
        elif self._cache is not None:
            self.top_k = self._cache.top_k
        self._load = model
        loaded = model if isinstance(model, nn.Module) or model is None or manifest is not None else model()
        self._live = ModelTeacher(loaded, label_map, tokenizer) if isinstance(loaded, nn.Module) else None
        if self._live is None:
            assert manifest is not None
            self.model: nn.Module = skeleton(manifest.fingerprint)
        else:
            self.model = self._live.model
        self.shape: ModelShape = anatomy.describe(self.model)
        self.input_names: Iterable[str] = anatomy.forward_names(self.model)
        self._wanted: dict[Signal, Signal] = {}  # {as the losses ask for it: as it is stored}
        self._only_live = False
        self._filled: list[Any] = []  # data sets that are there as a whole

    @property
    def weights(self) -> str | None:
        """A hash of the weights whose answers these are."""
        if self._cache is not None:
            return self._cache.manifest.fingerprint["weights"]  # type: ignore[no-any-return]
        return digest(self.model)

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
        if task.of_vocabulary and not self._only_live:  # to tell the agreement alone they are too large for a disk
            wanted = wanted - self.only_evaluated or wanted
        self._asked_by = (student, wanted, device, tokenizer)
        if self._live is not None or self._only_live:
            self._prepare_model()
        if self._only_live:
            logger.warning("%s The teacher answers live.", why)
            return
        self._check_top_k(task, wanted)
        own = self.tokenizer or (tokenizer_beside(self.model) if self._live is not None else None)
        pair = (self.model, self.label_map, student, wanted, tokenizer, own, device)
        self._order = check_pair(*pair, same_inputs=not self.view)
        self._device, self._task = device, task
        self._wanted = {signal: self._counted(signal) for signal in wanted}
        asked: dict[Signal, set[int | None]] = {}
        for signal, stored in self._wanted.items():
            asked.setdefault(stored, set()).add(self.compared_heads.get(signal))
        self._heads = {stored: groups for stored, (groups, *more) in asked.items() if groups is not None and not more}
        if self._cache is not None:
            only = {"tokenizer": vocabulary(tokenizer)}  # nothing else is known here
            self._check_cache(self._cache, only if self._live is None else fingerprint(self._live.model, tokenizer))

    def _prepare_model(self) -> ModelTeacher:
        """The model, loaded now if it was not yet, and ready to be asked."""
        loads = self._live is None
        if self._live is None:
            assert self._load is not None
            self._live = ModelTeacher(self._load(), self.label_map, self.tokenizer)
            self.model = self._live.model
        self._live.label_map = self.label_map
        self._live.only_evaluated, self._live.view = self.only_evaluated, self.view
        self._live.prepare(*self._asked_by)
        if loads and not self._only_live and self._cache is not None:
            here = fingerprint(self._live.model, self._asked_by[-1])
            check_same(self.folder, self._cache.manifest.fingerprint, here)
        return self._live

    def _check_top_k(self, task: Task, wanted: frozenset[Signal]) -> None:
        if self.top_k is None or LOGITS not in wanted:
            return
        if task not in _SOFTMAX:
            raise ValueError(
                f"top_k={self.top_k} keeps the largest logits of a softmax over classes, and the task is {task}. "
                "Leave it out."
            )
        if not 0 < self.top_k < self.shape.classes:
            raise ValueError(
                f"top_k={self.top_k} of {self.shape.classes} classes; it must be at least 1 and leave a rest. Leave "
                "it out where there are few classes."
            )

    def _check_cache(self, cache: Cache, here: dict[str, Any]) -> None:
        check_same(self.folder, cache.manifest.fingerprint, here)
        missing = sorted(str(signal) for signal in self._wanted.values() if signal not in cache.layouts)
        if missing:
            there = sorted(str(signal) for signal in cache.layouts if signal != CLASSES)
            raise ValueError(
                f"{self.folder} holds {', '.join(there)}, and the losses ask for "
                f"{', '.join(missing)} too. Cache anew, in another folder."
            )
        wanted = set(map(str, self._wanted.values()))
        check_heads(self.folder, heads_of(cache.manifest.layouts), self._heads, self.shape.heads, wanted)

    def fill(
        self,
        datasets: Any,
        collate: Callable[[list[Any]], dict[str, Any]],
        report: Report | None = None,
    ) -> None:
        """Runs the model over every example that is not there yet; after an interruption, call it again.

        Where nothing is missing, a model that was given as a function is not loaded.

        Args:
            datasets: all that the trainer reads, for training and evaluation: one, several, or splits by name.
            collate: the trainer's `data_collator`.
            report: called with how many examples are done, of how many.

        Raises:
            ValueError: the trainer was not made yet, so that nobody knows what the losses ask for; there are examples
                that are not in the cache, and no model; the model is not the one that answered before.
            FloatingPointError: the answers are not finite, or too large for `dtype`.
        """
        if self._only_live:
            return
        if not self._wanted:
            raise ValueError("fill comes after the trainer is made: its losses say what is to be cached.")
        parts = _parts(datasets)
        if self._live is None:
            assert self._cache is not None
            if self._filler(self.model, self._cache.manifest.fingerprint, collate).holds(parts):
                self._filled += parts
                return
            if self._load is None:
                raise ValueError(f"{self.folder} was opened without its teacher: pass the model too to add examples.")
        live = self._live or self._prepare_model()
        known = fingerprint(live.model, self._asked_by[-1])  # it may have changed since it was last asked
        self._cache = Cache(self.folder, self._filler(live.model, known, collate).fill(parts, report))
        self._filled += parts

    def check_evaluation(self, dataset: Any, collate: Callable[[list[Any]], dict[str, Any]]) -> None:
        """See `Teacher.check_evaluation`.

        Raises:
            ValueError: some rows are not in the cache, and the model is not to be asked.
        """
        if self._cache is None or self._only_live or self.missing == "live":
            return
        parts = [
            part
            for part in (dataset.values() if isinstance(dataset, Mapping) else [dataset])
            if hasattr(part, "__len__") and len(part) and all(part is not each for each in self._filled)
        ]
        filler = self._filler(self.model, self._cache.manifest.fingerprint, collate, as_cached=True)
        if parts and not filler.holds(parts):
            raise ValueError(
                f"eval_dataset has rows that are not in {self.folder}, and the first evaluation would ask for them. "
                'Call fill with it too, or pass missing="live".'
            )

    def _filler(
        self,
        model: nn.Module,
        known: dict[str, Any],
        collate: Callable[[list[Any]], dict[str, Any]],
        as_cached: bool = False,
    ) -> Filler:
        wanted = frozenset(self._wanted.values())
        dtype = self.dtype
        if self._cache is not None and (as_cached or self._load is None):  # nobody has said what is to be in it
            dtype = next(layout.dtype for layout in self._cache.manifest.layouts if layout.signal != CLASSES)
        settings: tuple[Any, ...] = (dtype, self.batch_size, self.top_k, self._heads)
        return Filler(self.folder, model, known, wanted, self._task, collate, *settings)

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
        here = batch.on_host  # to hash what is on a device is to wait for it
        known, names = self._cache.manifest.inputs, names_of(self.input_names, here.inputs)
        if names != known:
            return self._not_cached(batch, other_inputs(known, names))
        counted = counted_of(here) if self._cache.counted else None
        keys, spans = keys_of(here.inputs, names, here.tokens, counted)
        where = self._cache.find(keys)
        unknown = (where[:, 0] < 0).nonzero()[0]
        if len(unknown):
            row = int(unknown[0])
            return self._not_cached(
                batch,
                f"row {row} of the batch ({spans[row, 1] - spans[row, 0]} tokens) is not in {self.folder}, which "
                f"holds {self._cache.manifest.examples:,} examples. It is new, or was tokenised "
                f"{'or labelled ' if counted is not None else ''}in another way: call fill with it, or pass "
                'missing="live".',
            )
        kept = None if counted is None else counted.cpu().numpy()
        tokens = 0 if here.tokens is None else here.tokens.shape[1]

        def read(stored: Signal) -> torch.Tensor:
            assert self._cache is not None
            found = torch.from_numpy(self._cache.read(stored, where, spans[:, 0], tokens, kept))
            found = host.sent(found, self._device)
            return cast(torch.Tensor, Relations(found)) if is_related(self._cache.layouts[stored]) else found

        seen = {signal: read(stored) for signal, stored in self._wanted.items()}
        if LOGITS in seen and self.top_k is not None:
            kept_ones = TopK(seen.pop(LOGITS), read(CLASSES), self.shape.classes).renamed(self._order)
            others = {signal: self._in_order(signal, values) for signal, values in seen.items()}
            return {**others, LOGITS: cast(torch.Tensor, kept_ones)}  # the losses that take it look for it
        return {signal: self._in_order(signal, values) for signal, values in seen.items()}

    def _not_cached(self, batch: Batch, why: str) -> Signals:
        """A live answer, if one was asked for."""
        if self.missing == "live":
            seen = dict((self._live or self._prepare_model()).observe(batch))
            if self.top_k is not None and LOGITS in seen:
                kept = TopK(*largest(seen[LOGITS], self.top_k), self.shape.classes)
                seen[LOGITS] = cast(torch.Tensor, kept)
            return seen
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
