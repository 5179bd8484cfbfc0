"""Schemes and kinds of teachers in a recipe."""

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from hf_distill import schemes, teachers
from hf_distill.recipe import RecipeError, arranged, build_losses, build_scheme, build_teacher_kind, dump, load, parse

TEXT = """\
task: multi_label
teacher: {model: teacher}
student: {from: teacher, layers: [0, 2]}
dataset: {path: data.tsv}
scheme: {name: born_again, generations: 2}
"""


def test_a_scheme_is_found_with_its_knobs() -> None:
    assert build_scheme(parse(TEXT)) == (schemes.born_again, {"generations": 2})
    assert build_scheme(parse(TEXT.replace("scheme: {name: born_again, generations: 2}\n", ""))) is None


def test_every_scheme_and_every_kind_of_the_package_can_be_named() -> None:
    named = {name for name in schemes.__all__ if name not in ("combine", "scheme") and name[0].islower()}
    assert arranged.schemes().keys() == named
    kinds = arranged.teacher_kinds()
    every = {
        name for name, each in vars(teachers).items() if isinstance(each, type) and issubclass(each, teachers.Teacher)
    }
    assert kinds.keys() | arranged.ELSEWHERE.keys() == every
    assert not kinds.keys() & arranged.ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scheme.name=born_agian", "scheme: there is no 'born_agian'; did you mean 'born_again'?"),
        ("scheme.generation=3", "unknown key 'generation' in scheme (born_again); did you mean 'generations'?"),
        ("scheme.generations=many", "scheme.generations: expected a whole number, found 'many'"),
        ("scheme.plan=3", "unknown key 'plan' in scheme (born_again)"),
        ("scheme={generations: 3}", "'name' is missing in scheme"),
        (
            "teacher.kind={name: PeerTeacher}",
            "'PeerTeacher' is made otherwise: use scheme: {name: mutual} or {name: online}",
        ),
        ("teacher.kind={name: NoSuchTeacher}", "teacher.kind: there is no 'NoSuchTeacher'"),
        ("teacher.kind={name: CallableTeacher}", "'function' is missing in teacher.kind (CallableTeacher)"),
        (
            "teacher.kind={name: CallableTeacher, function: rules.answer}",
            "teacher.kind.function: 'rules.answer' is code; pass --allow-custom-code to run it",
        ),
        ("teacher.kind={name: CallableTeacher, function: answer}", "found 'answer'"),
        ("teacher.kind={name: CallableTeacher, function: 3}", "the dotted path of a function, such as"),
        ("teacher.kind={name: CallableTeacher, function: a.b, shape: 3}", "unknown key 'shape' in teacher.kind"),
        ("teacher.kind={name: CallableTeacher, function: .b}", "found '.b'"),
    ],
)
def test_each_refusal_names_its_place(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        parse(TEXT, [override])
    assert message in str(refused.value)


def test_a_kind_of_teacher_is_found_with_its_knobs() -> None:
    kind, of = build_teacher_kind(parse(TEXT, ["teacher.kind={name: NoisyTeacher, sigma: 3}"]))  # type: ignore[misc]
    assert (kind.func, kind.keywords, of) == (teachers.NoisyTeacher, {"sigma": 3}, "teacher")  # type: ignore[attr-defined]
    assert build_teacher_kind(parse(TEXT, ["teacher.kind={name: PastSelf}"]))[1] == ""  # type: ignore[index]
    assert build_teacher_kind(parse(TEXT)) is None


def test_a_loss_may_be_on_one_member_of_an_ensemble() -> None:
    losses = build_losses(parse(TEXT, ["losses=[{name: HiddenMSE, layers: last, teacher: 1}, {name: TaskLoss}]"]))
    assert [loss.teacher for loss in losses or []] == [1, None]
    with pytest.raises(RecipeError, match=r"losses\[0\].teacher: expected a whole number, found 'second'"):
        parse(TEXT, ["losses=[{name: SoftTargets, teacher: second}]"])


def test_dump_reads_back() -> None:
    changes = ["teacher.kind={name: EnsembleTeacher}", "teacher.also=[/home/somebody/second, other/hub]"]
    text = dump(parse(TEXT, changes))
    assert "somebody" not in text
    again = parse(text)
    assert again.teacher.also == ["second", "other/hub"]
    assert again.scheme.arguments == {"generations": 2}  # type: ignore[union-attr]


def test_further_models_are_looked_for_like_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "second").mkdir()
    (tmp_path / "r.yaml").write_text(TEXT)
    recipe = load("r.yaml", ["teacher.also=[second, ./gone]"])
    assert recipe.model_path("teacher", 0) == "second"
    with pytest.raises(RecipeError, match=r"teacher.also\[1\]: nothing at './gone'"):
        recipe.model_path("teacher", 1)


def test_models_and_folders_of_a_scheme_are_looked_for_beside_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("recipes/mlm", "recipes/facts"):
        Path(folder).mkdir(parents=True)
    Path("recipes/r.yaml").write_text(TEXT)

    def knobs(scheme: str) -> dict[str, object]:
        found = build_scheme(load("recipes/r.yaml", [f"scheme={scheme}"]))
        assert found is not None
        return found[1]

    assert knobs("{name: two_stage, samples: 1, masked_lm: mlm}") == {"samples": 1, "masked_lm": "recipes/mlm"}
    assert knobs("{name: two_stage, masked_lm: null}") == {"masked_lm": None}
    assert knobs("{name: data_free, lm: me/hub, published: facts}") == {"lm": "me/hub", "published": "recipes/facts"}
    looked = r"\(looked in 'recipes', then in the current folder\)$"
    with pytest.raises(RecipeError, match=rf"^--set .*: scheme.masked_lm: nothing at './nowhere' {looked}"):
        knobs("{name: two_stage, masked_lm: ./nowhere}")
    with pytest.raises(RecipeError, match=rf"^--set .*: scheme.published: nothing at 'nowhere' {looked}"):
        knobs("{name: data_free, published: nowhere}")


def test_every_knob_of_a_scheme_that_may_be_a_path_is_known() -> None:
    texts = {
        name
        for scheme in arranged.schemes().values()
        for name, hint in get_type_hints(inspect.unwrap(scheme)).items()
        if name != "return" and (hint is str or str in get_args(hint))
    }
    assert texts == {*arranged.MODELS, *arranged.FOLDERS, "prefix"}  # the last is of columns' names


def test_a_function_beside_the_recipe_teaches_where_code_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "answers_of_rules.py").write_text("def answer(batch): return [[0.0]]\nnumber = 3\n")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    kind = "teacher.kind={name: CallableTeacher, function: answers_of_rules.answer}"
    recipe = load(tmp_path / "recipe.yaml", [kind], allow_custom_code=True)
    called, of = build_teacher_kind(recipe, allow_custom_code=True)  # type: ignore[misc]
    made = called()
    assert (of, type(made), made.function.__name__) == ("", teachers.CallableTeacher, "answer")
    assert "function: answers_of_rules.answer" in dump(recipe)
    with pytest.raises(RecipeError, match=r"teacher\.kind\.function: 'answers_of_rules\.answer' is code; pass"):
        build_teacher_kind(recipe)
    for name, what in (("gone", "nothing"), ("number", "3")):
        with pytest.raises(RecipeError, match=rf"'answers_of_rules\.{name}' is {what}; expected a function"):
            load(tmp_path / "recipe.yaml", [kind.replace(".answer", f".{name}")], allow_custom_code=True)
    with pytest.raises(RecipeError, match="'no_such_rules' cannot be imported: ModuleNotFoundError"):
        load(tmp_path / "recipe.yaml", [kind.replace("answers_of", "no_such")], allow_custom_code=True)


@pytest.mark.parametrize(
    ("kind", "scheme", "without"),
    [
        (None, None, False),
        ("NoisyTeacher", "mutual", False),
        ("EnsembleTeacher", None, False),
        ("NoSuchTeacher", None, True),  # which is a problem of its own, and the only one
        (None, "mutuall", True),
        ("PastSelf", None, True),
        ("EMATeacher", None, True),
        ("AdapterOffTeacher", None, True),
        ("CallableTeacher", None, True),
        (None, "chain", False),
        (None, "progressive_self", True),
    ],
)
def test_who_does_without_a_model(kind: str | None, scheme: str | None, without: bool) -> None:
    assert arranged.does_without_model(kind, scheme) == without


def test_every_scheme_that_asks_nobody_is_known_as_such() -> None:
    asks = {name for name, each in arranged.schemes().items() if "need_teacher" in source_of(each)}
    assert arranged.schemes().keys() - asks == {*arranged.WITHOUT_TEACHER}


def source_of(scheme: Any) -> str:
    """Its own function, and those beside it that it is made of."""
    return inspect.getsource(inspect.getmodule(inspect.unwrap(scheme)))  # type: ignore[arg-type]
