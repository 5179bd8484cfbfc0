"""A teacher's answers on disk, found by the content of the example, read from memory-mapped files.

    cache/
      manifest.json            written last: whose answers, which signals, size and hash of every file
      index-43410/             high.npy low.npy where.npy: keys in ascending order, and where the example lies
      shards/1f0c9a2e-00000/   keys.npy lengths.npy, one file of plain numbers a signal, shard.json

An example is looked up by a hash of exactly what the teacher reads of it (`keys`), so that shuffling, padding, epochs,
accumulation, workers, processes and resuming cannot mix anything up, and no column of indices is carried around.
"""

from math import prod
from pathlib import Path

import numpy as np
import torch

from hf_distill.signals import LOGITS, Signal
from hf_distill.teachers.cache.layout import CLASSES, COUNTED, PAIRS, TOKENS, Layout, top_k_of
from hf_distill.teachers.cache.manifest import Manifest, described

_TORCH = {"float32": torch.float32, "float16": torch.float16, "uint16": torch.uint16, "int32": torch.int32}


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
        self._opened: dict[Signal, dict[int, np.ndarray]] = {signal: {} for signal in self.layouts}

    @property
    def counted(self) -> bool:
        """Whether of the logits of tokens only those that count are here; `keys_of` must then be told which do."""
        return LOGITS in self.layouts and COUNTED in self.layouts[LOGITS].shape

    @property
    def top_k(self) -> int | None:
        """How many logits of each position are here; None: all, or none."""
        return top_k_of(self.manifest.layouts)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Where examples lie.

        Args:
            keys: from `keys_of`.

        Returns:
            (keys, 7): the shard; the four of `Layout.start`; tokens of its own, and those that count. -1 if nowhere.
        """
        found = np.full((len(keys), 7), -1, np.int64)
        last = len(self._high) - 1
        places = np.searchsorted(self._high, keys[:, 0])
        while True:
            at = np.minimum(places, last)
            same = (places <= last) & (self._high[at] == keys[:, 0])
            right = same & (self._low[at] == keys[:, 1])
            found[right] = self._where[at[right]]
            if not (same & ~right).any():
                return found
            places = places + same  # half a key in common: the other half may be in the next place

    def read(
        self,
        signal: Signal,
        where: np.ndarray,
        starts: np.ndarray,
        tokens: int,
        counted: np.ndarray | None = None,
    ) -> np.ndarray:
        """A signal of some examples, as one padded batch.

        Args:
            signal: one of `layouts`.
            where: from `find`.
            starts: the position of the first attended token of each.
            tokens: positions of the padded batch.
            counted: which of them count, bool (examples, tokens), as in the keys; None where all is stored.

        Returns:
            (examples, *shape), float32, of classes int64; 0 in padding and in what does not count.
        """
        layout = self.layouts[signal]
        number = np.int64 if signal == CLASSES else np.float32
        batch = np.zeros((len(where), *layout.shape_of(tokens, tokens)), number)
        opened = self._opened[signal]
        firsts = layout.start(where[:, 1:5].T)
        rows = zip(where[:, 0].tolist(), firsts.tolist(), *where[:, 5:].T.tolist(), strict=True)
        for row, (shard, first, length, count) in enumerate(rows):
            shape = layout.shape_of(length, count)
            if shard not in opened:
                opened[shard] = self._open(shard, signal)
            numbers = opened[shard][first : first + prod(shape)]
            start = int(starts[row]) if {TOKENS, PAIRS} & {*layout.shape} else 0
            place = layout.inside(start, start + length, None if counted is None else counted[row])
            batch[row][place] = numbers.reshape(shape)
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
        """A file as an array in the file's own pages; torch's map, unlike numpy's, keeps no file descriptor."""
        file = self.folder / "shards" / self.manifest.shards[shard] / file_of(signal)
        dtype = self.layouts[signal].dtype
        size = file.stat().st_size // np.dtype(dtype).itemsize
        found: np.ndarray = np.empty(0, dtype)
        if size:
            found = torch.from_file(str(file), shared=False, size=size, dtype=_TORCH[dtype]).numpy()
        found.flags.writeable = False
        return found


def file_of(signal: Signal) -> str:
    """The name of a signal's file in a shard."""
    return "".join(sign if sign.isalnum() else "_" for sign in str(signal)).strip("_") + ".bin"
