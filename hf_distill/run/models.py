"""The models that a recipe names: who teaches, and who learns."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import CONFIG_NAME, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from hf_distill import anatomy, data, students, teachers
from hf_distill import recipe as recipes
from hf_distill.tasks import PROBLEM_TYPES, Task, find_task
from hf_distill.teachers.cache import source as sources
from hf_distill.teachers.cache.manifest import Manifest, skeleton
from hf_distill.teachers.model import named


def has_no_weights(model: nn.Module) -> bool:
    """Whether a model is only known by its config, as a teacher whose answers are cached."""
    return any(parameter.is_meta for parameter in model.parameters())


def teacher_of(recipe: recipes.Recipe) -> PreTrainedModel:
    """Without its weights where a cache is known to be its own."""
    spec, source = recipe.teacher, recipe.model_path("teacher")
    plain = spec.quantize is None  # the files do not say so
    if spec.cache is not None and plain and sources.is_same(Path(spec.cache), source, spec.dtype, recipe.task):
        manifest = Manifest.read(Path(spec.cache))
        assert manifest is not None, "the cache is finished"
        return skeleton(manifest.fingerprint)
    try:
        return load_teacher(recipe)
    except ValueError as error:
        if spec.cache is None or Manifest.read(Path(spec.cache)) is None or sources.files_of(source):
            raise
        raise ValueError(
            f"teacher.model '{source}' is not on this machine. {spec.cache} holds a teacher's answers, and by its "
            f"config.json it is known whose: put that file in {source}; its weights may be gone."
        ) from error


def load_teacher(recipe: recipes.Recipe, index: int | None = None) -> PreTrainedModel:
    """The recipe's teacher, or one of its `also`."""
    dtype = recipe.teacher.dtype
    source = recipe.model_path("teacher", index)
    with named("teacher.model" if index is None else f"teacher.also[{index}]", source):
        teacher = teachers.load(source, "auto" if dtype == "auto" else getattr(torch, dtype))
    task = find_task(teacher)
    if recipe.task is not None and task.per_example:
        task = Task(recipe.task)
        teacher.config.problem_type = PROBLEM_TYPES[task]
    if not task.per_example:
        raise ValueError(f"recipes are for classifiers and regression, and the teacher solves {task}: use Python.")
    return teacher


def student_of(recipe: recipes.Recipe, like: PreTrainedModel) -> tuple[PreTrainedModel, list[str], str]:
    """The student, which of its weights are new, and where its tokenizer is.

    Args:
        recipe: from `recipe.load`.
        like: what has its task and labels: the teacher, or what `untaught` gives.
    """
    spec = recipe.student
    if spec.model is None:
        if has_no_weights(like):
            like = load_teacher(recipe)  # to be copied from, and not kept
        layers = students.spread(like, spec.layers) if isinstance(spec.layers, int) else spec.layers
        student = students.from_teacher(like, spec.architecture, layers)
        return student, list(student.copied.fresh), recipe.model_path("teacher")
    source = recipe.model_path("student")
    with named("student.model", source):
        student, found = students.load(source, like=like, output_loading_info=True)  # type: ignore[misc]
    return student, sorted(found["missing_keys"]), source


def untaught(recipe: recipes.Recipe, rows: DatasetDict, label_names: list[str] | None) -> PreTrainedModel:
    """A model without weights that has the task and the labels of a student where no model teaches.

    They are those of the student's own head, if its checkpoint has one; else the recipe's task, and the labels of the
    data.

    Raises:
        ValueError: nothing says what task it is, or the data has more labels than the head.
    """
    source = recipe.model_path("student")
    with named("student.model", source):
        config = AutoConfig.from_pretrained(source)
    has_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if not has_head and recipe.task is None:
        raise ValueError(f"student.model '{source}' has no head, and no teacher says what task it is. Add task.")
    if recipe.task is not None:
        config.problem_type = PROBLEM_TYPES[Task(recipe.task)]
    if not has_head:
        names = label_names or data.label_names_of(rows, str(recipe.task), recipe.dataset.labels or "labels")
        config.id2label = dict(enumerate(names))
        config.label2id = {name: number for number, name in enumerate(names)}
    with named("student.model", source), torch.device("meta"):
        like: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    if has_head and anatomy.named_labels(like) is None and recipe.dataset.labels is not None:
        names = label_names or data.label_names_of(rows, str(find_task(like)), recipe.dataset.labels)
        if len(names) > config.num_labels:
            raise ValueError(
                f"student.model '{source}' has a head for {config.num_labels} labels without names, and the data has "
                f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}. Take one without."
            )
    return like


def with_adapters(student: PreTrainedModel, lora: Mapping[str, Any], fresh: Iterable[str] = ()) -> PeftModel:
    """The student, of which low-rank adapters and the head learn.

    They are where PEFT has them by default, or at all linear layers of a family that it has no default for.

    Args:
        student: to be wrapped.
        lora: fields of `LoraConfig`, which win.
        fresh: weights that no training has seen: their modules learn whole, as the head does.

    Raises:
        ValueError: PEFT refuses it.
    """
    whole = {name.rpartition(".")[0] for name in fresh}
    whole |= {name for name, _ in student.named_modules() if name.endswith(("classifier", "score"))}  # as PEFT does
    settings: dict[str, Any] = {"task_type": "SEQ_CLS", "modules_to_save": sorted(whole)}
    if student.config.model_type not in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        settings["target_modules"] = "all-linear"
    try:
        return get_peft_model(student, LoraConfig(**(settings | dict(lora))))  # type: ignore[return-value]
    except Exception as error:  # it raises what it likes; the user needs the key and the reason
        raise ValueError(f"student.lora: {' '.join(str(error).split()) or type(error).__name__}") from error


def check_adapters(student: Any, checkpoint: Path) -> None:
    """Refuses to go on from a checkpoint whose student had other adapters, or none where this one has some.

    Raises:
        ValueError: names what differs.
    """
    file = checkpoint / CONFIG_NAME
    before = json.loads(file.read_text()) if file.exists() else {}
    now = student.active_peft_config.to_dict() if isinstance(student, PeftModel) else {}
    for name in ("r", "lora_alpha", "target_modules", "modules_to_save"):
        one, other = (
            str(sorted(each) if isinstance(each, list | set) else each) for each in (before.get(name), now.get(name))
        )
        if one != other:
            raise ValueError(
                f"{checkpoint} is of a student with adapters of {name}={one}, and this one has {name}={other}. Take "
                "the former student.lora, or start anew without --resume."
            )


def merged(student: Any) -> PreTrainedModel:
    """A student with its adapters merged into it, if it has any."""
    return student.merge_and_unload() if isinstance(student, PeftModel) else student  # type: ignore[no-any-return]


def longest(tokenizer: Any, *models: nn.Module) -> int | None:
    """How many tokens the tokenizer and all models take; None leaves it to the tokenizer."""
    positions = [number for number in map(anatomy.max_positions, models) if number is not None]
    return min([tokenizer.model_max_length, *positions]) if positions else None
