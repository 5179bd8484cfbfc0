"""Whether a cache is that of a teacher on disk is known from the teacher's files."""

import json
import shutil

import pytest
from caches import filled
from runs import classifier

from hf_distill.teachers.cache import source
from hf_distill.teachers.cache.manifest import Manifest


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    model = classifier(seed=1)
    model.save_pretrained(folder / "teacher")
    (folder / "teacher" / "training_args.bin").write_bytes(b"not the model's")
    filled(folder / "cache", model=model)
    source.remember(folder / "cache", str(folder / "teacher"))
    return folder


@pytest.fixture
def folder(remembered, tmp_path):
    return shutil.copytree(remembered, tmp_path / "it")


def same(folder, dtype="float32", task=None, model="teacher") -> bool:
    return source.is_same(folder / "cache", str(folder / model), dtype, task)


def rewrite(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


CHANGES = {
    "nothing": (lambda folder: None, True),
    "other files": (lambda folder: (folder / "teacher" / "training_args.bin").unlink(), True),
    "weights gone": (lambda folder: (folder / "teacher" / "model.safetensors").unlink(), True),
    "weights": (lambda folder: (folder / "teacher" / "model.safetensors").write_bytes(b"other"), False),
    "more weights": (lambda folder: (folder / "teacher" / "pytorch_model.bin").write_bytes(b"other"), False),
    "config": (lambda folder: rewrite(folder / "teacher" / "config.json", layer_norm_eps=1.0), False),
    "config gone": (lambda folder: (folder / "teacher" / "config.json").unlink(), False),
    "cache": (lambda folder: shutil.rmtree(folder / "cache"), False),
    "unfinished": (lambda folder: (folder / "cache" / "manifest.json").unlink(), False),
    "never said": (lambda folder: (folder / "cache" / source.SOURCE).unlink(), False),
    "broken": (lambda folder: (folder / "cache" / source.SOURCE).write_text('{"weights"'), False),
    "said of another": (lambda folder: rewrite(folder / "cache" / source.SOURCE, weights="00"), False),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_teacher_is_the_same_if_its_config_is_and_what_there_is_of_its_weights(folder, what):
    change, expected = CHANGES[what]
    change(folder)
    assert same(folder) == expected


def test_it_must_be_loaded_and_used_in_the_same_way(folder):
    assert same(folder, task="single_label")
    assert not same(folder, task="multi_label")
    assert not same(folder, dtype="bfloat16")
    assert same(folder, dtype="auto")
    rewrite(folder / "teacher" / "config.json", dtype="bfloat16")
    (folder / "cache" / source.SOURCE).unlink()
    source.remember(folder / "cache", str(folder / "teacher"))
    assert not same(folder, dtype="auto"), "it would be loaded in bfloat16"


def test_what_is_not_on_this_machine_is_not_the_same(folder):
    assert source.files_of("nobody/nothing-like-this") == {}
    assert not same(folder, model="elsewhere")


def test_it_is_written_beside_the_manifest_once(folder, monkeypatch):
    monkeypatch.setattr(source, "write_json", lambda *_: pytest.fail("written again"))
    source.remember(folder / "cache", str(folder / "teacher"))
    assert Manifest.read(folder / "cache") is not None
