"""Recipes: what is accepted, and that each refusal names the right file and line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_recipes import (
    CATALOGUE,
    GOOD,
    STAND_INS,
    Config,
    HiddenMSE,
    SoftTargets,
    TaskLoss,
    assert_refused,
    refusal,
    write,
)

from hf_distill import recipe as recipes
from hf_distill.recipe import Recipe, RecipeError, build_config, build_losses, dump, load, parse, yaml_lines

EXAMPLE = Path(__file__).parents[2] / "examples/recipes/goemotions_distilbert.yaml"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_good_recipe_is_read_as_written() -> None:
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


def test_losses_are_built_in_order() -> None:
    recipe = load(write(GOOD), ["losses.1.temperature='3'"], **STAND_INS)
    built = build_losses(recipe, catalogue=CATALOGUE)
    assert built == [TaskLoss(0.5), SoftTargets(3.0, weight=0.5), HiddenMSE({0: 0, 1: 2, 2: 4}, 0.1)]
    assert isinstance(built[1].temperature, float)
    assert build_losses(parse("teacher: {model: a}\nstudent: {model: b}\ndataset: {path: c}")) is None


LINES = [  # what is replaced in GOOD, by what, and the one line that must come of it
    ("from: teacher,", "from: teacher, model: x,", "3: student says both 'from' and 'model'"),
    ("from: teacher,", "", "3: student says neither 'from' nor 'model'"),
    (
        "from: teacher, architecture: distilbert",
        "model: x",
        "3: student 'layers' goes with 'from: teacher'; a student",
    ),
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
def test_each_refusal_names_its_line(old: str, new: str, line: str) -> None:
    assert_refused(old, new, line)


def test_exactly_one_problem_is_one_line() -> None:
    assert refusal(write(GOOD.replace("temperature", "tempature"))) == (
        "recipe.yaml:10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?"
    )
    assert refusal(write(GOOD.replace("[0, 2, 4]", "[0, two, 4]"))).count("\n") == 0


def test_all_problems_are_listed_in_the_order_of_the_file() -> None:
    text = GOOD.replace("model:", "modle:").replace("temperature", "tempature").replace("5e-5", "fast")
    assert refusal(write(text), "train.lr=3").split("\n") == [
        "recipe.yaml:2: unknown key 'modle' in teacher; did you mean 'model'?",
        "recipe.yaml:10: unknown key 'tempature' in losses[1] (SoftTargets); did you mean 'temperature'?",
        "recipe.yaml:16: train.learning_rate: expected a number, found 'fast'",
        "--set train.lr=3: unknown key 'lr' in train; known: output_dir, num_train_epochs, learning_rate, max_steps, "
        "bf16, eval_strategy, report_to, hub_token",
    ]


@pytest.mark.parametrize(("text", "found"), [("", "is empty"), ("# only this", "is empty"), ("- a", "is ['a']")])
def test_what_is_no_map_is_refused(text: str, found: str) -> None:
    expected = f"recipe.yaml:1: the recipe {found}; expected a map with at least teacher, student and dataset"
    assert refusal(write(text)) == expected


def test_files_that_cannot_be_read_are_named() -> None:
    assert refusal("nowhere.yaml") == "nowhere.yaml: cannot be read: No such file or directory"
    Path("recipe.yaml").write_bytes(b"task: multi_label\nteacher: {model: \xff}\n")
    assert refusal("recipe.yaml") == "recipe.yaml:2: not UTF-8 text"


def test_anchors_and_merges_keep_their_lines() -> None:
    text = GOOD.replace("train:\n", "train:\n  <<: *fast\n").replace(
        "teacher: {model", "teacher: &fast {bf16: 9, model"
    )
    message = refusal(write(text)).split("\n")
    assert "recipe.yaml:2: unknown key 'model' in train; known: " in "\n".join(message)
    text = GOOD.replace("weight: 0.5}", "weight: &half 0.5}").replace("weight: 0.5\n", "weight: *half\n")
    assert load(write(text), **STAND_INS) == load(write(GOOD), **STAND_INS)


def test_what_is_written_wins_over_what_is_merged() -> None:
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


def test_anchors_that_grow_without_end_are_refused() -> None:
    grow = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9))
    assert refusal(write(f"a0: &a0 [1]\n{grow}\n")).endswith("an alias that repeats itself without end")


def test_yaml_is_read_by_the_rules_of_1_2() -> None:
    values = yaml_lines._plain(
        "[5e-5, 1E3, .5, 1_000, yes, no, on, 010, 12:30, 2024-01-01, ~, null, true, -.inf, -3]", yaml_lines.Origin()
    )
    assert values[:4] == [5e-5, 1000.0, 0.5, 1000]
    assert values[4:10] == ["yes", "no", "on", "010", "12:30", "2024-01-01"]
    assert values[10:] == [None, None, True, float("-inf"), -3]


def test_overrides_reach_everywhere() -> None:
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
def test_overrides_are_named_in_refusals(override: str, message: str) -> None:
    found = refusal(write(GOOD), override)
    assert found.startswith(message), found
    assert "\n" not in found
    assert "s3cret" not in found


def test_an_override_takes_the_place_of_all_that_was_there() -> None:
    text = "--set losses.1={name: SoftTargets, temperature: hot}"
    assert refusal(write(GOOD), text[6:]) == f"{text}: losses[1].temperature: expected a number, found 'hot'"
    recipe = load(write("push:\n" + GOOD), ["push.repo_id=me/it"], **STAND_INS)
    assert recipe.push is not None


def test_an_override_of_a_part_keeps_the_lines_of_the_rest() -> None:
    text = GOOD.replace("weight: 0.5\n", "weigth: 0.5\n")
    assert refusal(write(text), "losses.1.temperature=3").startswith(
        "recipe.yaml:11: unknown key 'weigth' in losses[1]"
    )


def test_what_a_class_refuses_is_placed() -> None:
    recipe = load(write(GOOD.replace("2.0", "-2.0")), **STAND_INS)
    with pytest.raises(RecipeError) as caught:
        build_losses(recipe, catalogue=CATALOGUE)
    assert str(caught.value) == "recipe.yaml:9: losses[1] (SoftTargets): temperature is -2.0; expected above 0"


def test_the_config_is_built_or_its_refusal_placed() -> None:
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


def test_dump_reads_back_equal_and_says_no_more_than_was_written() -> None:
    recipe = load(write(GOOD), ["baseline=true"], **STAND_INS)
    text = dump(recipe)
    assert parse(text, **STAND_INS) == recipe
    assert "eval_fraction" not in text
    assert "num_train_epochs: 3, " in text
    assert parse(text, ["losses.0.weight=0.4"], **STAND_INS) != recipe


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
