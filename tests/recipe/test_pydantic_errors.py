"""What pydantic refuses is said in the words of a recipe, with the line of the value."""

from pathlib import Path

import pytest
from written_recipes import assert_refused


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    ("task:", "tusk:", "1: unknown key 'tusk' in the recipe; did you mean 'task'?"),
    ("path:", "pth: x\n  path:", "5: unknown key 'pth' in dataset; did you mean 'path'?"),
    ("  path: data/*.tsv\n", "", "4: 'path' is missing in dataset"),
    ("dataset:\n  path", "data:\n  path", "4: unknown key 'data' in the recipe; did you mean 'dataset'?"),
    (
        "multi_label",
        "multilabel",
        "1: task: expected 'multi_label', 'single_label' or 'regression', found 'multilabel'",
    ),
    ("[0, 2, 4]", "[0, two, 4]", "3: student.layers[1]: expected a whole number, found 'two'"),
    (
        "[0, 2, 4]",
        "0",
        "3: student.layers: expected a list or at least 1, found 0",
    ),
    (
        "[0, 2, 4]",
        "[]",
        "3: student.layers: expected at least one entry or a whole number, found []",
    ),
    ("[yes, no, 2024-01-01]", "7", "6: dataset.label_names: expected a list or text, found 7"),
    ("[yes, no, 2024-01-01]", "\n    - a\n    - 1", "8: dataset.label_names[1]: expected text, found 1"),
    ("{model: some/teacher}", "some/teacher", "2: teacher: expected a map (key: value), found 'some/teacher'"),
    ("{model: some/teacher}", "", "2: teacher: expected a map (key: value), found None"),
    (
        "some/teacher",
        "a, dtype: fp16",
        "2: teacher.dtype: expected 'float32', 'bfloat16', 'float16' or 'auto', found 'fp16'",
    ),
    ("some/teacher", "a, cache: ''", "2: teacher.cache: expected "),
    ("some/teacher", "a, cache: 3", "2: teacher.cache: expected text, found 3"),
    (
        "some/teacher",
        "a, cache: b, cache_dtype: int8",
        "2: teacher.cache_dtype: expected 'float32' or 'float16', found 'int8'",
    ),
    ("some/teacher", "a, cach: b", "2: unknown key 'cach' in teacher; did you mean 'cache'?"),
    ("name: TaskLoss,", "", "8: 'name' is missing in losses[0]"),
    ("{name: TaskLoss, weight: 0.5}", "TaskLoss", "8: losses[0]: expected a map (key: value), found 'TaskLoss'"),
    ("task:", "2: 3\ntask:", "1: unknown key '2' in the recipe; known: task,"),
    ("path: data/*.tsv", "path: x\n  eval_fraction: 1.5", "6: dataset.eval_fraction: expected below 1.0, found 1.5"),
    ("path: data/*.tsv", "path: x\n  max_length: '9'", "6: dataset.max_length: expected a whole number, found '9'"),
    ("task: multi", "push: {repo_id: a/b/c}\ntask: multi", "1: push.repo_id: "),
    ("task: multi", "baseline: perhaps\ntask: multi", "1: baseline: expected true or false, found 'perhaps'"),
]


@pytest.mark.parametrize(
    ("old", "new", "line"), LINES, ids=[f"{line[:40]}-{i}" for i, (_, _, line) in enumerate(LINES)]
)
def test_each_refusal_names_its_line(old: str, new: str, line: str) -> None:
    assert_refused(old, new, line)
