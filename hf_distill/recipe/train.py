"""The parts of a recipe that are fields of a config class: `train` and `student.lora`, converted to their types."""

import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from hf_distill.recipe.conversion import convert
from hf_distill.recipe.did_you_mean import did_you_mean
from hf_distill.recipe.yaml_lines import Key, Problem, is_secret

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "group_by_length": "train_sampling_strategy: group_by_length",
    "warmup_ratio": "warmup_steps, which takes a fraction below 1",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
}
_SHORT = {"rank": "r", "alpha": "lora_alpha", "dropout": "lora_dropout"}
_OURS = ("task_type", "inference_mode", "peft_type", "base_model_name_or_path", "auto_mapping", "peft_version")


def checked_train(train: dict[str, Any], config_class: type) -> tuple[dict[str, Any], list[Problem]]:
    """The values converted to the types of the dataclass's fields, and what is wrong with them."""
    converted, problems = _checked(train, config_class, ("train",))
    for name in filter(is_secret, converted):
        cure = "log in with `hf auth login` or set HF_TOKEN"
        text = f"train.{name}: a recipe is saved beside the model, so it holds no secret; {cure}"
        problems.append((("train", name), text))
    return converted, problems


def checked_lora(lora: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The same for fields of PEFT's `LoraConfig`."""
    from peft import LoraConfig  # with torch

    return _checked(lora, LoraConfig, ("student", "lora"), leave_out=_OURS)


def _checked(
    values: dict[str, Any], config_class: type, part: Key, leave_out: Collection[str] = ()
) -> tuple[dict[str, Any], list[Problem]]:
    hints = typing.get_type_hints(config_class)
    known = [entry.name for entry in dataclasses.fields(config_class) if entry.init and entry.name not in leave_out]
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in values.items():
        key: Key = (*part, name)
        if name in known:
            converted[name], found = convert(value, hints.get(name, Any), key)
            problems += found
        else:
            hint = _renamed(name, part) or did_you_mean(name, known)
            problems.append((key, f"unknown key '{name}' in {'.'.join(map(str, part))}{hint}"))
    return converted, problems


def _renamed(name: Any, part: Key) -> str:
    whose, names = ("transformers 5", _RENAMED) if part == ("train",) else ("PEFT", _SHORT)
    return f"; {whose} calls it {names[name]}" if name in names else ""
