"""Which rows are train, validation and test: by the names of files or of the Hub's splits, or held out of train."""

import glob
import logging
import random
import re
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset

from hf_distill.data.error import DataError
from hf_distill.data.rows import READERS, bad_texts, kinds, read_rows, refuse_rows
from hf_distill.recipe import DatasetSpec

logger = logging.getLogger(__name__)

SEED = 0
"""Of the rows that are held out or drawn: the same ones whatever the seed of a training."""

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
"""The splits of a data set, with the words in a file's name that say which one it is."""


def local_files(path: str, base_dir: Path) -> list[Path] | None:
    """The files that a path names; None if it must be a Hub id."""
    pattern = Path(path).expanduser()
    for root in (base_dir, Path()):
        files = _expand(root, pattern)
        if files:
            return files
        if (root / pattern).is_dir():
            raise DataError(f"dataset.path: no {kinds()} file in '{root / pattern}'")
    if glob.has_magic(path) or path.startswith((".", "/", "~")) or path.count("/") > 1 or pattern.suffix in READERS:
        looked = f"looked in '{base_dir}', then in the current folder"
        raise DataError(f"dataset.path: nothing at '{path}' ({looked})")
    return None


def _expand(root: Path, pattern: Path) -> list[Path]:
    target = root / pattern
    if target.is_dir():
        files = [path for path in target.iterdir() if path.suffix in READERS]
        return sorted(files or [path for path in target.rglob("*") if path.suffix in READERS])
    if target.is_file():
        return [target]
    found = [root / name for name in glob.glob(str(pattern), root_dir=root, recursive=True)]
    return sorted(path for path in found if path.is_file())


def from_files(files: list[Path], spec: DatasetSpec) -> dict[str, Dataset]:
    """The rows of each split that the files hold."""
    bad: list[str] = []
    read = {
        split: [read_rows(file, spec, bad) for file in members] for split, members in _by_split(files, spec).items()
    }
    refuse_rows(bad)
    found: dict[str, Dataset] = {}
    for split, parts in read.items():
        try:
            found[split] = parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)
        except (ValueError, pa.ArrowException) as error:
            raise DataError(f"the files of {split} do not fit together: {error}") from error
    return found


def _by_split(files: list[Path], spec: DatasetSpec) -> dict[str, list[Path]]:
    """Which files are which split: by the recipe's split names, then by the words in the files' names."""
    wanted = {"train": spec.train_split, "validation": spec.eval_split, "test": spec.test_split}
    if not any(wanted.values()) and all(_split_of(file.stem) is None for file in files):
        return {"train": files}
    found: dict[str, list[Path]] = {}
    for split, name in wanted.items():
        exact = [file for file in files if file.stem == name]
        alike = [
            file for file in files if _split_of(file.stem) == (split if name is None else _split_of(name) or name)
        ]
        if exact or alike:
            found[split] = exact or alike
        elif name is not None:
            raise DataError(f"dataset: no file for the split '{name}' among {', '.join(file.name for file in files)}")
    lost = [file.name for file in files if not any(file in members for members in found.values())]
    if lost and not any(wanted.values()):
        raise DataError(f"dataset.path: '{lost[0]}' is neither train, dev nor test by its name; narrow the pattern")
    if "train" not in found and len(files) == 1:
        return {"train": files}
    if "train" not in found:
        names = ", ".join(file.name for file in files)
        raise DataError(f"dataset: no training file among {names}; name dataset.train_split")
    return found


def _split_of(stem: str) -> str | None:
    """`goemotions_train-00000-of-00002` is train."""
    words = re.split(r"[^a-z]+", stem.lower())
    return next((split for split, names in SPLITS.items() if any(name in words for name in names)), None)


def from_hub(spec: DatasetSpec) -> dict[str, Dataset]:
    """The rows of each split that the Hub's data set has, by the recipe's names or else by the usual ones."""
    try:
        loaded = datasets.load_dataset(spec.path, spec.name)
    except Exception as error:  # the Hub's client raises what it likes; the user needs the name and the reason
        reason = " ".join(str(error).split())
        raise DataError(f"dataset.path: '{spec.path}' is no file here, and not on the Hub: {reason}") from error
    found: dict[str, Dataset] = {}
    for split, name in (("train", spec.train_split), ("validation", spec.eval_split), ("test", spec.test_split)):
        names = [name] if name else list(SPLITS[split])
        present = next((candidate for candidate in names if candidate in loaded), None)
        if present is not None:
            found[split] = loaded[present]
        elif name or split == "train":
            raise DataError(f"dataset: '{spec.path}' has no split '{names[0]}'; it has {', '.join(loaded)}")
    bad = [f"{split} {line}" for split, rows in found.items() for line in bad_texts(rows, spec, "row {}".format)]
    refuse_rows(bad)
    return found


def hold_out(found: dict[str, Dataset], fraction: float) -> dict[str, Dataset]:
    """A part of train as validation; both keep the order of the rows."""
    rows = found["train"]
    count = max(1, round(len(rows) * fraction))
    if count >= len(rows):
        raise DataError(f"{len(rows)} training rows are too few to hold out {fraction:.0%} of them for validation")
    held = set(random.Random(SEED).sample(range(len(rows)), count))
    logger.info("no validation split: %d of %d training rows are held out", count, len(rows))
    train = rows.select([index for index in range(len(rows)) if index not in held])
    return {**found, "train": train, "validation": rows.select(sorted(held))}


def draw(rows: Dataset, limit: int | None) -> Dataset:
    """So many rows, drawn over the whole (files are often sorted by label) and kept in order."""
    if limit is None or limit >= len(rows):
        return rows
    return rows.select(sorted(random.Random(SEED).sample(range(len(rows)), limit)))
