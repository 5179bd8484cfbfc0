"""The cache of the teacher's answers that a recipe names."""

import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hf_distill import progress
from hf_distill import recipe as recipes
from hf_distill.report import digits
from hf_distill.run.prepared import prepare
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.layout import TOKENS
from hf_distill.teachers.cache.manifest import Manifest
from hf_distill.trainer import DistillationTrainer


def build(recipe: recipes.Recipe, console: Console, allow_custom_code: bool = False) -> Cache:
    """Runs the teacher over all that a run of the recipe will ask it, as far as it is not cached yet.

    Args:
        recipe: names the folder in `teacher.cache`.
        console: where progress goes.
        allow_custom_code: whether losses may be dotted paths.

    Raises:
        ValueError: as `run.check`; the folder holds something else; what cannot be cached.
        FloatingPointError: the teacher is not finite.
    """
    folder = folder_of(recipe)
    ready = prepare(recipe, allow_custom_code)
    with tempfile.TemporaryDirectory() as empty:  # the trainer makes its output folder, and its repository on the Hub
        ready.args.output_dir, ready.args.push_to_hub = empty, False
        fill(ready.trainer(), Console(quiet=True) if ready.args.process_index else console)
    return opened(folder)


def fill(trainer: DistillationTrainer, console: Console) -> None:
    """Asks a `CachedTeacher` about all rows that the trainer reads; others are left alone."""
    if not isinstance(trainer.teacher, CachedTeacher):
        return
    datasets = [each for each in (trainer.train_dataset, trainer.eval_dataset) if each is not None]
    with progress.counted("the teacher answers", console) as report:
        trainer.teacher.fill(datasets, trainer.data_collator, report)


def folder_of(recipe: recipes.Recipe) -> Path:
    """The folder that a recipe names.

    Raises:
        ValueError: it names none.
    """
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
        shape = " x ".join("tokens" if each == TOKENS else str(each) for each in layout.shape)
        grid.add_row(str(signal), shape, layout.dtype, f"{size / examples:,.0f}", digits.megabytes(size / 1e6))
    whole = sum(facts["bytes"] for facts in cache.manifest.files.values())
    teacher = cache.manifest.fingerprint["architecture"]
    grid.title = f"{cache.folder}: {cache.manifest.examples:,} examples, {teacher}"
    grid.caption = f"{digits.megabytes(whole / 1e6)} MB in all, with keys and index"
    return grid
