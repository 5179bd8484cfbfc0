"""`yaml_lines`: lines, YAML 1.2 scalars, no key twice, `--set`. What a recipe makes of them is in test_recipe."""

import pytest

from hf_distill.recipe.yaml_lines import Origin, RecipeError, name_of, override, read


def _read(text):
    origin = Origin(file="some.yaml")
    return read(text, origin), origin


def test_every_value_knows_its_line():
    data, origin = _read("a: 1\nb:\n  - {c: 2}\n  - d: 3\n")
    assert data == {"a": 1, "b": [{"c": 2}, {"d": 3}]}
    assert origin.place(("b", 1, "d")) == "some.yaml:4"
    assert origin.place(("b", 0, "c")) == "some.yaml:3"
    assert origin.place(("b", 1, "missing")) == "some.yaml:4"  # the nearest value around it


@pytest.mark.parametrize(
    ("written", "value"), [("5e-5", 5e-5), ("no", "no"), ("true", True), ("010", "010"), ("~", None)]
)
def test_scalars_are_those_of_yaml_1_2(written, value):
    data, _ = _read(f"a: {written}\n")
    assert data["a"] == value
    assert type(data["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "some.yaml:2: 'a' is in the recipe twice, first in line 1"),
        ("a:\n\tb: 1\n", "some.yaml:2: a tab where YAML wants spaces; indent with spaces"),
        ("a: 1\nb: !!python/name:os.system\n", "some.yaml:2: "),
        ("a: &x {b: *x}\n", "some.yaml:1: an alias that repeats itself without end"),
    ],
)
def test_what_is_wrong_is_placed(text, message):
    with pytest.raises(RecipeError) as error:
        _read(text)
    assert str(error.value).startswith(message)


def test_set_replaces_a_value_and_takes_the_blame_for_it():
    data, origin = _read("a:\n  - {b: 1}\n")
    override(data, "a.0.b=2.5", origin)
    assert data == {"a": [{"b": 2.5}]}
    assert origin.place(("a", 0, "b")) == "--set a.0.b=2.5"
    with pytest.raises(RecipeError, match="expected key=value"):
        override(data, "a.0.b", origin)


def test_the_value_of_a_token_is_never_shown():
    data, origin = _read("train: {}\n")
    override(data, "train.hub_token=hf_secret", origin)
    assert origin.place(("train", "hub_token")) == "--set train.hub_token=..."


def test_names_read_like_python():
    assert name_of(("losses", 1, "temperature")) == "losses[1].temperature"
