import io
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from measured import Tiny, three
from rich.console import Console
from safetensors.torch import save_model
from torch import nn

from hf_distill import report
from hf_distill.report import ModelFacts


def printed(table, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


# ---- size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_is_that_of_the_saved_file(tmp_path, dtype):
    model = Tiny(width=64).to(dtype)
    save_model(model, str(tmp_path / "model.safetensors"))
    with (tmp_path / "model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    measured = report.size(model)
    assert measured.parameters == 50 * 64 + 64 * 64 + 64  # the tied head is the embedding
    assert measured.megabytes * 1e6 == pytest.approx((tmp_path / "model.safetensors").stat().st_size - header)


def test_size_leaves_out_what_is_not_saved_with_the_model():
    model = Tiny()
    alone = report.size(model)
    model.projection = nn.Linear(8, 8)
    model._keys_to_ignore_on_save = ["projection.weight", "projection.bias"]
    assert report.size(model) == alone


# ---- facts ----------------------------------------------------------------------------------------------------------


def test_measure_puts_size_and_time_together():
    time = report.Latency(1.5, 0.1, 4, 2, "cpu", 9)
    facts = report.measure(
        "distilled student", Tiny(), time, metrics={"macro_f1": 0.5, "per_label": {}}, agreement=0.9
    )
    assert facts == ModelFacts(
        "distilled student",
        parameters=50 * 8 + 72,
        megabytes=(472 * 4 + 3 * 8) / 1e6,
        milliseconds=1.5,
        milliseconds_iqr=0.1,
        batch_size=4,
        threads=2,
        device="cpu",
        metrics={"macro_f1": 0.5},
        agreement=0.9,
    )
    assert report.measure("teacher", Tiny()).milliseconds is None


# ---- tables -------------------------------------------------------------------------------------------------------


def test_table_shows_every_fact_within_100_columns():
    text = printed(report.table(three()))
    assert max(map(len, text.splitlines())) <= 100
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    for shown in ("22.7 M", "90.9", "4.00 (0.08)", "0.6000", "0.1000"):
        assert shown in rows["teacher"]
    assert "0.9500" in rows["distilled student"]
    assert "batch of 8, 1 thread, cpu" in " ".join(text.split())
    assert "95.0% of the teacher's macro f1, 77% of its parameters, 2 times its speed." in " ".join(text.split())


def test_a_narrow_terminal_gets_one_column_a_model_and_no_word_is_broken():
    text = printed(report.table(three(), width=60), width=60)
    assert max(map(len, text.splitlines())) <= 60
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines()}
    assert rows["parameters"] == ["parameters", "22.7", "M", "17.4", "M", "17.4", "M"]
    assert rows["macro f1"] == ["macro", "f1", "0.6000", "0.5000", "0.5700"]
    assert rows["agreement"] == ["agreement", "-", "0.9000", "0.9500"]
    for word in ("teacher", "distilled", "student"):
        assert word in text.split()
    console = Console(width=60, file=io.StringIO(), color_system="standard", force_terminal=True)
    console.print(report.table(three(), width=60))
    assert [cell for cell in ("0.5700", "0.5000", "0.9500", "0.9000") if f"[1m{cell}" in console.file.getvalue()] == [
        "0.5700",
        "0.9500",
    ]


def test_a_table_shows_every_metric_however_many_and_long_the_names():
    facts = three()
    for fact in facts:
        fact.name = fact.name + " with a name that is longer than it need be"
        fact.metrics = {f"metric_number_{i}": 0.125 for i in range(12)}
    text = printed(report.table(facts))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert text.count("0.1250") == 36
    chosen = printed(report.table(facts, metrics=["metric_number_11"]))
    assert chosen.count("0.1250") == 3


def test_the_best_student_is_marked_by_the_direction_of_the_metric():
    lines = report.markdown_table(three()).splitlines()
    assert lines[0] == "| model | parameters | MB | ms / example (IQR) | macro f1 | mse | agreement |"
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2] == "| teacher | 22.7 M | 90.9 | 4.00 (0.08) | 0.6000 | 0.1000 | - |"
    assert lines[3] == "| student alone | 17.4 M | 69.5 | 2.00 (0.05) | 0.5000 | **0.2000** | 0.9000 |"
    assert lines[4] == "| distilled student | 17.4 M | 69.5 | 2.00 (0.05) | **0.5700** | 0.3000 | **0.9500** |"


def test_one_student_is_not_the_best_of_anything_and_unknown_columns_are_left_out():
    lines = report.markdown_table([ModelFacts("teacher"), ModelFacts("distilled student", agreement=0.5)]).splitlines()
    assert lines == ["| model | agreement |", "| --- | ---: |", "| teacher | - |", "| distilled student | 0.5000 |"]


def test_names_that_are_markup_stay_text():
    facts = [ModelFacts("a|b [red]c[/red]\nd", 10, metrics={"x[y]": math.nan, "z": 0.5})]
    assert r"| a\|b [red]c[/red] d |" in report.markdown_table(facts)
    assert "[red]c[/red]" in printed(report.table(facts))


def test_tables_of_nothing():
    assert "model" in printed(report.table([]))
    assert report.markdown_table([]).splitlines() == ["| model |", "| --- |"]
    assert report.summary([]) == []


def test_summary_compares_only_what_was_measured():
    teacher = ModelFacts("teacher", metrics={"accuracy": 0.8}, milliseconds=3.0)
    assert report.summary([teacher, ModelFacts("small", metrics={"accuracy": 0.6}), ModelFacts("other")]) == [
        "small: 75.0% of the teacher's accuracy."
    ]
    assert report.summary([ModelFacts("small", metrics={"accuracy": 0.6})]) == []
    zero = ModelFacts("teacher", 0, metrics={"accuracy": 0.0})
    assert report.summary([zero, ModelFacts("small", 0, metrics={"accuracy": 0.6})]) == []


@pytest.mark.parametrize(("alone", "said"), [(0.81, 1), (0.8, 0), (0.7, 0)])
def test_a_teacher_that_is_worse_than_the_student_alone_is_pointed_out(alone, said):
    facts = [
        ModelFacts(name, metrics={"accuracy": value}) for name, value in (("teacher", 0.8), ("student alone", alone))
    ]
    facts.append(ModelFacts("distilled student", metrics={"accuracy": 0.82}))
    assert " ".join(report.summary(facts)).count("The teacher is worse than the student alone") == said


# ---- files --------------------------------------------------------------------------------------------------------


def test_facts_come_back_from_their_file_as_they_were(tmp_path):
    path = report.save(three(), tmp_path / "new" / "report.json")
    assert report.load(path) == three()
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_values_that_are_not_finite_are_valid_json(tmp_path):
    facts = ModelFacts("teacher", milliseconds=math.inf, metrics={"pearson": math.nan, "mse": 1.0})
    path = report.save([facts], tmp_path / "report.json")
    json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (back,) = report.load(path)
    assert math.isnan(back.metrics["pearson"])
    assert back.metrics["mse"] == 1.0
    assert back.milliseconds is None


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_former_file(tmp_path, monkeypatch, step):
    path = report.save(three(), tmp_path / "report.json")
    before = path.read_bytes()

    def full(*_args):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        report.save(three()[:1], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "version None"),
        ('{"version": 9, "models": []}', "version 9; this hf_distill reads version 1"),
        ('{"version": 1, "models": [{"name": "a", "colour": 1}]}', "unknown keys .'colour'."),
        ('{"version": 1, "models": [{}]}', "name is missing"),
    ],
)
def test_files_that_are_no_report(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        report.load(tmp_path / "x.json")


def test_reading_a_report_needs_neither_transformers_nor_matplotlib():
    code = "import sys, hf_distill.report; print([n for n in ('transformers', 'matplotlib') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
