"""A recipe that is saved beside the model names nothing of this machine, and reads back."""

from pathlib import Path

import pytest
from written_recipes import GOOD, STAND_INS, When, write

from hf_distill.recipe import Recipe, dump, load, parse


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_dump_holds_no_path_of_this_machine() -> None:
    recipe = load(
        write(GOOD),
        (
            "teacher.model=/home/somebody/models/teacher",
            "teacher.cache=/home/somebody/answers",
            "student={model: ~/somebody/student/}",
            "dataset.path=/home/somebody/data/*.tsv",
            "dataset.label_names=C:\\Users\\somebody\\labels.txt",
            "train.output_dir=/home/somebody/out",
            "train.report_to=[file:///home/somebody/log, ../kept]",
            "losses.3={name: Anything, where: [/home/somebody/x]}",
        ),
        **STAND_INS,
    )
    text = dump(recipe)
    assert "somebody" not in text
    again = parse(text, **STAND_INS)
    assert (again.teacher.model, again.student.model) == ("teacher", "student")
    assert again.teacher.cache == "answers"
    assert (again.dataset.path, again.dataset.label_names) == ("*.tsv", "labels.txt")
    assert again.train["output_dir"] == "out"
    assert again.train["report_to"] == ["log", "../kept"]


def test_enums_and_paths_are_dumped_as_text() -> None:
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": "a"},
            "student": {"from": "teacher"},
            "dataset": {"path": "d"},
            "train": {"eval_strategy": When.EPOCH, "output_dir": Path("a/b"), "report_to": ("x",)},
        }
    )
    assert "eval_strategy: epoch" in dump(recipe)
    assert "report_to: [x]" in dump(recipe)


def test_the_folder_of_the_answers_is_dumped_as_it_was_written_and_left_out_where_there_is_none() -> None:
    recipe = load(write(GOOD), ("teacher.cache=runs/answers", "teacher.cache_dtype=float16"), **STAND_INS)
    again = parse(dump(recipe), **STAND_INS)
    assert (again.teacher.cache, again.teacher.cache_dtype) == ("runs/answers", "float16")
    assert "cache" not in dump(load(write(GOOD), **STAND_INS))
