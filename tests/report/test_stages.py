"""Stages as JSON, as tables, and what is refused to go on with."""

import dataclasses
import json
from pathlib import Path

import pytest
from rich.console import Console

from hf_distill.report import stages
from hf_distill.report.stages import StageFacts

FIRST = StageFacts("first", "teacher", "Bert", ["TaskLoss()"], {"seed": 0}, True, 1200, 61.2, {"macro_f1": 0.51234})
SECOND = StageFacts("second", None, "Bert", ["TaskLoss()"], {"seed": 0}, True, 3, None, {"accuracy": 0.25})


def test_a_scheme_as_it_was_called() -> None:
    knobs = {"sizes": [4, 2], "share": 0.5, "model": object(), "kind": "a"}
    assert stages.call("chain", knobs) == "chain(sizes=[4, 2], share=0.5, kind='a')"
    knobs = {"masked_lm": "/home/somebody/mlm", "lm": "recipes/lm"}
    assert stages.call("two_stage", knobs) == "two_stage(masked_lm='mlm', lm='recipes/lm')"


def test_a_stage_goes_to_disk_and_back(tmp_path: Path) -> None:
    file = tmp_path / "new" / "stage.json"
    stages.write(FIRST, file)
    assert stages.read(file) == FIRST
    assert [path.name for path in file.parent.iterdir()] == ["stage.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "a", "other": 1}'])
def test_what_is_no_stage_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "stage.json").write_text(text)
    assert stages.read(tmp_path / "stage.json") is None
    assert stages.read(tmp_path / "gone.json") is None


def test_all_of_them_in_one_file(tmp_path: Path) -> None:
    stages.save([FIRST, SECOND], "chain()", tmp_path / "stages.json")
    found = json.loads((tmp_path / "stages.json").read_text())
    assert (found["version"], found["scheme"]) == (1, "chain()")
    assert [StageFacts(**each) for each in found["stages"]] == [FIRST, SECOND]


def test_only_what_a_stage_is_must_be_the_same() -> None:
    stages.check_same(FIRST, dataclasses.replace(FIRST, finished=False, steps=None, metrics={}), Path("out/first"))
    stages.check_same(FIRST, dataclasses.replace(FIRST, settings={"seed": 0}), Path("out/first"))
    for field, value in (("student", "x"), ("losses", []), ("settings", {"seed": 1})):
        with pytest.raises(ValueError, match=f"out/first was begun with {field} .* and now it is"):
            stages.check_same(FIRST, dataclasses.replace(FIRST, **{field: value}), Path("out/first"))


def test_settings_that_a_former_version_did_not_note_are_not_compared() -> None:
    now = dataclasses.replace(FIRST, settings={**FIRST.settings, "adam_beta1": 0.9})
    stages.check_same(FIRST, now, Path("out/first"))
    later = dataclasses.replace(FIRST, settings={**FIRST.settings, "adam_beta1": 0.8})
    with pytest.raises(
        ValueError, match=r"begun with settings \{'adam_beta1': 0.9\}, and now it is \{'adam_beta1': 0.8\}"
    ):
        stages.check_same(now, later, Path("out/first"))


def test_tables() -> None:
    assert stages.markdown([FIRST, SECOND]).splitlines() == [
        "| stage | teacher | student | steps | seconds | macro f1 | accuracy |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        "| first | teacher | Bert | 1,200 | 61 | 0.5123 | - |",
        "| second | nobody | Bert | 3 | - | - | 0.2500 |",
    ]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(stages.table([FIRST, SECOND]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[0] == ["student:", "Bert"]
    assert lines[-1] == ["second", "nobody", "3", "-", "-", "0.2500"]
    third = dataclasses.replace(SECOND, name="third")
    others = [dataclasses.replace(each, student="[b]other[/b]") for each in (SECOND, third)]
    console.print(stages.table([FIRST, *others]))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert lines[:2] == [["first:", "Bert"], ["second,", "third:", "[b]other[/b]"]]
    assert lines[2][:4] == ["stage", "teacher", "steps", "seconds"]
    assert lines[3][:2] == ["first", "teacher"]


def test_no_name_of_a_stage_is_torn_on_a_narrow_screen() -> None:
    told = "SpecialistTeacher(BertForSequenceClassification, specialist_1, ... 11 in all)"
    long = dataclasses.replace(FIRST, name="student_of_ensemble", teacher=told)
    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(stages.table([long]))
    assert " student_of_ensemble  " in console.export_text()
