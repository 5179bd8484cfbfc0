"""Recipes: what is accepted, and that each refusal names the right file and line."""

import dataclasses
import enum
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_distill import recipe as recipes
from hf_distill import yaml_lines
from hf_distill.recipe import Recipe, RecipeError, build_config, build_losses, dump, load, parse

EXAMPLE = Path(__file__).parents[1] / "examples/recipes/goemotions_distilbert.yaml"


class Loss:
    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)


class TaskLoss(Loss):
    pass


class SoftTargets(Loss):
    def __init__(self, temperature: float = 1.0, standardize: bool = False, weight: float = 1.0) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature};\nexpected above 0")
        self.temperature, self.standardize = temperature, standardize


class HiddenMSE(Loss):
    def __init__(self, layers: dict[int, int] | str, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.layers = layers


class Anything(Loss):
    def __init__(self, weight: float = 1.0, **rest: Any) -> None:
        super().__init__(weight)
        self.rest = rest


class When(str, enum.Enum):  # noqa: UP042 - as transformers writes its enums
    NO = "no"
    EPOCH = "epoch"


@dataclasses.dataclass
class Config:
    output_dir: str | None = None
    num_train_epochs: float = 3.0
    learning_rate: float = 5e-5
    max_steps: int = -1
    bf16: bool = False
    eval_strategy: When | str = "no"
    report_to: str | list[str] | None = None
    hub_token: str | None = None
    hidden: int = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.bf16 and self.max_steps == 7:
            raise ValueError("bf16 does not go\nwith 7")


CATALOGUE = ModuleType("catalogue")
vars(CATALOGUE).update(Loss=Loss, TaskLoss=TaskLoss, SoftTargets=SoftTargets, HiddenMSE=HiddenMSE, Anything=Anything)
STAND_INS: dict[str, Any] = {"config_class": Config, "catalogue": CATALOGUE}

GOOD = """\
task: multi_label
teacher: {model: some/teacher}
student: {from: teacher, architecture: distilbert, layers: [0, 2, 4]}
dataset:
  path: data/*.tsv
  label_names: [yes, no, 2024-01-01]
losses:
  - {name: TaskLoss, weight: 0.5}
  - name: SoftTargets
    temperature: 2.0
    weight: 0.5
  - {name: HiddenMSE, layers: {0: 0, 1: 2, 2: 4}, weight: 0.1}
train:
  output_dir: out
  num_train_epochs: 3
  learning_rate: 5e-5
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path("recipe.yaml").write_text(text, encoding="utf-8")
        return "recipe.yaml"

    return write


def refusal(path: str, *overrides: str, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides, **{**STAND_INS, **options})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return str(caught.value)


def test_a_good_recipe_is_read_as_written(write: Any) -> None:
    recipe = load(write(GOOD), **STAND_INS)
    assert recipe.task == "multi_label"
    assert recipe.teacher.model == "some/teacher"
    assert recipe.teacher.dtype == "float32"
    assert (recipe.student.from_, recipe.student.layers) == ("teacher", [0, 2, 4])
    assert recipe.dataset.label_names == ["yes", "no", "2024-01-01"]
    assert recipe.dataset.eval_fraction == 0.1
    assert recipe.losses is not None
    assert recipe.losses[2].arguments == {"layers": {0: 0, 1: 2, 2: 4}, "weight": 0.1}
    assert recipe.train == {"output_dir": "out", "num_train_epochs": 3, "learning_rate": 5e-5}
    assert not recipe.baseline
    assert recipe.push is None
    assert recipe.folder == Path()


def test_losses_are_built_in_order(write: Any) -> None:
    recipe = load(write(GOOD), ["losses.1.temperature='3'"], **STAND_INS)
    built = build_losses(recipe, catalogue=CATALOGUE)
    assert built == [TaskLoss(0.5), SoftTargets(3.0, weight=0.5), HiddenMSE({0: 0, 1: 2, 2: 4}, 0.1)]
    assert isinstance(built[1].temperature, float)
    assert build_losses(parse("teacher: {model: a}\nstudent: {model: b}\ndataset: {path: c}")) is None


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    (
        "temperature",
        "tempature",
        "10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?",
    ),
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
    ("from: teacher,", "from: teacher, model: x,", "3: student says both 'from' and 'model'"),
    ("from: teacher,", "", "3: student says neither 'from' nor 'model'"),
    (
        "from: teacher, architecture: distilbert",
        "model: x",
        "3: student 'layers' goes with 'from: teacher'; a student",
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
    ("name: TaskLoss,", "", "8: 'name' is missing in losses[0]"),
    ("{name: TaskLoss, weight: 0.5}", "TaskLoss", "8: losses[0]: expected a map (key: value), found 'TaskLoss'"),
    ("weight: 0.5}", "weight: half}", "8: losses[0].weight: expected a number, found 'half'"),
    ("weight: 0.5}", "weight: true}", "8: losses[0].weight: expected a number, found True"),
    ("SoftTargets", "softtarget", "9: losses[1]: there is no loss 'softtarget'; did you mean 'SoftTargets'?"),
    ("SoftTargets", "Loss", "9: losses[1]: there is no loss 'Loss'; did you mean 'TaskLoss'?"),
    (
        "SoftTargets",
        "mine.Own",
        "9: losses[1]: 'mine.Own' is code outside the catalogue; pass --allow-custom-code to run",
    ),
    ("layers: {0: 0, 1: 2, 2: 4}, ", "", "12: 'layers' is missing in losses[2] (HiddenMSE)"),
    ("2: 4}", "2: last}", "12: losses[2].layers[2]: expected a whole number, found 'last'"),
    ("learning_rate", "learning_rat", "16: unknown key 'learning_rat' in train; did you mean 'learning_rate'?"),
    (
        "learning_rate",
        "evaluation_strategy",
        "16: unknown key 'evaluation_strategy' in train; transformers 5 calls it",
    ),
    ("learning_rate: 5e-5", "hidden: 1", "16: unknown key 'hidden' in train; known: output_dir,"),
    ("5e-5", "fast", "16: train.learning_rate: expected a number, found 'fast'"),
    ("num_train_epochs: 3", "max_steps: 2.5", "15: train.max_steps: expected a whole number, found 2.5"),
    ("num_train_epochs: 3", "max_steps: true", "15: train.max_steps: expected a number, found True"),
    ("num_train_epochs: 3", "bf16: maybe", "15: train.bf16: expected true or false, found 'maybe'"),
    (
        "num_train_epochs: 3",
        "eval_strategy: epochs",
        "15: train.eval_strategy: expected one of no, epoch, found 'epochs'",
    ),
    (
        "num_train_epochs: 3",
        "hub_token: hf_s3cret",
        "15: train.hub_token: a recipe is saved beside the model, so it holds",
    ),
    ("  num_train_epochs: 3", "  2: 3", "15: unknown key '2' in train; known:"),
    ("task:", "2: 3\ntask:", "1: unknown key '2' in the recipe; known: task,"),
    ("path: data/*.tsv", "path: x\n  eval_fraction: 1.5", "6: dataset.eval_fraction: expected below 1.0, found 1.5"),
    ("path: data/*.tsv", "path: x\n  max_length: '9'", "6: dataset.max_length: expected a whole number, found '9'"),
    ("task: multi", "push: {repo_id: a/b/c}\ntask: multi", "1: push.repo_id: "),
    ("task: multi", "baseline: perhaps\ntask: multi", "1: baseline: expected true or false, found 'perhaps'"),
    ("  output_dir", "  learning_rate: 1\n  output_dir", "17: 'learning_rate' is in train twice, first in line 14"),
    ("train:", "task: x\ntrain:", "13: 'task' is in the recipe twice, first in line 1"),
    ("0.1}", "0.1, weight: 2}", "12: 'weight' is in losses[2] twice, first in line 12"),
    ("{0: 0, 1", "{0: 0, 0: 1, 1", "12: '0' is in losses[2].layers twice, first in line 12"),
    ("  output_dir", "\toutput_dir", "14: a tab where YAML wants spaces; indent with spaces"),
    ("[0, 2, 4]}", "[0, 2, 4}", "3: not YAML: "),
    ("some/teacher", "some\x07teacher", "2: the character '\\x07' is not allowed in YAML"),
    ("some/teacher", "!!python/name:os.system x", "2: not YAML: could not determine a constructor for the tag"),
    ("[0, 2, 4]", "!!set {0, 2}", "3: the tag tag:yaml.org,2002:set means nothing in a recipe"),
    ("[0, 2, 4]", "&x [0, *x]", "3: an alias that repeats itself without end"),
    ("task: multi_label", "? [a]\n: b", "1: a key must be one word or number"),
    ("task: multi", "<<: 3\ntask: multi", "1: '<<' takes a map"),
]


@pytest.mark.parametrize(
    ("old", "new", "line"), LINES, ids=[f"{line[:40]}-{i}" for i, (_, _, line) in enumerate(LINES)]
)
def test_each_refusal_names_its_line(write: Any, old: str, new: str, line: str) -> None:
    assert old in GOOD
    message = refusal(write(GOOD.replace(old, new, 1)))
    assert any(found.startswith(f"recipe.yaml:{line}") for found in message.split("\n")), message
    assert all(found.startswith("recipe.yaml:") for found in message.split("\n")), message
    assert "s3cret" not in message


def test_exactly_one_problem_is_one_line(write: Any) -> None:
    assert refusal(write(GOOD.replace("temperature", "tempature"))) == (
        "recipe.yaml:10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?"
    )
    assert refusal(write(GOOD.replace("[0, 2, 4]", "[0, two, 4]"))).count("\n") == 0


def test_all_problems_are_listed_in_the_order_of_the_file(write: Any) -> None:
    text = GOOD.replace("model:", "modle:").replace("temperature", "tempature").replace("5e-5", "fast")
    assert refusal(write(text), "train.lr=3").split("\n") == [
        "recipe.yaml:2: 'model' is missing in teacher",
        "recipe.yaml:2: unknown key 'modle' in teacher; did you mean 'model'?",
        "recipe.yaml:10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?",
        "recipe.yaml:16: train.learning_rate: expected a number, found 'fast'",
        "--set train.lr=3: unknown key 'lr' in train; known: output_dir, num_train_epochs, learning_rate, max_steps, "
        "bf16, eval_strategy, report_to, hub_token",
    ]


@pytest.mark.parametrize(("text", "found"), [("", "is empty"), ("# only this", "is empty"), ("- a", "is ['a']")])
def test_what_is_no_map_is_refused(write: Any, text: str, found: str) -> None:
    expected = f"recipe.yaml:1: the recipe {found}; expected a map with at least teacher, student and dataset"
    assert refusal(write(text)) == expected


def test_files_that_cannot_be_read_are_named(write: Any) -> None:
    assert refusal("nowhere.yaml") == "nowhere.yaml: cannot be read: No such file or directory"
    Path("recipe.yaml").write_bytes(b"task: multi_label\nteacher: {model: \xff}\n")
    assert refusal("recipe.yaml") == "recipe.yaml:2: not UTF-8 text"


def test_anchors_and_merges_keep_their_lines(write: Any) -> None:
    text = GOOD.replace("train:\n", "train:\n  <<: *fast\n").replace(
        "teacher: {model", "teacher: &fast {bf16: 9, model"
    )
    message = refusal(write(text)).split("\n")
    assert "recipe.yaml:2: unknown key 'model' in train; known: " in "\n".join(message)
    text = GOOD.replace("weight: 0.5}", "weight: &half 0.5}").replace("weight: 0.5\n", "weight: *half\n")
    assert load(write(text), **STAND_INS) == load(write(GOOD), **STAND_INS)


def test_what_is_written_wins_over_what_is_merged(write: Any) -> None:
    text = GOOD.replace("- {name: TaskLoss", "- &first {name: TaskLoss").replace(
        "  - {name: HiddenMSE, layers: {0: 0, 1: 2, 2: 4}, weight: 0.1}", "  - {weight: 0.25, <<: *first}"
    )
    recipe = load(write(text), **STAND_INS)
    assert recipe.losses is not None
    assert recipe.losses[2] == recipes.LossSpec.model_validate({"name": "TaskLoss", "weight": 0.25})
    text = GOOD.replace("dataset:", "more: &more {label_names: [x, 1]}\ndataset:\n  <<: *more").replace(
        "[yes, no, 2024-01-01]", "\n    - y\n    - 2"
    )
    assert "recipe.yaml:10: dataset.label_names[1]: expected text, found 2" in refusal(write(text)).split("\n")


def test_anchors_that_grow_without_end_are_refused(write: Any) -> None:
    grow = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
    assert refusal(write(f"a0: &a0 [1]\n{grow}\n")).endswith("an alias that repeats itself without end")


def test_yaml_is_read_by_the_rules_of_1_2() -> None:
    values = yaml_lines._plain(
        "[5e-5, 1E3, .5, 1_000, yes, no, on, 010, 12:30, 2024-01-01, ~, null, true, -.inf, -3]", yaml_lines.Origin()
    )
    assert values[:4] == [5e-5, 1000.0, 0.5, 1000]
    assert values[4:10] == ["yes", "no", "on", "010", "12:30", "2024-01-01"]
    assert values[10:] == [None, None, True, float("-inf"), -3]


def test_overrides_reach_everywhere(write: Any) -> None:
    recipe = load(
        write(GOOD),
        (
            "train.num_train_epochs=1",
            "train.learning_rate=1e-3",
            "losses.1.temperature=4",
            "losses.2.layers.1=3",
            "losses.3={name: Anything, knob: [1]}",
            "push.repo_id=me/it",
            "baseline=yes",
            "dataset.labels=",
            "train.report_to=[]",
            "student={model: other/student}",
            "dataset.text=a=b",
        ),
        **STAND_INS,
    )
    assert recipe.train == {"output_dir": "out", "num_train_epochs": 1, "learning_rate": 1e-3, "report_to": []}
    assert recipe.losses is not None
    assert [loss.arguments for loss in recipe.losses[1:]] == [
        {"temperature": 4, "weight": 0.5},
        {"layers": {0: 0, 1: 3, 2: 4}, "weight": 0.1},
        {"knob": [1]},
    ]
    assert recipe.push is not None
    assert recipe.push.repo_id == "me/it"
    assert recipe.baseline
    assert recipe.dataset.labels is None
    assert recipe.dataset.text == "a=b"
    assert recipe.student.model == "other/student"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.foo=1", "--set train.foo=1: unknown key 'foo' in train; known:"),
        ("train.foo.bar=1", "--set train.foo.bar=1: unknown key 'foo' in train; known:"),
        (
            "train.learning_rate=fast",
            "--set train.learning_rate=fast: train.learning_rate: expected a number, found 'fast'",
        ),
        (
            "losses.1.temprature=3",
            "--set losses.1.temprature=3: unknown key 'temprature' in losses[1] (SoftTargets); did",
        ),
        ("losses.7.weight=1", "--set losses.7.weight=1: losses is a list of 3 (0 to 2), and '7' is not among them"),
        ("losses.x.weight=1", "--set losses.x.weight=1: losses is a list of 3 (0 to 2), and 'x' is not among them"),
        ("losses=[]", "--set losses=[]: losses: expected at least one entry, found []"),
        (
            "losses.1={name: SoftTargets, hot: 1}",
            "--set losses.1={name: SoftTargets, hot: 1}: unknown key 'hot' in losses[1]",
        ),
        ("teacher.model.x=1", "--set teacher.model.x=1: teacher.model is 'some/teacher', which holds no 'x'"),
        ("train.bf16", "--set train.bf16: expected key=value, such as train.num_train_epochs=3"),
        ("train..bf16=1", "--set train..bf16=1: expected key=value"),
        ("losses=[1", "--set losses=[1: not YAML: "),
        ("teacher={model: a, model: b}", "--set teacher={model: a, model: b}: 'model' is in the recipe twice"),
        (
            "train.hub_token=hf_s3cret",
            "--set train.hub_token=...: train.hub_token: a recipe is saved beside the model",
        ),
        ("train=", "--set train=: train: expected a map (key: value), found None"),
        ("tusk=1", "--set tusk=1: unknown key 'tusk' in the recipe; did you mean 'task'?"),
    ],
)
def test_overrides_are_named_in_refusals(write: Any, override: str, message: str) -> None:
    found = refusal(write(GOOD), override)
    assert found.startswith(message), found
    assert "\n" not in found
    assert "s3cret" not in found


def test_an_override_takes_the_place_of_all_that_was_there(write: Any) -> None:
    text = "--set losses.1={name: SoftTargets, temperature: hot}"
    assert refusal(write(GOOD), text[6:]) == f"{text}: losses[1].temperature: expected a number, found 'hot'"
    recipe = load(write("push:\n" + GOOD), ["push.repo_id=me/it"], **STAND_INS)
    assert recipe.push is not None


def test_an_override_of_a_part_keeps_the_lines_of_the_rest(write: Any) -> None:
    text = GOOD.replace("weight: 0.5\n", "weigth: 0.5\n")
    assert refusal(write(text), "losses.1.temperature=3").startswith(
        "recipe.yaml:11: unknown key 'weigth' in losses[1]"
    )


def test_custom_losses_only_where_allowed(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_a_class_refuses_is_placed(write: Any) -> None:
    recipe = load(write(GOOD.replace("2.0", "-2.0")), **STAND_INS)
    with pytest.raises(RecipeError) as caught:
        build_losses(recipe, catalogue=CATALOGUE)
    assert str(caught.value) == "recipe.yaml:9: losses[1] (SoftTargets): temperature is -2.0; expected above 0"


def test_the_config_is_built_or_its_refusal_placed(write: Any) -> None:
    recipe = load(write(GOOD), **STAND_INS)
    assert build_config(recipe, Config, output_dir="other") == Config("other", 3, 5e-5)
    recipe = load(write(GOOD), ["train.bf16=yes", "train.max_steps=7"], **STAND_INS)
    with pytest.raises(RecipeError) as caught:
        build_config(recipe, Config)
    assert str(caught.value) == "recipe.yaml:13: train: bf16 does not go with 7"


def test_models_are_looked_for_beside_the_recipe_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes/model", "model", "here"):
        Path(folder).mkdir(parents=True)
    Path("recipes/r.yaml").write_text("teacher: {model: model}\nstudent: {model: here}\ndataset: {path: x}\n")
    recipe = load("recipes/r.yaml", **STAND_INS)
    assert recipe.model_path("teacher") == "recipes/model"
    assert recipe.model_path("student") == "here"
    assert load("recipes/r.yaml", ["teacher.model=me/hub"]).model_path("teacher") == "me/hub"
    with pytest.raises(RecipeError) as caught:
        load("recipes/r.yaml", ["student.model=../gone"]).model_path("student")
    looked = "(looked in 'recipes', then in the current folder)"
    assert str(caught.value) == f"--set student.model=../gone: student.model: nothing at '../gone' {looked}"
    with pytest.raises(RecipeError, match=r"^recipes/r.yaml:2|^--set student=.*made from the teacher"):
        load("recipes/r.yaml", ["student={from: teacher}"]).model_path("student")


def test_recipes_made_in_python_are_checked_alike() -> None:
    recipe = Recipe.model_validate(
        {
            "teacher": {"model": "a"},
            "student": {"from": "teacher"},
            "dataset": {"path": "d"},
            "losses": [{"name": "SoftTarget"}],
        }
    )
    with pytest.raises(RecipeError, match=r"^recipe: losses\[0\]: there is no loss 'SoftTarget'; did you mean"):
        build_losses(recipe, catalogue=CATALOGUE)


def test_dump_reads_back_equal_and_says_no_more_than_was_written(write: Any) -> None:
    recipe = load(write(GOOD), ["baseline=true"], **STAND_INS)
    text = dump(recipe)
    assert parse(text, **STAND_INS) == recipe
    assert "eval_fraction" not in text
    assert "num_train_epochs: 3, " in text
    assert parse(text, ["losses.0.weight=0.4"], **STAND_INS) != recipe


def test_dump_holds_no_path_of_this_machine(write: Any) -> None:
    recipe = load(
        write(GOOD),
        (
            "teacher.model=/home/somebody/models/teacher",
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


words = st.text(min_size=1, max_size=12).filter(
    lambda text: not text.startswith(("/", "~", "file:")) and ":" not in text
)
tricky = st.sampled_from(
    [
        "yes",
        "no",
        "null",
        "~x",
        "1e5",
        "5e-5",
        "010",
        "12",
        "true",
        "2024-01-01",
        "a\x85b",
        "a\u2028b",
        "\ufeffa",
        "- a",
        "#b",
        "a: b",
        " ",
        "é😀",
    ]
)
names = st.one_of(words, tricky)
layers = st.one_of(st.lists(st.integers(-9, 9), min_size=1, max_size=4), st.integers(1, 9))
students = st.one_of(
    st.fixed_dictionaries({"model": words}),
    st.fixed_dictionaries({"from": st.just("teacher")}, optional={"layers": layers}),
)
losses = st.lists(
    st.one_of(
        st.fixed_dictionaries(
            {"name": st.just("SoftTargets"), "temperature": st.floats(1e-6, 1e6)},
            optional={"standardize": st.booleans()},
        ),
        st.fixed_dictionaries(
            {
                "name": st.just("HiddenMSE"),
                "layers": st.dictionaries(st.integers(-3, 9), st.integers(-3, 9), max_size=4),
            }
        ),
        st.fixed_dictionaries(
            {"name": st.just("Anything"), "x": st.one_of(words, st.lists(words, max_size=3), st.none())}
        ),
    ),
    min_size=1,
    max_size=3,
)
recipe_values = st.fixed_dictionaries(
    {
        "teacher": st.fixed_dictionaries({"model": words}, optional={"dtype": st.sampled_from(["auto", "bfloat16"])}),
        "student": students,
        "dataset": st.fixed_dictionaries(
            {"path": words},
            optional={
                "label_names": st.lists(names, min_size=1, max_size=30),
                "labels": st.one_of(st.none(), names),
                "eval_fraction": st.floats(0, 1, exclude_max=True),
                "max_length": st.integers(1, 10**9),
            },
        ),
    },
    optional={
        "task": st.one_of(st.none(), st.sampled_from(["multi_label", "single_label", "regression"])),
        "losses": losses,
        "train": st.fixed_dictionaries(
            {},
            optional={
                "learning_rate": st.floats(allow_nan=False),
                "num_train_epochs": st.integers(1, 9),
                "output_dir": words,
                "bf16": st.booleans(),
                "report_to": st.one_of(st.none(), st.lists(words, max_size=3)),
            },
        ),
        "baseline": st.booleans(),
        "metrics": st.lists(names, max_size=2),
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipe_values)
def test_any_recipe_round_trips(values: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(values)
    again = parse(dump(recipe), **STAND_INS)
    assert again == recipe
    assert dump(again) == dump(recipe)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    with pytest.raises(RecipeError):
        parse(text, **STAND_INS)


def test_importing_recipes_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from hf_distill.recipe import parse; "
        "parse('teacher: {model: a}\\nstudent: {from: teacher}\\ndataset: {path: d}'); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_example_is_a_good_recipe_of_the_real_package() -> None:
    recipe = load(EXAMPLE, ["train.output_dir=out"])
    built = build_losses(recipe)
    assert built is not None
    assert [type(loss).__name__ for loss in built] == ["TaskLoss", "SoftTargets", "HiddenMSE"]
    assert recipe.baseline
    assert 0 < recipe.train["learning_rate"] < 1
    assert parse(dump(recipe)) == recipe


def test_real_keys_and_losses_are_checked_against_the_real_package() -> None:
    with pytest.raises(RecipeError) as caught:
        load(EXAMPLE, ["losses.1.tempature=4", "train.eval_strategy=epochs", "train.evaluation_strategy=epoch"])
    assert sorted(caught.value.problems) == [
        "--set losses.1.tempature=4: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?",
        "--set train.eval_strategy=epochs: train.eval_strategy: expected one of no, steps, epoch, found 'epochs'; "
        "did you mean 'epoch'?",
        "--set train.evaluation_strategy=epoch: unknown key 'evaluation_strategy' in train; transformers 5 calls it "
        "eval_strategy",
    ]
