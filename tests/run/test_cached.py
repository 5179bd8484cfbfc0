"""The cache that a recipe names: it is built once, used by every run, and changes no figure."""

import gc
import json
import re
import shutil
import sys
import weakref
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from hf_distill import evaluation, recipe, report, run, teachers
from hf_distill.run import cached
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers.cache import fill as filling

sys.path.insert(0, str(Path(__file__).parents[1]))
from caches import files
from runs import same, weights
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
    answered, printed, found = train(CACHE)  # asks a teacher that is loaded
    assert [row.name for row in found] == ["teacher", "distilled student"]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, abs=1e-6)
        assert mine.agreement == theirs.agreement
    for name, weight in weights(live.trainer.model).items():
        assert (weights(answered.trainer.model)[name] - weight).abs().max() < 1e-4  # Adam makes steps of rounding
    assert re.search(r"the teacher answers: 4\d of 4\d in \d", printed)
    before = files(Path("answers"))
    _, printed, again = train(CACHE)
    assert "the teacher answers" not in printed
    assert timeless(again) == timeless(found)
    assert files(Path("answers")) == before


def test_a_scheme_goes_on_with_the_answers_that_are_there(folder):
    arranged = ["scheme={name: born_again, generations: 2}", "losses=null"]
    train(CACHE, *arranged)  # asks a teacher that is loaded
    shutil.rmtree("out/generation_2")
    loaded = recipe.load("recipe.yaml", [*QUICK[1:], CACHE, *arranged])
    said = console()
    run.train(loaded, said, resume=True)  # asks none
    assert "generation_1: finished before" in said.file.getvalue()


# --- a teacher whose answers are all there is not loaded


def timeless(facts):
    return [(row.name, row.parameters, row.megabytes, row.metrics, row.agreement) for row in facts]


def nobody_may_ask(monkeypatch):
    monkeypatch.setattr(teachers.ModelTeacher, "observe", lambda *_: pytest.fail("the teacher ran"))
    real = evaluation.predict
    monkeypatch.setattr(
        evaluation,
        "predict",
        lambda model, *given, **more: (
            real(model, *given, **more)
            if type(model).__name__.startswith("Distil")
            else pytest.fail("the teacher ran")
        ),
    )


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_student_with_weights_of_its_own_learns_where_the_teacher_s_are_gone(folder, monkeypatch, dtype):
    """A teacher of which only the config is left gives the same student and the same figures."""
    ready = run.prepare(recipe.load("recipe.yaml"))
    ready.student.save_pretrained("start")
    ready.tokenizer.save_pretrained("start")
    own = [CACHE, "student={model: start}", f"teacher.dtype={dtype}"]
    with_teacher, printed, expected = train(*own)
    assert expected[0].milliseconds is not None
    (worth,) = re.findall(r"teacher: validation: .*", printed)
    before = files(Path("answers"))
    Path("teacher/model.safetensors").unlink()
    nobody_may_ask(monkeypatch)
    without, printed, found = train(*own)
    assert timeless(found) == timeless(expected)
    assert [row.milliseconds for row in found] == [None, expected[1].milliseconds]
    assert worth in printed
    assert same(weights(without.trainer.model), weights(with_teacher.trainer.model))
    assert files(Path("answers")) == before
    assert len(build(*own[1:])[0].manifest.shards) == 1


def test_of_a_teacher_that_is_gone_with_its_config_the_config_is_asked_for(folder):
    ready = run.prepare(recipe.load("recipe.yaml"))
    ready.student.save_pretrained("start")
    ready.tokenizer.save_pretrained("start")
    own = [CACHE, "student={model: start}"]
    build(own[1])
    shutil.move("teacher", "away")
    with pytest.raises(ValueError, match=r"'(.*/)?teacher' is not on this machine\. answers holds .* config\.json"):
        run.prepare(recipe.load("recipe.yaml", own))
    Path("teacher").mkdir()
    shutil.copy("away/config.json", "teacher")
    assert cached.has_no_weights(run.prepare(recipe.load("recipe.yaml", own)).teacher)


def test_a_student_that_is_copied_from_the_teacher_needs_its_weights_once_and_nobody_runs_it(folder, monkeypatch):
    build()
    nobody_may_ask(monkeypatch)
    loaded, real = [], teachers.load

    def load(*given):
        model = real(*given)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(teachers, "load", load)
    result, _, _ = train(CACHE)
    gc.collect()
    assert [each() for each in loaded] == [None], "loaded once, and freed"
    assert all(parameter.is_meta for parameter in result.trainer.teacher.model.parameters())


def test_rows_that_are_not_there_load_the_teacher_after_all(folder):
    build()
    with Path("data/train.tsv").open("a") as file:
        file.write("thanks love app app\tpraise\n")
    result, printed, found = train(CACHE)
    assert re.search(r"the teacher answers: 1 of 1 in", printed)
    assert not any(parameter.is_meta for parameter in result.trainer.teacher.model.parameters())
    assert found[0].milliseconds is not None


def other_weights(model):
    with torch.no_grad():
        model.classifier.bias[0] += 1
    return model


def other_config(model):
    model.config.layer_norm_eps = 1e-3
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [(other_weights, "weights is "), (other_config, "config.layer_norm_eps is 1e-12 there and 0.0")],
)
def test_another_teacher_in_the_same_folder_is_seen_although_none_is_loaded(folder, change, said):
    build()
    change(teachers.load("teacher")).save_pretrained("teacher")
    with pytest.raises(ValueError, match=f"answers holds the answers of another teacher: {said}"):
        train(CACHE)
    if change is other_config:
        Path("teacher/model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"teacher\.model 'teacher': .*model\.safetensors"):
            train(CACHE)


def test_the_answers_of_a_quantized_teacher_are_not_taken_for_its_own(folder):
    pytest.importorskip("torchao")
    build("teacher.quantize=int8")
    with pytest.raises(ValueError, match="answers holds the answers of another teacher: weights is "):
        train(CACHE)
    _, printed, found = train(CACHE, "teacher.quantize=int8")
    assert "the teacher answers" not in printed
    assert found[0].milliseconds is not None, "its weights are loaded, and compared"


def test_the_task_is_the_recipe_s_or_the_teacher_s_own_and_never_that_of_the_cache(folder):
    """The teacher's config names no problem; with the line in the recipe it solves several labels an example."""
    config = Path("teacher/config.json")
    fields = json.loads(config.read_text())
    config.write_text(json.dumps({name: value for name, value in fields.items() if name != "problem_type"}))
    build()
    assert run.prepare(recipe.load("recipe.yaml", [CACHE])).task is Task.MULTI_LABEL
    Path("recipe.yaml").write_text(Path("recipe.yaml").read_text().replace("task: multi_label\n", ""))
    said = []
    for changes in ([], [CACHE]):
        with pytest.raises(ValueError, match="unknown label") as refused:
            run.prepare(recipe.load("recipe.yaml", changes))
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_a_cache_that_python_has_filled_is_compared_by_its_weights(folder):
    """Nobody knows there which files the model came from, or whether it was changed since."""
    build()
    Path("answers/source.json").unlink()
    result, _, _ = train(CACHE)
    assert not any(parameter.is_meta for parameter in result.trainer.teacher.model.parameters())
    assert Path("answers/source.json").exists()


def test_it_holds_what_the_losses_ask_for_of_every_row(folder):
    cache, printed = build()
    assert set(cache.layouts) == {LOGITS, hidden(0), hidden(2)}
    ready = run.prepare(recipe.load("recipe.yaml"))
    rows = [each for split in ("train", "validation", "test") for each in ready.dataset[split]["input_ids"]]
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
    said = r'answers holds float16, not float32\. Pass dtype="float16" \(in a recipe cache_dtype: float16\), or cache '
    with pytest.raises(ValueError, match=said):
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
    ready = run.prepare(recipe.load("recipe.yaml"))
    cached.fill(ready, ready.trainer(), said)
    assert said.file.getvalue() == ""


def test_a_folder_that_is_missing_and_one_that_is_not_finished_say_so(folder, monkeypatch):
    with pytest.raises(ValueError, match=r"\Aanswers is missing\.\Z"):
        cached.opened(Path("answers"))
    monkeypatch.setattr(filling, "SHARD", 8)
    real = filling.write_shard

    def stopped(folder, name, *given):
        if name.endswith("2"):
            raise KeyboardInterrupt
        real(folder, name, *given)

    monkeypatch.setattr(filling, "write_shard", stopped)
    with pytest.raises(KeyboardInterrupt):
        build()
    monkeypatch.setattr(filling, "write_shard", real)
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


def test_of_relations_the_table_says_how_many_pairs(folder):
    cache, _ = build("losses.2.name=MiniLMv2")
    shown = console()
    shown.print(cached.table(cache))
    found = re.search(r"query\(\d\)  +(\d x pairs of tokens)  +float32  +(\d+)", shown.file.getvalue())
    assert found[1] == "4 x pairs of tokens"
    pairs = sum(length * (length + 1) // 2 for length in cache._where[:, 5].tolist())
    assert abs(float(found[2]) - 4 * 4 * pairs / cache.manifest.examples) <= 0.5
