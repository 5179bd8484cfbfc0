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

import dataclasses
import difflib
import enum
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError, model_validator
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from hf_distill.yaml_lines import Dumper, Key, Origin, Problem, RecipeError, is_secret, name_of, override, read, show


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


Truth = Annotated[bool, Field(strict=False)]  # YAML 1.2 reads `yes` as a word; people mean true
Layers = Annotated[list[int], Field(min_length=1)] | Annotated[int, Field(ge=1)]


class TeacherSpec(_Part):
    """Who teaches."""

    model: str = Field(min_length=1, description="a folder (the recipe's own folder is tried first), or a Hub id")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="what the weights are loaded as; `auto` keeps what is stored, and float16 crawls on a CPU",
    )
    label_map: Literal["by_name"] | None = Field(
        None,
        description="`by_name` reorders the teacher's logits where the two order the same labels differently",
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


class LossSpec(_Part):
    """One loss: its class in `hf_distill.losses`, and the class's arguments (`weight` is one) by their own names."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(
        min_length=1, description="a class in `hf_distill.losses`; a dotted path where custom code is allowed"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is called with, as written."""
        return dict(self.model_extra or {})


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

    def model_path(self, role: Literal["teacher", "student"]) -> str:
        """The teacher's or the student's `model` as a folder that exists, or else as the Hub id that it must be.

        Raises:
            RecipeError: the name is written like a path, and there is nothing there; or the student is made
                `from: teacher`.
        """
        name = self.teacher.model if role == "teacher" else self.student.model
        if name is None:
            raise self._origin.error([((role,), "student is made from the teacher and has no model of its own")])
        for candidate in (self.folder / Path(name).expanduser(), Path(name).expanduser()):
            if candidate.exists():
                return str(candidate)
        if _looks_local(name):
            message = f"{role}.model: nothing at '{name}' (looked in '{self.folder}', then in the current folder)"
            raise self._origin.error([((role, "model"), message)])
        return name


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
        data["train"], found = _checked_train(data["train"], config_class or _config_class())
        problems += found
    if isinstance(data.get("losses"), list):
        problems += _losses_problems(data["losses"], origin, allow_custom_code, catalogue)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems += _explain(error, data)
    if problems:
        raise origin.error(problems)
    recipe._origin = origin
    return recipe


_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "warmup_ratio": "warmup_steps, which takes a fraction below 1",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
}
_EXPECTED = {
    "model_type": "a map (key: value)",
    "dict_type": "a map (key: value)",
    "mapping_type": "a map (key: value)",
    "list_type": "a list",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
    "too_short": "at least one entry",
    "string_too_short": "some text",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
}


def _config_class() -> type:
    from hf_distill.config import DistillationConfig

    found: type = DistillationConfig  # a dataclass that a type checker may not see through
    return found


def _checked_train(train: dict[str, Any], config_class: type) -> tuple[dict[str, Any], list[Problem]]:
    """The values converted to the types of the dataclass's fields, and what is wrong with them."""
    hints = typing.get_type_hints(config_class)
    known = [entry.name for entry in dataclasses.fields(config_class) if entry.init]
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in train.items():
        key: Key = ("train", name)
        if name not in known:
            problems.append((key, f"unknown key '{name}' in train{_renamed(name) or _did_you_mean(name, known)}"))
        elif is_secret(name):
            cure = "log in with `hf auth login` or set HF_TOKEN"
            problems.append((key, f"train.{name}: a recipe is saved beside the model, so it holds no secret; {cure}"))
        else:
            converted[name], found = _converted(value, hints.get(name, Any), key)
            problems += found
    return converted, problems


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
            loss_class = _loss_class(spec.name, origin.folder, allow_custom_code, catalogue)
            arguments, found = _checked_arguments(loss_class, spec.arguments, key)
            problems += found
            if not found:
                losses.append(loss_class(**arguments))
        except _Refused as error:
            problems.append(((*key, "name"), f"losses[{index}]: {error}"))
        except (TypeError, ValueError) as error:
            problems.append((key, f"losses[{index}] ({spec.name}): {' '.join(str(error).split())}"))
    if problems:
        raise origin.error(problems)
    return losses


class _Refused(Exception):
    """Why a name is no loss class."""


def _losses_problems(
    losses: list[Any], origin: Origin, allow_custom_code: bool, catalogue: types.ModuleType | None
) -> list[Problem]:
    problems: list[Problem] = []
    for index, loss in enumerate(losses):
        if not isinstance(loss, dict) or not isinstance(loss.get("name"), str):
            continue  # pydantic says so
        key: Key = ("losses", index)
        try:
            loss_class = _loss_class(loss["name"], origin.folder, allow_custom_code, catalogue)
        except _Refused as error:
            problems.append(((*key, "name"), f"losses[{index}]: {error}"))
            continue
        arguments = {name: value for name, value in loss.items() if name != "name"}
        problems += _checked_arguments(loss_class, arguments, key)[1]
    return problems


def _loss_class(name: str, folder: Path, allow_custom_code: bool, catalogue: types.ModuleType | None) -> type:
    catalogue = catalogue or importlib.import_module("hf_distill.losses")
    base: type = catalogue.Loss
    if "." in name:
        if not allow_custom_code:
            raise _Refused(f"'{name}' is code outside the catalogue; pass --allow-custom-code to run it")
        return _custom_class(name, folder, base)
    classes = {
        key: value
        for key, value in vars(catalogue).items()
        if isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value) and value is not base
    }
    if name not in classes:
        raise _Refused(f"there is no loss '{name}'{_did_you_mean(name, classes)}")
    return classes[name]


def _custom_class(name: str, folder: Path, base: type) -> type:
    module_name, _, attribute = name.rpartition(".")
    try:
        with _importable(folder):
            module = importlib.import_module(module_name)
    except Exception as error:  # the user's own module, which may raise anything
        raise _Refused(f"'{module_name}' cannot be imported: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = "nothing" if found is None else show(found)
        raise _Refused(f"'{name}' is {what}; expected a subclass of hf_distill.losses.Loss")
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules beside the recipe and in the current folder can be imported, as under `python script.py`."""
    added = [str(folder.resolve()), str(Path.cwd())]
    sys.path.extend(added)  # at the end: a file here never hides an installed package
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)


def _checked_arguments(loss_class: type, arguments: dict[str, Any], key: Key) -> tuple[dict[str, Any], list[Problem]]:
    """Arguments converted to what the constructor's annotations say, and what is wrong with them."""
    place = f"losses[{key[1]}] ({loss_class.__name__})"
    parameters = inspect.signature(loss_class).parameters
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    hints = _hints(loss_class)
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in arguments.items():
        if name in named:
            converted[name], found = _converted(value, hints.get(name, Any), (*key, name))
            problems += found
        elif open_ended:
            converted[name] = value
        else:
            problems.append(((*key, name), f"unknown key '{name}' in {place}{_did_you_mean(name, named)}"))
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in arguments:
            problems.append((key, f"'{name}' is missing in {place}"))
    return converted, problems


def _hints(loss_class: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(loss_class.__init__)  # type: ignore[misc]
    except Exception:  # annotations that only a type checker can resolve are not checked here
        return {}


def _converted(value: Any, hint: Any, key: Key) -> tuple[Any, list[Problem]]:
    """The value as the type that an annotation names. What pydantic cannot check is taken as it is."""
    name = name_of(key)
    choices = _choices(hint)
    if isinstance(value, str) and choices and value not in choices:
        expected = f"one of {', '.join(choices)}" if len(choices) <= 12 else f"one of {len(choices)} names"
        return value, [
            (key, f"{name}: expected {expected}, found {show(value)}{_did_you_mean(value, choices, False)}")
        ]
    try:
        adapter = TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value, []
    try:
        result = adapter.validate_python(value)
    except ValidationError as error:
        return value, _explain(error, value, key)
    # pydantic takes True for 1; a yes where a number belongs is a slip.
    if isinstance(value, bool) and not isinstance(result, bool):
        return value, [(key, f"{name}: expected a number, found {show(value)}")]
    whole = isinstance(result, float) and isinstance(value, int)
    return value if whole else result, []  # 3 epochs stay 3, as they were written


def _choices(hint: Any) -> list[str]:
    """The values of the enum in an annotation like `IntervalStrategy | str`, by which any text would pass."""
    for part in typing.get_args(hint) or (hint,):
        if isinstance(part, type) and issubclass(part, enum.Enum) and issubclass(part, str):
            return [member.value for member in part]
    return []


_MODELS: dict[Key, type[BaseModel]] = {
    (): Recipe,
    ("teacher",): TeacherSpec,
    ("student",): StudentSpec,
    ("dataset",): DatasetSpec,
    ("push",): PushSpec,
}


def _explain(error: ValidationError, data: Any, base: Key = ()) -> list[Problem]:
    """pydantic's errors as problems: alternatives of a union become one `expected A or B`."""
    expected: dict[Key, list[str]] = {}
    found: dict[Key, Any] = {}
    problems: list[Problem] = []
    for entry in error.errors(include_url=False):
        key = _inside(entry["loc"], data, entry["type"] == "missing")
        if entry["type"] in ("extra_forbidden", "invalid_key"):
            parent, name = key[:-1], str(key[-1])
            known = [info.alias or known for known, info in _MODELS.get(parent, LossSpec).model_fields.items()]
            problems.append(
                (base + key, f"unknown key '{name}' in {name_of(parent) or 'the recipe'}{_did_you_mean(name, known)}")
            )
        elif entry["type"] == "missing":
            place = name_of(base + key[:-1]) or "the recipe"
            problems.append((base + key[:-1], f"'{key[-1]}' is missing in {place}"))
        elif entry["type"] == "value_error":
            problems.append((base + key, f"{name_of(base + key)} {entry['ctx']['error']}"))
        else:
            expected.setdefault(key, []).append(_expected(entry))
            found[key] = entry["input"]
    for key, wanted in expected.items():
        if any(other != key and other[: len(key)] == key for other in expected):
            continue  # a list with one wrong item: the item says it, "expected a list or a number" would mislead
        text = f"{name_of(base + key)}: expected {' or '.join(dict.fromkeys(wanted))}, found {show(found[key])}"
        choices = [choice for one in wanted for choice in re.findall(r"'([^']*)'", one)]
        problems.append((base + key, text + _did_you_mean(found[key], choices, False)))
    return problems


def _inside(location: tuple[str | int, ...], data: Any, keep_last: bool) -> Key:
    """The part of pydantic's location that is in the data; the rest names the branches of a union."""
    key: list[str | int] = []
    for depth, part in enumerate(location):
        if isinstance(data, list):
            names: list[Any] = [part] if isinstance(part, int) and part < len(data) else []
        else:  # pydantic writes a key that is a number as text
            names = [name for name in data if str(name) == str(part)] if isinstance(data, dict) else []
        if names:
            data = data[names[0]]
            key.append(names[0])
        elif keep_last and depth == len(location) - 1:
            key.append(part)
    return tuple(key)


def _expected(entry: Any) -> str:
    if entry["type"] in _EXPECTED:
        return _EXPECTED[entry["type"]].format_map(entry.get("ctx", {}))
    return str(entry["msg"]).replace("Input should be ", "").replace("should ", "to ")


def _did_you_mean(name: Any, known: Iterable[str], or_list: bool = True) -> str:
    known = list(known)
    if isinstance(name, str):
        lowered = {entry.lower(): entry for entry in known}
        close = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.6)
        if close:
            return f"; did you mean '{lowered[close[0]]}'?"
    return f"; known: {', '.join(known)}" if or_list and known and len(known) <= 40 else ""


def _renamed(name: Any) -> str:
    return f"; transformers 5 calls it {_RENAMED[name]}" if name in _RENAMED else ""


def _looks_local(name: str) -> bool:
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1


def dump(recipe: Recipe) -> str:
    """The recipe as YAML that `load` reads back as an equal recipe, to be saved beside the model.

    A path that is absolute, or starts in a home folder, is reduced to its last name, so that nothing of this machine
    is in the file; relative paths are kept as they were written. What was left to its default stays left out.
    """
    data = recipe.model_dump(by_alias=True, exclude_unset=True)
    if recipe.train:
        data["train"] = recipe.train
    for part, name in (("teacher", "model"), ("student", "model"), ("dataset", "path"), ("dataset", "label_names")):
        if isinstance(data[part].get(name), str):
            data[part][name] = _reduced(data[part][name])
    for part in ("train", "losses"):
        if data.get(part) is not None:
            data[part] = _reduced(data[part])
    return yaml.dump(_basic(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)


def _reduced(value: Any) -> Any:
    """Absolute paths in a value, however deep, as their last names."""
    if isinstance(value, Mapping):
        return {name: _reduced(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_reduced(entry) for entry in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    path = value.removeprefix("file://")
    windows = PureWindowsPath(path)
    if windows.drive:
        return windows.name
    if path.startswith(("/", "~")):
        return PurePosixPath(path).name
    return value


def _basic(value: Any) -> Any:
    """What YAML can say without tags."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _basic(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {name: _basic(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_basic(entry) for entry in value]
    return value
