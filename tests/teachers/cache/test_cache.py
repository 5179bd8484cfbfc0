"""A finished cache: examples are found and read, in pieces that are never loaded whole, and damage is seen."""

import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from caches import filled, padded, ragged
from runs import classifier, exactly

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, attention, hidden
from hf_distill.tasks import Task
from hf_distill.teachers.cache import Cache, file_of
from hf_distill.teachers.cache import fill as filling
from hf_distill.teachers.cache.keys import keys_of
from hf_distill.teachers.cache.layout import TOKENS, Layout
from hf_distill.teachers.cache.manifest import Manifest
from hf_distill.teachers.cache.shards import finish, write_shard

WANTED = (LOGITS, hidden(0), attention(1))
NAMES = ["attention_mask", "input_ids"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Twelve rows in three shards."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(filling, "SHARD", 4)
        return filled(tmp_path_factory.mktemp("cache"), signals=WANTED).folder


@pytest.fixture
def cache(built):
    return Cache(built, Manifest.read(built))


@pytest.fixture
def copied(built, tmp_path):
    return shutil.copytree(built, tmp_path / "copied")


def looked_up(cache, batch):
    keys, spans = keys_of(batch, NAMES, Batch(batch, Task.SINGLE_LABEL).tokens)
    return cache.find(keys), spans


def test_every_example_is_found_in_its_shard_and_no_other_is(cache):
    where, spans = looked_up(cache, padded(list(ragged())))
    assert (where[:, 5] == spans[:, 1]).all()
    assert not where[:, 6].any(), "no logits beside tokens"
    assert sorted(where[:, 0]) == [0] * 4 + [1] * 4 + [2] * 4
    assert sorted(map(tuple, where[:, :2].tolist())) == [(shard, row) for shard in range(3) for row in range(4)]
    assert (looked_up(cache, padded(list(ragged(5, seed=1))))[0] == -1).all()


def test_two_examples_with_half_a_key_in_common_are_told_apart(cache):
    cache._high, cache._low = np.array([3, 7, 7, 7, 9], np.uint64), np.array([1, 5, 2, 8, 8], np.uint64)
    cache._where = np.arange(5)[:, None].repeat(7, 1)
    wanted = np.array([[7, 2], [7, 8], [7, 9], [8, 8], [9, 8], [10, 1], [0, 0]], np.uint64)
    assert cache.find(wanted)[:, 0].tolist() == [2, 3, -1, -1, 4, -1, -1]


@pytest.mark.parametrize("left", [False, True])
def test_a_batch_is_read_in_its_own_order_and_padding_is_zero(cache, left):
    rows = [list(ragged())[place] for place in (7, 0, 7, 11, 3)]
    batch, model = padded(rows, left, more=2), classifier(seed=1)
    where, spans = looked_up(cache, batch)
    model.set_attn_implementation("eager")
    alone = [model(**padded([row]), output_hidden_states=True, output_attentions=True) for row in rows]
    states = torch.from_numpy(cache.read(hidden(0), where, spans[:, 0], batch["input_ids"].shape[1]))
    maps = torch.from_numpy(cache.read(attention(1), where, spans[:, 0], batch["input_ids"].shape[1]))
    logits = torch.from_numpy(cache.read(LOGITS, where, spans[:, 0], 0))
    for row, (expected, (start, end)) in enumerate(zip(alone, spans, strict=True)):
        torch.testing.assert_close(logits[row], expected.logits[0])
        torch.testing.assert_close(states[row, start:end], expected.hidden_states[1][0])
        torch.testing.assert_close(maps[row, :, start:end, start:end], expected.attentions[1][0])
        states[row, start:end] = maps[row, :, start:end, start:end] = 0
    assert not states.any()
    assert not maps.any()


def test_nothing_that_is_read_can_be_written_and_the_index_is_mapped(cache):
    where, spans = looked_up(cache, padded(list(ragged())))
    for part in (cache._high, cache._low, cache._where):
        assert isinstance(part, np.memmap)
    assert cache.read(LOGITS, where, spans[:, 0], 0).dtype == np.float32
    assert len(cache._opened[LOGITS]) == 3
    assert not any(each.flags.writeable for each in cache._opened[LOGITS].values())


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="file descriptors are counted in /proc")
def test_reading_keeps_no_file_open_however_many_shards_there_are(cache):
    where, spans = looked_up(cache, padded(list(ragged())))
    before = len(os.listdir("/proc/self/fd"))
    for signal in WANTED * 2:
        cache.read(signal, where, spans[:, 0], 9)
    assert len(os.listdir("/proc/self/fd")) == before
    assert [len(each) for each in cache._opened.values()] == [3, 3, 3]


FLAT = """
import sys
from pathlib import Path
import numpy as np
from hf_distill.signals import hidden
from hf_distill.teachers.cache import Cache
from hf_distill.teachers.cache.manifest import Manifest

def megabytes(kind):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(kind)]
    return int(line.split()[1]) / 1000

folder = Path(sys.argv[1])
cache = Cache(folder, Manifest.read(folder))
everything = cache._where[:]
cache.read(hidden(0), everything[:1], np.zeros(1, int), 1)
before = megabytes("RssAnon"), megabytes("RssFile")
for first in range(len(everything)):
    cache.read(hidden(0), everything[first : first + 1], np.zeros(1, int), 1)
print(megabytes("RssAnon") - before[0], megabytes("RssFile") - before[1])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read in /proc")
def test_reading_everything_takes_no_memory_of_its_own(tmp_path):
    layout, numbers = Layout(hidden(0), (TOKENS, 1_000_000), "float32"), np.ones(1_000_000, np.float32)
    keys = np.arange(40, dtype=np.uint64).reshape(2, 10, 2)
    for name, own in zip(("00000000-00000", "00000000-00001"), keys, strict=True):
        write_shard(tmp_path, name, own, np.array([[1, 0]] * 10), ((layout, numbers) for _ in range(10)), {})
    finish(tmp_path, ["00000000-00000", "00000000-00001"], NAMES, {})
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", FLAT, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )
    anonymous, mapped = map(float, done.stdout.split())
    assert mapped > 60, "80 MB went by"
    assert anonymous < 10


@pytest.mark.parametrize("shard", [1, 4], ids=["in a shard of its own", "beside others"])
def test_an_example_without_a_token_is_an_empty_row(tmp_path, monkeypatch, shard):
    monkeypatch.setattr(filling, "SHARD", shard)
    data = ragged(3).add_item({"input_ids": [], "labels": 0})
    cache = filled(tmp_path, data, signals=(hidden(0),), batch_size=4, collate=partial(padded, more=1))
    where, spans = looked_up(cache, padded(list(data)))
    assert where[3, 5] == 0
    states = cache.read(hidden(0), where, spans[:, 0], 9)
    assert not states[3].any()
    assert states[:3].any((1, 2)).all()


# --- damage


def damages(folder, name: str):
    file = folder / name
    return {"cut": lambda: os.truncate(file, file.stat().st_size - 1), "gone": file.unlink}


@pytest.mark.parametrize("what", ["cut", "gone"])
@pytest.mark.parametrize("name", ["hidden_0.bin", "keys.npy", "lengths.npy", "high.npy", "where.npy"])
def test_a_file_that_is_cut_or_gone_is_found_on_opening(copied, what, name):
    (file, *_) = sorted(copied.rglob(name))
    before = file.stat().st_size
    damages(file.parent, name)[what]()
    found = "missing" if what == "gone" else f"{before - 1:,} bytes"
    message = f"the cache is damaged: {file} is {found}, and was {before:,} bytes. Remove {copied}, and cache anew."
    with pytest.raises(ValueError, match=exactly(message)):
        Cache(copied, Manifest.read(copied))


def test_verify_reads_everything_and_finds_one_bit(copied, built):
    cache = Cache(copied, Manifest.read(copied))
    files = [file for file in built.rglob("*") if file.suffix in (".npy", ".bin")]
    assert cache.verify() == sum(file.stat().st_size for file in files)
    for file in (sorted(copied.rglob("attention_1.bin"))[1], *copied.rglob("low.npy")):
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        message = f"the cache is damaged: {file} is not what was written. Remove {copied}, and cache anew."
        with pytest.raises(ValueError, match=exactly(message)):
            Cache(copied, Manifest.read(copied)).verify()
        file.write_bytes(content)
    assert cache.verify()


def test_bytes_are_counted_signal_by_signal(cache):
    lengths = [len(row["input_ids"]) for row in ragged()]
    assert cache.bytes_of(LOGITS) == 12 * 3 * 4
    assert cache.bytes_of(hidden(0)) == sum(lengths) * 32 * 4
    assert cache.bytes_of(attention(1)) == sum(length**2 for length in lengths) * 4 * 4
    assert cache.bytes_of(hidden(1)) == 0
    assert (file_of(LOGITS), file_of(hidden("embeddings"))) == ("logits.bin", "hidden_embeddings.bin")
