"""Losses that are not in the catalogue, arguments that they do not take, and losses of one's own."""

import sys
from pathlib import Path

import pytest
from written_recipes import CATALOGUE, GOOD, STAND_INS, assert_refused, refusal, write

from hf_distill.losses import linear
from hf_distill.recipe import RecipeError, build_losses, load


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    (
        "temperature",
        "tempature",
        "10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?",
    ),
    ("SoftTargets", "softtarget", "9: losses[1]: there is no loss 'softtarget'; did you mean 'SoftTargets'?"),
    ("SoftTargets", "Loss", "9: losses[1]: there is no loss 'Loss'; did you mean 'TaskLoss'?"),
    (
        "SoftTargets",
        "mine.Own",
        "9: losses[1]: 'mine.Own' is code outside the catalogue; pass --allow-custom-code to run",
    ),
    ("layers: {0: 0, 1: 2, 2: 4}, ", "", "12: 'layers' is missing in losses[2] (HiddenMSE)"),
]


@pytest.mark.parametrize(
    ("old", "new", "line"), LINES, ids=[f"{line[:40]}-{i}" for i, (_, _, line) in enumerate(LINES)]
)
def test_each_refusal_names_its_line(old: str, new: str, line: str) -> None:
    assert_refused(old, new, line)


def test_custom_losses_only_where_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(GOOD.replace("name: SoftTargets", "name: my_own_losses.Mine"))
    Path("my_own_losses.py").write_text(
        "import sys\nclass Mine(sys.modules['catalogue'].Loss):\n"
        "    def __init__(self, temperature: float, weight: float = 1.0): self.temperature = temperature\n"
        "thing = 3\n"
    )
    monkeypatch.setitem(sys.modules, "catalogue", CATALOGUE)
    before = list(sys.path)
    assert "pass --allow-custom-code to run it" in refusal(path)
    assert "my_own_losses" not in sys.modules
    recipe = load(path, allow_custom_code=True, **STAND_INS)
    built = build_losses(recipe, allow_custom_code=True, catalogue=CATALOGUE)
    assert built is not None
    assert built[1].temperature == 2.0
    with pytest.raises(RecipeError, match=r"^recipe.yaml:9: losses\[1\]: .*--allow-custom-code"):
        build_losses(recipe, catalogue=CATALOGUE)
    for name, problem in (
        ("my_own_losses.thing", "'my_own_losses.thing' is 3; expected a subclass of hf_distill.losses.Loss"),
        ("my_own_losses.Other", "'my_own_losses.Other' is nothing; expected a subclass"),
        ("no_such_module.Mine", "'no_such_module' cannot be imported: ModuleNotFoundError"),
    ):
        assert problem in refusal(path, f"losses.1.name={name}", allow_custom_code=True)
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "my_own_losses")


def test_a_weight_may_be_a_schedule() -> None:
    text = GOOD.replace("weight: 0.1", "weight: {linear: [0.1, 0.0]}")
    assert text != GOOD
    found = build_losses(load(write(text)))
    assert found[2].weight == linear(0.1, 0.0)
    known = "a weight is a number or one of linear, cosine, warmup, stairs with its arguments, "
    known += "such as {linear: [1.0, 0.0]}."
    for written, line in (
        ("{lineal: [1, 0]}", f"12: losses[2].weight: {known}"),
        (
            "{linear: [1, 0, 0]}",
            "12: losses[2].weight: over=0 is no share of the training; it must be above 0 and at most 1.",
        ),
        ("much", "12: losses[2].weight: expected a number, found 'much'"),
    ):
        assert_refused("weight: 0.1", f"weight: {written}", line)
