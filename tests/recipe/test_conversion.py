"""Values become the type that they are annotated with; those that cannot are refused, with their line."""

from pathlib import Path
from typing import Any

import pytest
from written_recipes import Loss, When, assert_refused

from hf_distill.recipe.conversion import convert


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    ("weight: 0.5}", "weight: half}", "8: losses[0].weight: expected a number, found 'half'"),
    ("weight: 0.5}", "weight: true}", "8: losses[0].weight: expected a number, found True"),
    ("2: 4}", "2: last}", "12: losses[2].layers[2]: expected a whole number, found 'last'"),
    ("5e-5", "fast", "16: train.learning_rate: expected a number, found 'fast'"),
    ("num_train_epochs: 3", "max_steps: 2.5", "15: train.max_steps: expected a whole number, found 2.5"),
    ("num_train_epochs: 3", "max_steps: true", "15: train.max_steps: expected a number, found True"),
    ("num_train_epochs: 3", "bf16: maybe", "15: train.bf16: expected true or false, found 'maybe'"),
    (
        "num_train_epochs: 3",
        "eval_strategy: epochs",
        "15: train.eval_strategy: expected one of no, epoch, found 'epochs'",
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "line"), LINES, ids=[f"{line[:40]}-{i}" for i, (_, _, line) in enumerate(LINES)]
)
def test_each_refusal_names_its_line(old: str, new: str, line: str) -> None:
    assert_refused(old, new, line)


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        ("3", float, 3.0),
        (3, float, 3),  # as it was written
        ("yes", bool, True),
        ({"0": 1}, dict[int, int], {0: 1}),
        ("epoch", When | str, "epoch"),
        ("anything", Loss, "anything"),
    ],
)
def test_values_take_the_type_of_their_annotation(value: Any, hint: Any, result: Any) -> None:
    found, problems = convert(value, hint, ("train", "x"))
    assert (found, problems) == (result, [])
    assert type(found) is type(result)
