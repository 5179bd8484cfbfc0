"""`hf-distill cache`: what it prints, what it leaves, and its errors in one line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from caches import files
from commands import invoke, one_line
from workspace import make

CACHE = ("cache", "recipe.yaml", "--set", "teacher.cache=answers")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def said(*more: str) -> str:
    done = invoke(*CACHE, *more)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_builds_shows_and_verifies(folder):
    printed = said()
    progress, table = printed.split("\n", 1)
    (count,) = set(re.fullmatch(r"the teacher answers: (\d+) of (\d+) in [\d.]+ s", progress).groups())
    assert f"answers: {count} examples, BertForSequenceClassification" in table
    assert re.search(r"^ hidden\(2\) +tokens x 32 +float32 +[\d,]+ +0\.\d+", table, re.MULTILINE)
    before = files(Path("answers"))
    assert said("--show") == said() == table
    size = sum(len(content) for name, content in before.items() if name.endswith((".bin", ".npy")))
    assert said("--verify") == f"answers: every file is as it was written ({size:,} bytes)\n"
    assert files(Path("answers")) == before
    assert not Path("out").exists()


def test_of_several_processes_the_first_one_prints(folder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert "bytes an example" not in said()


def test_errors_are_one_line(folder):
    one_line(invoke("cache", "recipe.yaml"), "error: the recipe names no folder for the answers. Add --set teacher.")
    for flag in ("--show", "--verify"):
        one_line(invoke(*CACHE, flag), "error: answers is missing.")
    one_line(invoke(*CACHE, "--set", "teacher.cache_dtype=int8"), "teacher.cache_dtype")
    one_line(invoke(*CACHE, "--set", "losses=[{name: Sobolev}]"), "error: input_gradient(0, 1) is along another dir")
    assert not Path("answers").exists()
    said()
    one_line(invoke(*CACHE, "--set", "teacher.dtype=bfloat16"), "another teacher: dtype is float32 there and bfloat16")
    one_line(invoke(*CACHE, "--set", "teacher.cache_dtype=float16"), "error: answers holds float32, not float16.")
    (file,) = Path("answers").rglob("logits.bin")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    assert "bytes an example" in said("--show")
    one_line(invoke(*CACHE, "--verify"), "error: the cache is damaged: ", "logits.bin is not what was written")
    file.write_bytes(content[:-1])
    one_line(invoke(*CACHE, "--show"), "error: the cache is damaged: ", "logits.bin is ", "cache anew.")


def test_a_teacher_that_gives_nan_is_one_line_and_nothing_is_finished(folder):
    weights = load_file("teacher/model.safetensors")
    weights["classifier.weight"][0] = torch.nan
    save_file(weights, "teacher/model.safetensors", metadata={"format": "pt"})
    one_line(invoke(*CACHE), "error: the teacher's logits is not finite.")
    one_line(invoke(*CACHE, "--show"), "error: answers is not finished: the same command without --show or --verify")
