"""Keys of `train` that the config class does not have, or that a file must not hold, are refused."""

from pathlib import Path

import pytest
from written_recipes import assert_refused


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
