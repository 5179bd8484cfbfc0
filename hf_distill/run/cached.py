"""The cache of the teacher's answers that a recipe names."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import DataCollatorWithPadding

from hf_distill import progress
from hf_distill import recipe as recipes
from hf_distill.batch import Batch
from hf_distill.report import digits
from hf_distill.run.models import has_no_weights
from hf_distill.run.prepared import Ready, prepare
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache import source as sources
from hf_distill.teachers.cache.layout import COUNTED, PAIRS, TOKENS
from hf_distill.teachers.cache.manifest import Manifest
from hf_distill.top_k import TopK
from hf_distill.trainer import DistillationTrainer

_SIZES = {TOKENS: "tokens", COUNTED: "tokens that count", PAIRS: "pairs of tokens"}


def build(recipe: recipes.Recipe, console: Console, allow_custom_code: bool = False) -> Cache:
    """Runs the teacher over all that a run of the recipe will ask it, as far as it is not cached yet.

    Args:
        recipe: names the folder in `teacher.cache`.
        console: where progress goes.
        allow_custom_code: whether losses, and a function that teaches, may be dotted paths.

    Raises:
        ValueError: as `run.check`; the folder holds something else; what cannot be cached.
        FloatingPointError: the teacher is not finite.
    """
    folder = folder_of(recipe)
    ready = prepare(recipe, allow_custom_code)
    with tempfile.TemporaryDirectory() as empty:  # the trainer makes its output folder, and its repository on the Hub
        ready.args.output_dir, ready.args.push_to_hub = empty, False
        fill(ready, ready.trainer(), Console(quiet=True) if ready.args.process_index else console)
    return opened(folder)


def fill(ready: Ready, trainer: DistillationTrainer, console: Console) -> None:
    """Asks a `CachedTeacher` about all rows, those that the models are compared on too; others are left alone."""
    teacher = ready.asked
    if not isinstance(teacher, CachedTeacher):
        return
    with progress.counted("the teacher answers", console) as report:
        teacher.fill(ready.dataset, trainer.data_collator, report)
    quantized = ready.recipe.teacher.quantize is not None  # the files do not say so
    if not (ready.args.process_index or quantized or has_no_weights(teacher.model)):
        sources.remember(teacher.folder, ready.recipe.model_path("teacher"))


def answers(teacher: CachedTeacher, rows: Dataset, task: Task, tokenizer: Any, batch_size: int = 64) -> np.ndarray:
    """Logits of a teacher that is not run.

    Args:
        teacher: filled with the rows.
        rows: encoded.
        task: of the teacher.
        tokenizer: pads the rows.
        batch_size: rows that are read at once.

    Returns:
        (examples, classes), float32, in the order of the student's labels; of those that were not kept the mean.
    """
    collate = DataCollatorWithPadding(tokenizer)
    unlabelled = rows.remove_columns([name for name in rows.column_names if name == "labels"])
    found = []
    for first in range(0, len(unlabelled), batch_size):
        part = unlabelled.select(range(first, min(first + batch_size, len(unlabelled))))
        logits: Any = teacher.observe(Batch(dict(collate(list(part))), task))[LOGITS]
        found.append((logits.whole() if isinstance(logits, TopK) else logits).float().cpu().numpy())
    return np.concatenate(found)


def folder_of(recipe: recipes.Recipe) -> Path:
    """The folder that a recipe names.

    Raises:
        ValueError: it names none.
    """
    if recipe.teacher.model is None:
        raise ValueError("the recipe's teacher names no model, whose answers could be kept.")
    if recipe.teacher.cache is None:
        raise ValueError("the recipe names no folder for the answers. Add --set teacher.cache=FOLDER.")
    return Path(recipe.teacher.cache)


def opened(folder: Path) -> Cache:
    """A finished cache.

    Raises:
        ValueError: it is not there, not finished, or damaged.
    """
    manifest = Manifest.read(folder)
    if manifest is None:
        found = (
            "is not finished: the same command without --show or --verify goes on" if folder.is_dir() else "is missing"
        )
        raise ValueError(f"{folder} {found}.")
    return Cache(folder, manifest)


def table(cache: Cache) -> Table:
    """What is in a cache: signals, shapes, bytes."""
    examples, grid = max(cache.manifest.examples, 1), Table("signal", "shape of an example", "numbers", box=None)
    grid.add_column("bytes an example", justify="right")
    grid.add_column("MB", justify="right")
    for signal, layout in cache.layouts.items():
        size = cache.bytes_of(signal)
        shape = " x ".join(_SIZES.get(each, str(each)) for each in layout.shape)
        grid.add_row(str(signal), shape, layout.dtype, f"{size / examples:,.0f}", digits.megabytes(size / 1e6))
    whole = sum(facts["bytes"] for facts in cache.manifest.files.values())
    teacher = cache.manifest.fingerprint["architecture"]
    grid.title = f"{cache.folder}: {cache.manifest.examples:,} examples, {teacher}"
    grid.caption = f"{digits.megabytes(whole / 1e6)} MB in all, with keys and index"
    return grid
