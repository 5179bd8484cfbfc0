"""What goes together within one part of a recipe, and who teaches where no model does."""

from pathlib import Path

import pytest
from written_recipes import STAND_INS

from hf_distill.recipe import Recipe, RecipeError, dump, parse

ALONE = "student: {model: me/student}\ndataset: {path: x}\n"
NOBODY = r"\Arecipe:1: 'model' is missing in teacher, and nobody else teaches; name one, a teacher.kind such as "


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "said",
    [
        "scheme: {name: mutual}",
        "teacher: {}\nscheme: {name: progressive_self}",
        "teacher: {kind: {name: PastSelf}}",
        "teacher: {kind: {name: EMATeacher, decay: 0.5}}",
    ],
)
def test_a_model_is_named_only_where_one_teaches(said: str) -> None:
    recipe = parse(ALONE + said, **STAND_INS)
    assert recipe.teacher.model is None
    assert parse(dump(recipe), **STAND_INS) == recipe
    with pytest.raises(RecipeError, match="teacher names no model"):
        recipe.model_path("teacher")


@pytest.mark.parametrize("said", ["", "teacher: {}", "scheme: {name: chain}", "teacher: {kind: {name: NoisyTeacher}}"])
def test_somebody_must_teach(said: str) -> None:
    with pytest.raises(RecipeError, match=NOBODY):
        parse(ALONE + said, **STAND_INS)
    with pytest.raises(ValueError, match="'model' is missing in teacher"):
        Recipe.model_validate({"student": {"model": "x"}, "dataset": {"path": "x"}})


def test_a_student_is_made_of_a_model() -> None:
    text = "student: {from: teacher}\ndataset: {path: x}\nscheme: {name: mutual}\n"
    with pytest.raises(RecipeError, match=r"student.from is 'teacher', and teacher names no model; name one as"):
        parse(text, **STAND_INS)


@pytest.mark.parametrize(
    "key",
    [
        "quantize: int8",
        "cache: answers",
        "cache_top_k: 3",
        "label_map: by_name",
        "text: french",
        "also: [b]",
        "dtype: auto",
    ],
)
def test_what_is_about_a_model_needs_one(key: str) -> None:
    message = rf"\Arecipe:3: teacher says '{key.split(':')[0]}' and no 'model', which it is about\Z"
    with pytest.raises(RecipeError, match=message):
        parse(f"{ALONE}teacher: {{{key}, kind: {{name: PastSelf}}}}", **STAND_INS)
