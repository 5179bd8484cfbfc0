"""What a recipe names is looked for beside it, then in the current folder."""

from pathlib import Path

import pytest

from hf_distill.recipe.paths import located
from hf_distill.recipe.yaml_lines import Origin, RecipeError

KEY = ("scheme", "lm")
BESIDE = Origin("recipes/r.yaml", Path("recipes"), {KEY: 7})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes/both", "both", "here"):
        Path(folder).mkdir(parents=True)


@pytest.mark.parametrize(
    ("name", "found"),
    [("both", "recipes/both"), ("here", "here"), ("./here", "here"), ("gone", "gone"), ("me/hub", "me/hub")],
)
def test_beside_the_recipe_first_then_here_then_on_the_hub(name: str, found: str) -> None:
    assert located(name, KEY, BESIDE) == found


@pytest.mark.parametrize(
    ("name", "on_hub"),
    [("./gone", True), ("~/gone", True), ("/no/where", True), ("a/b/c", True), ("a\\b", True), ("gone", False)],
)
def test_what_can_only_be_a_path_must_be_there(name: str, on_hub: bool) -> None:
    with pytest.raises(RecipeError) as refused:
        located(name, KEY, BESIDE, on_hub)
    looked = "(looked in 'recipes', then in the current folder)"
    assert str(refused.value) == f"recipes/r.yaml:7: scheme.lm: nothing at '{name}' {looked}"
