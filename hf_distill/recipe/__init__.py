"""A recipe: one YAML file that says who teaches whom, on what, by which losses; checked before anything is loaded.

    task: multi_label                       # found from the teacher when left out
    teacher: {model: path-or-hub-id}        # left out where nobody else teaches, such as scheme: {name: mutual}
    student: {from: teacher, architecture: distilbert, layers: [0, 2, 4]}    # or {model: hub-id}
    dataset: {path: "data/*.tsv", text: text, labels: labels}
    losses:
      - {name: TaskLoss, weight: 0.5}
      - {name: SoftTargets, temperature: 2.0, weight: 0.5}
      - {name: HiddenMSE, layers: {0: 0, 1: 2, 2: 4}, weight: 0.1}
    train: {output_dir: out, num_train_epochs: 3, learning_rate: 5e-5}       # any DistillationConfig field

`load` gives a `Recipe`, or one `RecipeError` that lists every problem, each with its file and line. Scalars are read
by the rules of YAML 1.2: `5e-5` is a number, `yes` and `no` are words, `2024-01-01` is text.

Importing this module imports neither torch nor transformers; `load` does so only where a recipe names what is in the
package or in PEFT: fields of `train` and of `student.lora`, losses, a scheme, a kind of teacher.
"""

import functools
import types
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from hf_distill.recipe import arranged
from hf_distill.recipe.losses import MEMBER, Refused, checked_arguments, function_at, loss_class_of, problems_of
from hf_distill.recipe.parts import DatasetSpec as DatasetSpec
from hf_distill.recipe.parts import LossSpec, NamedSpec, Part, PushSpec, StudentSpec, TeacherSpec, Truth
from hf_distill.recipe.paths import located
from hf_distill.recipe.portable import dump as dump
from hf_distill.recipe.pydantic_errors import explain
from hf_distill.recipe.train import checked_lora, checked_train
from hf_distill.recipe.yaml_lines import Key, Origin, Problem, RecipeError, override, read


class Recipe(Part):
    """A checked recipe. Made by `load`; a model of one's own is `Recipe(teacher={"model": ...}, ...)`."""

    task: Literal["multi_label", "single_label", "regression"] | None = Field(
        None, description="what kind of problem; none asks the teacher"
    )
    teacher: TeacherSpec = Field(default_factory=lambda: TeacherSpec.model_validate({}))
    student: StudentSpec
    dataset: DatasetSpec
    losses: Annotated[list[LossSpec], Field(min_length=1)] | None = Field(
        None, description="the terms of the total; none takes the default of the task"
    )
    train: dict[str, Any] = Field(
        default_factory=dict, description="fields of `DistillationConfig`, converted to their types"
    )
    scheme: NamedSpec | None = Field(
        None, description="an arrangement of several trainings: `{name: born_again, generations: 3}`; none trains once"
    )
    baseline: Truth = Field(
        False, description="train the student alone as well: same start, same steps, no teacher, to compare with"
    )
    push: PushSpec | None = Field(None, description="push the finished student")
    metrics: list[str] = Field(default_factory=list, description="more metrics, by their `evaluate` names")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @model_validator(mode="after")
    def _somebody_teaches(self) -> "Recipe":
        if self.teacher.model is not None:
            return self
        if self.student.from_ is not None:
            raise ValueError("student.from is 'teacher', and teacher names no model; name one as teacher.model")
        kind, scheme = (None if each is None else each.name for each in (self.teacher.kind, self.scheme))
        if not arranged.does_without_model(kind, scheme):
            raise ValueError(
                "'model' is missing in teacher, and nobody else teaches; name one, a teacher.kind such as PastSelf, "
                "or a scheme such as mutual"
            )
        return self

    @property
    def folder(self) -> Path:
        """The recipe's own folder; relative paths are tried from here, then from the current folder."""
        return self._origin.folder

    def model_path(self, role: Literal["teacher", "student"], index: int | None = None) -> str:
        """The teacher's or the student's `model` as a folder that exists, or else as the Hub id that it must be.

        Args:
            role: whose.
            index: of one of the teacher's `also` instead.

        Raises:
            RecipeError: the name is written like a path, and there is nothing there; or there is no name.
        """
        name = self.teacher.model if role == "teacher" else self.student.model
        key: Key = (role, "model") if index is None else (role, "also", index)
        if index is not None:
            name = (self.teacher.also or [])[index]
        if name is None:
            why = "names no model" if role == "teacher" else "is made from the teacher and has no model of its own"
            raise self._origin.error([((role,), f"{role} {why}")])
        return located(name, key, self._origin)


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    allow_custom_code: bool = False,
    *,
    config_class: type | None = None,
    catalogue: types.ModuleType | None = None,
) -> Recipe:
    """Read a recipe, apply `--set` overrides, and check all of it.

    Args:
        path: the YAML file.
        overrides: `train.num_train_epochs=3`, `losses.1.temperature=4`; the value is read as YAML.
        allow_custom_code: whether a loss, or a teacher that is a function, may be a dotted path, whose module is then
            imported.
        config_class: the dataclass whose fields `train` may name; `hf_distill.DistillationConfig` when left out.
        catalogue: the module whose loss classes may be named; `hf_distill.losses` when left out.

    Raises:
        RecipeError: with every problem that was found, one a line.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{path}:{line}: not UTF-8 text") from error
    origin = Origin(file=str(path), folder=path.parent)
    return _check(text, origin, overrides, allow_custom_code, config_class, catalogue)


def parse(
    text: str,
    overrides: Sequence[str] = (),
    allow_custom_code: bool = False,
    *,
    config_class: type | None = None,
    catalogue: types.ModuleType | None = None,
) -> Recipe:
    """`load` for a recipe in memory; its problems are placed in `recipe`, and its folder is the current one."""
    return _check(text, Origin(), overrides, allow_custom_code, config_class, catalogue)


def _check(
    text: str,
    origin: Origin,
    overrides: Sequence[str],
    allow_custom_code: bool,
    config_class: type | None,
    catalogue: types.ModuleType | None,
) -> Recipe:
    data = read(text, origin)
    for written in overrides:
        override(data, written, origin)
    problems: list[Problem] = []
    if isinstance(data.get("train"), dict) and data["train"]:
        data["train"], found = checked_train(data["train"], config_class or _config_class())
        problems += found
    if isinstance(data.get("losses"), list):
        problems += problems_of(data["losses"], origin, allow_custom_code, catalogue)
    if isinstance(data.get("student"), dict) and isinstance(data["student"].get("lora"), dict):
        data["student"]["lora"], found = checked_lora(data["student"]["lora"])
        problems += found
    problems += arranged.problems_of(data.get("scheme"), arranged.schemes, ("scheme",))
    if isinstance(data.get("teacher"), dict):
        problems += arranged.problems_of(
            data["teacher"].get("kind"), arranged.teacher_kinds, ("teacher", "kind"), origin, allow_custom_code
        )
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += explain(error, data, keys_of=_keys_of)
    if problems:
        raise origin.error(problems)
    recipe._origin = origin
    return recipe


_MODELS: dict[Key, type[BaseModel]] = {
    (): Recipe,
    ("teacher",): TeacherSpec,
    ("student",): StudentSpec,
    ("dataset",): DatasetSpec,
    ("push",): PushSpec,
    ("scheme",): NamedSpec,
    ("teacher", "kind"): NamedSpec,
}


def _keys_of(part: Key) -> list[str]:
    """The keys that a part of a recipe may have."""
    return [info.alias or name for name, info in _MODELS.get(part, LossSpec).model_fields.items()]


def _config_class() -> type:
    from hf_distill.config import DistillationConfig

    found: type = DistillationConfig  # a dataclass that a type checker may not see through
    return found


def build_config(recipe: Recipe, config_class: type | None = None, **more: Any) -> Any:
    """The `DistillationConfig` of `train`.

    Args:
        recipe: from `load`.
        config_class: what to make instead of a `DistillationConfig`.
        more: fields that win over the recipe's.

    Raises:
        RecipeError: the fields contradict each other, or ask for what this machine has not.
    """
    try:
        return (config_class or _config_class())(**{**recipe.train, **more})
    except (ValueError, TypeError, ImportError) as error:
        message = " ".join(str(error).split())
        raise recipe._origin.error([(("train",), f"train: {message}")]) from error


def build_losses(
    recipe: Recipe, allow_custom_code: bool = False, catalogue: types.ModuleType | None = None
) -> list[Any] | None:
    """The losses of a recipe as objects, in its order; None where it names none, which means the default of the task.

    Raises:
        RecipeError: a name that is not in the catalogue, an argument that the class does not have, a value of the
            wrong type, or a value that the class itself refuses. Each with its file and line.
    """
    if recipe.losses is None:
        return None
    origin, losses, problems = recipe._origin, [], list[Problem]()
    for index, spec in enumerate(recipe.losses):
        key: Key = ("losses", index)
        try:
            loss_class = loss_class_of(spec.name, origin.folder, allow_custom_code, catalogue)
            arguments, found = checked_arguments(loss_class, spec.arguments, key)
            problems += found
            member = arguments.pop(MEMBER, None) if "teacher" not in signature(loss_class).parameters else None
            if not found:
                made = loss_class(**arguments)
                losses.append(made if member is None else made.of(member))
        except Refused as error:
            problems.append(((*key, "name"), f"losses[{index}]: {error}"))
        except (TypeError, ValueError) as error:
            problems.append((key, f"losses[{index}] ({spec.name}): {' '.join(str(error).split())}"))
    if problems:
        raise origin.error(problems)
    return losses


def build_scheme(recipe: Recipe) -> tuple[Callable[..., Any], dict[str, Any]] | None:
    """The scheme of a recipe, which takes a `Plan`, and its knobs; None where it names none.

    Raises:
        RecipeError: a knob names a model or a folder by a path, and there is nothing there.
    """
    if recipe.scheme is None:
        return None
    called, knobs = arranged.built(recipe.scheme.name, recipe.scheme.arguments, arranged.schemes, ("scheme",))
    return called, arranged.with_paths(knobs, recipe._origin)


def build_teacher_kind(recipe: Recipe, allow_custom_code: bool = False) -> tuple[Callable[..., Any], str] | None:
    """The kind of teacher of a recipe, and what it is to be called with: `teacher`, `teachers`, `student`, or nothing.

    Args:
        recipe: from `load`.
        allow_custom_code: whether it may be a function, by its dotted path.

    Returns:
        None where it names none.

    Raises:
        RecipeError: it is a function, and code is not allowed or there is no such function.
    """
    if recipe.teacher.kind is None:
        return None
    spec, key = recipe.teacher.kind, ("teacher", "kind")
    called, knobs = arranged.built(spec.name, spec.arguments, arranged.teacher_kinds, key)
    if arranged.FUNCTION in knobs:
        try:
            knobs[arranged.FUNCTION] = function_at(knobs[arranged.FUNCTION], recipe.folder, allow_custom_code)
        except Refused as error:
            raise recipe._origin.error([((*key, arranged.FUNCTION), f"teacher.kind.function: {error}")]) from error
    return functools.partial(called, **knobs), str(arranged.made_of(called))
