"""What workers leave behind is swept up, and only that, and only where nobody is at work."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from caches import files, filled, filler, ragged
from runs import classifier, exactly

from hf_distill.signals import LOGITS, hidden
from hf_distill.teachers.cache import Cache, fill, shards
from hf_distill.teachers.cache.layout import TOKENS, Layout
from hf_distill.teachers.cache.manifest import Manifest

FORK = multiprocessing.get_context("fork")  # a child that imports nothing
LAYOUT = Layout(hidden(0), (TOKENS, 2), "float32")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(fill, "SHARD", 4)


def keys(*numbers: int) -> np.ndarray:
    return np.array([[number, number + 1] for number in numbers], np.uint64)


def written(folder, name, numbers, layout=LAYOUT):
    parts = [(layout, np.full((number, 2), number, np.float32)) for number in numbers]
    lengths = np.array([[number, 0] for number in numbers])
    shards.write_shard(folder, name, keys(*numbers), lengths, parts, {"who": "me"})


def interrupted(folder, data, after: int):
    """A build that leaves so many whole shards, and one half written."""
    model, asked = classifier(seed=1), []

    def stop(*_):
        asked.append(1)
        if len(asked) > 2 * after:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        filler(folder, model).fill([data])


def names(folder) -> set[str]:
    return {path.name for path in (folder / "shards").iterdir()}


def test_shards_are_found_again_through_one_index(tmp_path):
    written(tmp_path, "00000000-00000", [3, 1])
    written(tmp_path, "00000000-00001", [2])
    manifest = shards.finish(tmp_path, ["00000000-00000", "00000000-00001"], ["input_ids"], {"who": "me"})
    cache = Cache(tmp_path, manifest)
    assert cache.verify()
    where = cache.find(keys(2, 9, 1, 3))
    assert where[:, 0].tolist() == [1, -1, 0, 0]
    read = cache.read(hidden(0), where[[0, 2, 3]], np.array([0, 1, 0]), 3)
    assert read[..., 0].tolist() == [[2, 2, 0], [0, 1, 0], [3, 3, 3]]
    assert shards.finish(tmp_path, ["00000000-00001"], ["input_ids"], {}) == manifest, (
        "who comes later changes nothing"
    )


def test_a_signal_of_another_shape_in_another_shard_is_refused(tmp_path):
    written(tmp_path, "00000000-00000", [3])
    written(tmp_path, "00000000-00001", [2], Layout(hidden(0), (TOKENS, 1, 2), "float32"))
    message = (
        "hidden(0) has shape (-1, 2) in one batch and (-1, 1, 2) in another, and can be cached in one shape only. "
    )
    with pytest.raises(ValueError, match=exactly(message + "Pass the model itself as the teacher.")):
        shards.finish(tmp_path, ["00000000-00000", "00000000-00001"], ["input_ids"], {})
    assert Manifest.read(tmp_path) is None


# --- swept up


def test_shards_of_a_plan_that_was_given_up_are_swept_up_by_who_finishes_another(tmp_path):
    interrupted(tmp_path / "it", ragged(9, seed=1), after=1)
    left = names(tmp_path / "it")
    assert len(left) == 4, "a shard, half of another, and two locks"
    theirs = tmp_path / "it" / "shards" / "notes"
    theirs.mkdir()
    (theirs / "0123abcd-00000").write_text("of the user")
    cache = filled(tmp_path / "it")
    assert names(tmp_path / "it") == {*cache.manifest.shards, "notes"}
    assert cache.verify()
    assert (theirs / "0123abcd-00000").exists()
    (theirs / "0123abcd-00000").unlink()
    filled(tmp_path / "alone")
    assert files(tmp_path / "it") == files(tmp_path / "alone")


def test_what_was_interrupted_is_not_swept_up_by_who_finds_nothing_missing(tmp_path):
    finished = filled(tmp_path).manifest.shards
    interrupted(tmp_path, ragged(9, seed=1), after=1)
    left = names(tmp_path)
    assert len(left - set(finished)) == 4
    filled(tmp_path)
    assert names(tmp_path) == left
    assert filled(tmp_path, ragged(9, seed=1)).verify()


def waits(folder, begun, on):
    """A worker in the middle of another plan, in a process of its own."""

    def work():
        torch.set_num_threads(1)
        model, asked = classifier(seed=1), []

        def wait(*_):
            asked.append(1)
            if len(asked) == 3:  # one shard is whole
                begun.set()
                on.wait(60)

        model.register_forward_pre_hook(wait)
        filler(folder, model).fill([ragged(9, seed=1)])

    worker = FORK.Process(target=work)
    worker.start()
    assert begun.wait(60)
    return worker


@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_swept_up_while_another_worker_is_at_another_plan(tmp_path, killed):
    begun, on = FORK.Event(), FORK.Event()
    worker = waits(tmp_path, begun, on)
    (theirs,) = [name for name in names(tmp_path) if not name.startswith(".")]
    if killed:
        worker.kill()
        worker.join(60)
    cache = filled(tmp_path)
    assert (theirs in names(tmp_path)) == (not killed)
    assert cache.verify()
    if not killed:
        on.set()
        worker.join(60)
        assert worker.exitcode == 0
        both = Cache(tmp_path, Manifest.read(tmp_path))
        assert both.manifest.examples == 21
        assert both.verify()
        assert names(tmp_path) == set(both.manifest.shards), "the last one swept"
    assert not list(tmp_path.glob(".worker-*"))


def test_what_two_fills_have_answered_at_once_is_one_example(tmp_path):
    written(tmp_path, "00000000-00000", [3, 1])
    written(tmp_path, "11111111-00000", [2, 3])  # of other rows, some of which are the same
    shards.finish(tmp_path, ["00000000-00000"], ["input_ids"], {"who": "me"})
    manifest = shards.finish(tmp_path, ["11111111-00000"], ["input_ids"], {"who": "me"})
    assert manifest.examples == 3
    assert manifest.index == "index-3"
    found = Cache(tmp_path, manifest).find(keys(1, 2, 3))
    assert found[:, 0].tolist() == [0, 1, 0]  # in which shard


# --- several workers, killed at any point


@pytest.mark.parametrize("seed", range(3))
def test_workers_that_are_killed_at_any_point_while_others_build_leave_what_one_alone_builds(tmp_path, seed):
    alone, chance = filled(tmp_path / "alone", ragged(24)), random.Random(seed)

    def build():
        torch.set_num_threads(1)
        model = classifier(seed=1)
        model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
        filler(tmp_path / "it", model).fill([ragged(24)])

    workers = [FORK.Process(target=build) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers[:2]:
        time.sleep(chance.uniform(0.01, 0.12))
        os.kill(worker.pid, signal.SIGKILL)
    for worker in workers:
        worker.join(60)
    assert workers[2].exitcode == 0
    assert Cache(tmp_path / "it", Manifest.read(tmp_path / "it")).verify()
    assert files(tmp_path / "it") == files(tmp_path / "alone")
    assert names(tmp_path / "it") == set(alone.manifest.shards)
    assert set(alone.layouts) == {LOGITS}
