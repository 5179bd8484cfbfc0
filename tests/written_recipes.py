"""A good recipe, the stand-ins for the classes that it names, and what is said of one that is not good."""

import dataclasses
import enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hf_distill.recipe import RecipeError, load


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


def refusal(path: str, *overrides: str, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load(path, overrides, **{**STAND_INS, **options})
    assert str(caught.value) == "\n".join(caught.value.problems)
    return str(caught.value)


def write(text: str) -> str:
    """The recipe as a file in the current folder."""
    Path("recipe.yaml").write_text(text, encoding="utf-8")
    return "recipe.yaml"


def assert_refused(old: str, new: str, line: str) -> None:
    """The good recipe with one thing replaced is refused, with this line and file in one of its problems."""
    assert old in GOOD
    message = refusal(write(GOOD.replace(old, new, 1)))
    assert any(found.startswith(f"recipe.yaml:{line}") for found in message.split("\n")), message
    assert all(found.startswith("recipe.yaml:") for found in message.split("\n")), message
    assert "s3cret" not in message
