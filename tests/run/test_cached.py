"""The cache that a recipe names: it is built once, used by every run, and changes no figure."""

import re
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hf_distill import recipe, report, run
from hf_distill.run import cached
from hf_distill.signals import LOGITS, hidden
from hf_distill.teachers.cache import fill as filling

sys.path.insert(0, str(Path(__file__).parents[1]))
from caches import files
from runs import weights
from workspace import QUICK, make

CACHE = "teacher.cache=answers"


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    time = report.Latency(1.0, 0.1, 8, 1, "cpu", 5)
    monkeypatch.setattr(report, "latencies", lambda models, inputs: dict.fromkeys(models, time))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    return tmp_path


def console() -> Console:
    return Console(file=StringIO(), width=80)


def build(*changes: str):
    said = console()
    return cached.build(recipe.load("recipe.yaml", [CACHE, *changes]), said), said.file.getvalue()


def train(*changes: str):
    said = console()
    result = run.train(recipe.load("recipe.yaml", [*QUICK[1:], *changes]), said)
    assert result.facts == report.load("out/results.json")
    return result, said.file.getvalue(), result.facts


def test_a_run_from_a_cache_gives_the_figures_of_a_run_without(folder):
    live, _, expected = train()
    answered, printed, found = train(CACHE)
    assert [row.name for row in found] == ["teacher", "distilled student"]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, abs=1e-6)
        assert mine.agreement == theirs.agreement
    for name, weight in weights(live.trainer.model).items():
        assert (weights(answered.trainer.model)[name] - weight).abs().max() < 1e-4  # Adam makes steps of rounding
    assert re.search(r"the teacher answers: 3\d of 3\d in \d", printed)
    before = files(Path("answers"))
    _, printed, again = train(CACHE)
    assert "the teacher answers" not in printed
    assert again == found
    assert files(Path("answers")) == before


def test_it_holds_what_the_losses_ask_for_of_the_rows_that_the_trainer_reads(folder):
    cache, printed = build()
    assert set(cache.layouts) == {LOGITS, hidden(0), hidden(2)}
    ready = run.prepare(recipe.load("recipe.yaml"))
    rows = [*ready.dataset["train"]["input_ids"], *ready.dataset["validation"]["input_ids"]]
    assert cache.manifest.examples == len(set(map(tuple, rows)))
    assert "the teacher answers: " in printed


def test_building_makes_neither_a_student_nor_a_repository(folder, monkeypatch):
    monkeypatch.setattr(run.hub, "make_repository", lambda *_, **__: pytest.fail("on the Hub"))
    before = set(folder.rglob("*"))
    build("train.push_to_hub=true")
    assert {path.relative_to(folder).parts[0] for path in set(folder.rglob("*")) - before} == {"answers"}


def test_what_is_there_is_not_asked_again(folder, monkeypatch):
    build()
    monkeypatch.setattr(filling.Filler, "_answers", lambda *_: pytest.fail("asked again"))
    _, printed = build()
    assert printed == ""


def test_float16_is_asked_for_in_the_recipe_and_another_dtype_refused_later(folder):
    cache, _ = build("teacher.cache_dtype=float16")
    assert {layout.dtype for layout in cache.layouts.values()} == {"float16"}
    with pytest.raises(ValueError, match=r"answers holds float16, not float32\. Cache anew, in another folder\."):
        build()


def test_validate_refuses_the_answers_of_another_teacher_and_builds_nothing(folder):
    run.check(recipe.load("recipe.yaml", [CACHE]))
    assert not Path("answers").exists()
    build()
    run.check(recipe.load("recipe.yaml", [CACHE]))
    with pytest.raises(ValueError, match=r"answers holds the answers of another teacher: dtype is float32 there"):
        run.check(recipe.load("recipe.yaml", [CACHE, "teacher.dtype=bfloat16"]))
    with pytest.raises(ValueError, match=r"answers holds .* and the losses ask for hidden\(1\) too"):
        run.check(recipe.load("recipe.yaml", [CACHE, "losses.2.layers={0: 1}"]))


def test_a_recipe_without_a_cache_has_no_folder_and_fills_nothing(folder):
    with pytest.raises(ValueError, match=r"the recipe names no folder for the answers\. Add --set teacher\.cache="):
        cached.build(recipe.load("recipe.yaml"), console())
    said = console()
    cached.fill(run.prepare(recipe.load("recipe.yaml")).trainer(), said)
    assert said.file.getvalue() == ""


def test_a_folder_that_is_missing_and_one_that_is_not_finished_say_so(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"\Aanswers is missing\.\Z"):
        cached.opened(Path("answers"))
    monkeypatch.setattr(filling, "SHARD", 8)
    real = filling.Filler._write

    def stopped(self, name, *given):
        if name.endswith("2"):
            raise KeyboardInterrupt
        real(self, name, *given)

    monkeypatch.setattr(filling.Filler, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(filling.Filler, "_write", real)
    with pytest.raises(ValueError, match=r"answers is not finished: the same command without --show or --verify goes"):
        cached.opened(Path("answers"))
    cache, printed = build()
    assert re.match(rf"the teacher answers: 24 of {cache.manifest.examples}, about .* left\n", printed)


def test_the_table_says_what_is_there_and_what_it_takes(folder):
    cache, _ = build("losses.2.name=AttentionKL")
    shown = console()
    shown.print(cached.table(cache))
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.file.getvalue().splitlines()]
    count = cache.manifest.examples
    assert lines[0] == [f"answers: {count} examples, BertForSequenceClassification"]
    assert lines[1] == ["signal", "shape of an example", "numbers", "bytes an example", "MB"]
    shapes = {line[0]: line[1:4] for line in lines[2:5]}
    assert shapes["logits"] == ["5", "float32", "20"]
    assert shapes["attention(2)"][:2] == ["4 x tokens x tokens", "float32"]
    assert lines[5][0].endswith("MB in all, with keys and index")
