"""Keys of `train` that the config class does not have, or that a file must not hold, are refused."""

from pathlib import Path

import pytest
from written_recipes import assert_refused

from hf_distill.recipe import RecipeError, parse


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    ("learning_rate", "learning_rat", "16: unknown key 'learning_rat' in train; did you mean 'learning_rate'?"),
    (
        "learning_rate",
        "evaluation_strategy",
        "16: unknown key 'evaluation_strategy' in train; transformers 5 calls it",
    ),
    ("learning_rate: 5e-5", "hidden: 1", "16: unknown key 'hidden' in train; known: output_dir,"),
    (
        "num_train_epochs: 3",
        "hub_token: hf_s3cret",
        "15: train.hub_token: a recipe is saved beside the model, so it holds",
    ),
    ("  num_train_epochs: 3", "  2: 3", "15: unknown key '2' in train; known:"),
]


@pytest.mark.parametrize(
    ("old", "new", "line"), LINES, ids=[f"{line[:40]}-{i}" for i, (_, _, line) in enumerate(LINES)]
)
def test_each_refusal_names_its_line(old: str, new: str, line: str) -> None:
    assert_refused(old, new, line)


def test_adapters_are_fields_of_peft(tmp_path: Path) -> None:
    text = "teacher: {model: t}\nstudent: {from: teacher, lora: {r: 4, target_modules: [query]}}\ndataset: {path: x}\n"
    assert parse(text).student.lora == {"r": 4, "target_modules": ["query"]}
    for old, new, message in (
        ("r: 4", "rank: 4", "2: unknown key 'rank' in student.lora; PEFT calls it r"),
        ("r: 4", "task_type: CAUSAL_LM", "2: unknown key 'task_type' in student.lora; known: "),
        ("r: 4", "r: many", "2: student.lora.r: expected a whole number, found 'many'"),
        ("lora: {r: 4, target_modules: [query]}", "lora: 8", "2: student.lora: expected a map (key: value), found 8"),
    ):
        with pytest.raises(RecipeError) as refused:
            parse(text.replace(old, new))
        assert str(refused.value).startswith(f"recipe:{message}")
