"""Ragged rows, collators and folders of answers for the tests of the teacher's cache."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from models import LABELS, VOCABULARY
from runs import classifier
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.fill import Filler
from hf_distill.teachers.cache.manifest import fingerprint

CPU = torch.device("cpu")


def ragged(count: int = 12, seed: int = 0, shortest: int = 2, longest: int = 9) -> Dataset:
    """Rows of different lengths, no two of them the same, with class ids as labels; fewer are the first of more."""
    generator = torch.Generator().manual_seed(seed)

    def row() -> list[int]:
        length = int(torch.randint(shortest, longest + 1, (), generator=generator))
        found: list[int] = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
        return found

    ids = [row() for _ in range(count)]
    return Dataset.from_dict({"input_ids": ids, "labels": [sum(each) % LABELS for each in ids]})


def padded(rows: list[dict[str, Any]], left: bool = False, more: int = 0) -> dict[str, Tensor]:
    """A batch: token ids with their mask, padded on one side; ragged labels likewise, others as they are."""
    longest = max(len(row["input_ids"]) for row in rows) + more

    def pad(values: list[Any], filling: int) -> list[Any]:
        rest = [filling] * (longest - len(values))
        return rest + values if left else values + rest

    batch = {
        "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in rows]),
    }
    if "labels" in rows[0]:
        per_token = isinstance(rows[0]["labels"], list) and isinstance(rows[0]["labels"][0], int)
        batch["labels"] = torch.tensor([pad(row["labels"], -100) if per_token else row["labels"] for row in rows])
    return batch


def filler(
    folder: Path, model: Any = None, signals: Any = (LOGITS,), task: Task = Task.SINGLE_LABEL, **settings: Any
) -> Filler:
    model = classifier(seed=1) if model is None else model
    settings = {"collate": padded, "batch_size": 3, **settings}
    return Filler(folder, model, fingerprint(model), frozenset(signals), task, **settings)


def filled(folder: Path, data: Any = None, **settings: Any) -> Cache:
    """A finished cache of twelve rows, or of those given."""
    return Cache(folder, filler(folder, **settings).fill([ragged() if data is None else data]))


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder but the locks."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def live(model: Any, wanted: Any, batch: Batch, student: Any) -> dict[Signal, Tensor]:
    """What the model itself says."""
    teacher = ModelTeacher(model)
    teacher.prepare(student, frozenset(wanted), CPU, None)
    return dict(teacher.observe(batch))
