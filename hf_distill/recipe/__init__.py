"""A recipe: one YAML file that says who teaches whom, on what, by which losses; checked before anything is loaded.

    task: multi_label                       # found from the teacher when left out
    teacher: {model: path-or-hub-id}
    student: {from: teacher, architecture: distilbert, layers: [0, 2, 4]}    # or {model: hub-id}
    dataset: {path: "data/*.tsv", text: text, labels: labels}
    losses:
      - {name: TaskLoss, weight: 0.5}
      - {name: SoftTargets, temperature: 2.0, weight: 0.5}
      - {name: HiddenMSE, layers: {0: 0, 1: 2, 2: 4}, weight: 0.1}
    train: {output_dir: out, num_train_epochs: 3, learning_rate: 5e-5}       # any DistillationConfig field

`load` gives a `Recipe`, or one `RecipeError` that lists every problem, each with its file and line. Scalars are read
by the rules of YAML 1.2: `5e-5` is a number, `yes` and `no` are words, `2024-01-01` is text.

Importing this module imports neither torch nor transformers; `load` does so only for keys of `train` and `losses`.
"""

import functools
import types
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from hf_distill.recipe import arranged
from hf_distill.recipe.losses import MEMBER, Refused, checked_arguments, loss_class_of, problems_of
from hf_distill.recipe.paths import located
from hf_distill.recipe.portable import dump as dump
from hf_distill.recipe.pydantic_errors import explain
from hf_distill.recipe.train import checked_train
from hf_distill.recipe.yaml_lines import Key, Origin, Problem, RecipeError, override, read


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


Truth = Annotated[bool, Field(strict=False)]  # YAML 1.2 reads `yes` as a word; people mean true


Layers = Annotated[list[int], Field(min_length=1)] | Annotated[int, Field(ge=1)]


class NamedSpec(_Part):
    """A scheme or a kind of teacher: its name, and its own knobs by their own names."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="what it is called in `hf_distill.schemes` or `hf_distill.teachers`")

    @property
    def arguments(self) -> dict[str, Any]:
        """What it is called with, as written."""
        return dict(self.model_extra or {})


class TeacherSpec(_Part):
    """Who teaches."""

    model: str = Field(min_length=1, description="a folder (the recipe's own folder is tried first), or a Hub id")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="what the weights are loaded as; `auto` keeps what is stored, and float16 crawls on a CPU",
    )
    quantize: Literal["int8"] | None = Field(
        None, description="`int8`: the linear layers of its blocks multiply in int8, through torchao"
    )
    cache: str | None = Field(
        None,
        min_length=1,
        description="a folder for the teacher's answers: it is asked once about each example, and read from there in "
        "every epoch and every later run",
    )
    cache_dtype: Literal["float32", "float16"] = Field("float32", description="of the numbers in that folder")
    cache_top_k: int | None = Field(
        None,
        ge=1,
        description="keep so many of the largest logits of each example there, and the others as one class; for many "
        "classes, and losses that are divergences between softmaxes",
    )
    label_map: Literal["by_name"] | None = Field(
        None,
        description="`by_name` reorders the teacher's logits where the two order the same labels differently",
    )
    text: str | None = Field(
        None,
        min_length=1,
        description="the column that it reads, by its own tokenizer, where that is another than the student's: the "
        "same text in another language, for example (`OtherView`)",
    )
    also: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="further models, for a kind that puts several together: folders or Hub ids"
    )
    kind: NamedSpec | None = Field(
        None, description="what is made of the model before it teaches: `{name: NoisyTeacher, sigma: 0.1}`"
    )


class StudentSpec(_Part):
    """Who learns: `{from: teacher, ...}` is made of the teacher's weights, `{model: ...}` is loaded. Exactly one."""

    from_: Literal["teacher"] | None = Field(None, alias="from", description="`teacher`: copy from the teacher")
    model: str | None = Field(None, min_length=1, description="a folder or a Hub id, with its own tokenizer")
    architecture: Literal["distilbert"] | None = Field(
        None, description="with `from`: another family to map the weights into; none keeps the teacher's"
    )
    layers: Layers | None = Field(
        None, description="with `from`: which blocks to keep, counted from 0, or how many; none keeps all"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "StudentSpec":
        if (self.from_ is None) == (self.model is None):
            raise ValueError(
                "says neither 'from' nor 'model'" if self.model is None else "says both 'from' and 'model'"
            )
        for name in ("architecture", "layers"):
            if self.model is not None and getattr(self, name) is not None:
                raise ValueError(f"'{name}' goes with 'from: teacher'; a student that is loaded has its own")
        return self


class DatasetSpec(_Part):
    """What is learned from. `hf_distill.data` reads it."""

    path: str = Field(
        min_length=1,
        description="a file, a glob or a folder of tsv, csv, json, jsonl or parquet files (looked for in the recipe's "
        "folder, then in the current one), or a Hub id. Files named train, dev or validation, and test are the splits",
    )
    name: str | None = Field(None, description="the Hub data set's configuration")
    text: str = Field("text", description="the column of texts")
    text_pair: str | None = Field(None, description="the column of second texts")
    labels: str | None = Field("labels", description="the column of labels; null where there are none")
    columns: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="the columns' names, for tsv and csv files without a header"
    )
    label_names: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        None, description="what label ids mean: names in order, or a text file with one a line; none asks the data"
    )
    train_split: str | None = Field(None, description="the training split, where it is not called train")
    eval_split: str | None = Field(
        None, description="the validation split, where it is not called validation, dev or val"
    )
    test_split: str | None = Field(None, description="the test split, where it is not called test")
    eval_fraction: float = Field(
        0.1, ge=0, lt=1, description="how much of train is held out without a validation split"
    )
    max_length: int | None = Field(
        None, ge=1, description="cut texts to so many tokens; none takes the tokenizer's limit"
    )
    max_train_rows: int | None = Field(None, ge=1, description="take so many training rows, drawn with a fixed seed")
    max_eval_rows: int | None = Field(None, ge=1, description="take so many validation and test rows, likewise")
    license: str | None = Field(None, description="for the model card")
    id: str | None = Field(None, description="the Hub id that the model card names, where `path` is a local copy")


class LossSpec(NamedSpec):
    """One loss: its class in `hf_distill.losses`, and the class's arguments (`weight` is one) by their own names."""

    name: str = Field(
        min_length=1, description="a class in `hf_distill.losses`; a dotted path where custom code is allowed"
    )


class PushSpec(_Part):
    """Where the finished student goes on the Hub."""

    repo_id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="`name` or `owner/name`")
    private: Truth = Field(False, description="whether only its owner sees it")


class Recipe(_Part):
    """A checked recipe. Made by `load`; a model of one's own is `Recipe(teacher={"model": ...}, ...)`."""

    task: Literal["multi_label", "single_label", "regression"] | None = Field(
        None, description="what kind of problem; none asks the teacher"
    )
    teacher: TeacherSpec
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
            RecipeError: the name is written like a path, and there is nothing there; or the student is made
                `from: teacher`.
        """
        name = self.teacher.model if role == "teacher" else self.student.model
        key: Key = (role, "model") if index is None else (role, "also", index)
        if index is not None:
            name = (self.teacher.also or [])[index]
        if name is None:
            raise self._origin.error([((role,), "student is made from the teacher and has no model of its own")])
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
        allow_custom_code: whether a loss may be a dotted path, whose module is then imported.
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
    problems += arranged.problems_of(data.get("scheme"), arranged.schemes, ("scheme",))
    if isinstance(data.get("teacher"), dict):
        problems += arranged.problems_of(data["teacher"].get("kind"), arranged.teacher_kinds, ("teacher", "kind"))
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


def build_teacher_kind(recipe: Recipe) -> tuple[Callable[..., Any], str] | None:
    """The kind of teacher of a recipe, and what it is to be called with: `teacher`, `teachers` or `student`.

    Returns:
        None where it names none.
    """
    if recipe.teacher.kind is None:
        return None
    spec = recipe.teacher.kind
    called, knobs = arranged.built(spec.name, spec.arguments, arranged.teacher_kinds, ("teacher", "kind"))
    return functools.partial(called, **knobs), str(arranged.made_of(called))
