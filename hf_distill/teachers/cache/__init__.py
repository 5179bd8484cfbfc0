"""A teacher's answers on disk, found by the content of the example, read from memory-mapped files.

    cache/
      manifest.json            written last: whose answers, which signals, size and hash of every file
      index-43410/             high.npy low.npy where.npy: keys in ascending order, and where the example lies
      shards/1f0c9a2e-00000/   keys.npy lengths.npy, one file of plain numbers a signal, shard.json

An example is looked up by a hash of exactly what the teacher reads of it (`keys`), so that shuffling, padding, epochs,
accumulation, workers, processes and resuming cannot mix anything up, and no column of indices is carried around.
"""

from functools import lru_cache
from math import prod
from pathlib import Path

import numpy as np

from hf_distill.signals import Signal
from hf_distill.teachers.cache.layout import TOKENS, Layout
from hf_distill.teachers.cache.manifest import Manifest, described

_OPEN_FILES = 256  # memory maps; each holds a file descriptor


class Cache:
    """A finished cache, for reading.

    Args:
        folder: where it is.
        manifest: of that folder.

    Raises:
        ValueError: a file is missing or has another size than the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.layouts: dict[Signal, Layout] = {layout.signal: layout for layout in manifest.layouts}
        for name, facts in manifest.files.items():
            file = folder / name
            if not file.is_file() or file.stat().st_size != facts["bytes"]:
                found = f"{file.stat().st_size:,} bytes" if file.is_file() else "missing"
                raise ValueError(
                    f"the cache is damaged: {file} is {found}, and was {facts['bytes']:,} bytes. Remove {folder}, and "
                    "cache anew."
                )
        index = folder / manifest.index
        self._high, self._low, self._where = (
            np.load(index / f"{name}.npy", mmap_mode="r") for name in ("high", "low", "where")
        )
        self._opened = lru_cache(maxsize=_OPEN_FILES)(self._open)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where examples lie: (keys, 5): shard; examples, tokens, pairs before it; its tokens. -1 if nowhere."""
        found = np.full((len(keys), 5), -1, np.int64)
        for row, (high, low) in enumerate(keys):
            place = int(np.searchsorted(self._high, high))
            while place < len(self._high) and self._high[place] == high:
                if self._low[place] == low:
                    found[row] = self._where[place]
                    break
                place += 1
        return found

    def read(self, signal: Signal, where: np.ndarray, starts: np.ndarray, tokens: int) -> np.ndarray:
        """A signal of some examples, as one padded batch.

        Args:
            signal: one of `layouts`.
            where: from `find`.
            starts: the position of the first attended token of each.
            tokens: positions of the padded batch.

        Returns:
            (examples, *shape), float32, 0 in padding.
        """
        layout = self.layouts[signal]
        batch = np.zeros((len(where), *layout.shape_of(tokens)), np.float32)
        for row, (shard, example, tokens_before, pairs_before, length) in enumerate(where.tolist()):
            shape = layout.shape_of(length)
            first = layout.start(example, tokens_before, pairs_before)
            numbers = self._opened(shard, signal)[first : first + prod(shape)]
            start = int(starts[row]) if TOKENS in layout.shape else 0
            layout.cut(batch[row], start, start + length)[...] = numbers.reshape(shape)
        return batch

    def verify(self) -> int:
        """Reads every file and compares its hash.

        Returns:
            How many bytes were read.

        Raises:
            ValueError: the first file that differs.
        """
        for name, facts in self.manifest.files.items():
            if described(self.folder / name) != facts:
                raise ValueError(
                    f"the cache is damaged: {self.folder / name} is not what was written. Remove {self.folder}, and "
                    "cache anew."
                )
        return sum(facts["bytes"] for facts in self.manifest.files.values())

    def bytes_of(self, signal: Signal) -> int:
        """How many bytes a signal takes in all."""
        ending = f"/{file_of(signal)}"
        return sum(facts["bytes"] for name, facts in self.manifest.files.items() if name.endswith(ending))

    def _open(self, shard: int, signal: Signal) -> np.ndarray:
        file = self.folder / "shards" / self.manifest.shards[shard] / file_of(signal)
        dtype = self.layouts[signal].dtype
        return np.memmap(file, dtype, mode="r") if file.stat().st_size else np.empty(0, dtype)


def file_of(signal: Signal) -> str:
    """The name of a signal's file in a shard."""
    return "".join(sign if sign.isalnum() else "_" for sign in str(signal)).strip("_") + ".bin"
