"""Killed in the middle of an epoch, resumed, and bit for bit the run that was left alone. Dropout is on."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import LABELS, rows, student, trainer_of, weights_of
from models import tiny
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from hf_distill import DistillationTrainer, attachment
from hf_distill.losses import HiddenCosine, HiddenMSE, RKDDistance, SoftTargets, TaskLoss

SCHEDULE = {
    "optim": "adamw_torch",
    "lr_scheduler_type": "linear",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,  # of 6 steps
    "save_strategy": "steps",
    "save_steps": 4,
}
KILLED = """
import sys
from pathlib import Path

from test_resume import KillAt, dropping

dropping(Path(sys.argv[1]), logging_steps=3, others={"callbacks": [KillAt(11)]}).train()
"""


class KillAt(TrainerCallback):
    """SIGKILL, as one who looks after memory sends it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class StopAt(KillAt):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def adapters() -> LoraConfig:
    return LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.1)


def dropping(folder: Path, peft: str | None = None, model: Any = None, **settings: Any) -> DistillationTrainer:
    """A student with dropout and projections, and a schedule that ends in the middle of nothing."""
    model = student(hidden_dropout_prob=0.1) if model is None else model
    if peft == "model":
        torch.manual_seed(0)
        model = get_peft_model(model, adapters())
    others = {"peft_config": adapters()} if peft == "config" else {}
    others |= settings.pop("others", {})
    losses = [HiddenMSE(), SoftTargets(), TaskLoss(), HiddenCosine("last")]
    return trainer_of(folder, losses, model, train=rows(24), others=others, **{**SCHEDULE, **settings})


def identical(found: Path, expected: Path) -> None:
    """Every file of weights in two checkpoints, byte for byte."""
    names = sorted(file.name for file in expected.glob("*.safetensors"))
    assert "objective.safetensors" in names
    assert len(names) == 2
    assert sorted(file.name for file in found.glob("*.safetensors")) == names
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, float]]]:
    """The run that is left alone: its folder and what it logged, step by step."""
    folder = tmp_path_factory.mktemp("alone")
    trainer = dropping(folder)
    start = weights_of(trainer)
    trainer.train()
    assert not any(torch.equal(value, start[name]) for name, value in weights_of(trainer).items() if "word" in name)
    return folder, trainer.state.log_history[:-1]


def test_killed_in_the_middle_of_an_epoch(tmp_path: Path, alone: tuple[Path, list[dict[str, float]]]) -> None:
    folder, steps = alone
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=os.environ | {"PYTHONPATH": paths}, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-8"]
    resumed = dropping(tmp_path, logging_steps=3)
    resumed.train(resume_from_checkpoint=True)
    identical(tmp_path / "checkpoint-12", folder / "checkpoint-12")
    for name, value in resumed.objective.state_dict().items():
        assert torch.equal(value, load_file(folder / "checkpoint-12" / "objective.safetensors")[name])

    # windows of three steps: of the first one only step 9 is new
    logs = [each for each in resumed.state.log_history if each["step"] > 8 and "loss" in each]
    assert [each["step"] for each in logs] == [9, 12]
    for name in ("loss", "hidden_mse", "soft_targets", "task_loss", "hidden_cosine"):
        assert logs[0][name] == pytest.approx(steps[8][name], rel=1e-5)
        assert logs[1][name] == pytest.approx(sum(each[name] for each in steps[9:]) / 3, rel=1e-5)


@pytest.mark.parametrize("peft", ["config", "model"])
def test_adapters_resume_with_their_projections(tmp_path: Path, peft: str) -> None:
    whole = dropping(tmp_path / "whole", peft)
    whole.train()
    dropping(tmp_path / "part", peft, others={"callbacks": [StopAt(9)]}).train()
    shutil.rmtree(tmp_path / "part" / "checkpoint-9", ignore_errors=True)
    resumed = dropping(tmp_path / "part", peft)
    resumed.train(resume_from_checkpoint=str(tmp_path / "part" / "checkpoint-8"))
    identical(tmp_path / "part" / "checkpoint-12", tmp_path / "whole" / "checkpoint-12")
    for name, value in weights_of(whole).items():
        assert torch.equal(weights_of(resumed)[name], value), name
    assert isinstance(resumed.model, PeftModel)
    assert any("lora_A" in name for name in load_file(tmp_path / "part" / "checkpoint-12/adapter_model.safetensors"))


def test_resumed_from_the_end_of_an_epoch_with_everything_on(tmp_path: Path) -> None:
    together = {
        "bf16": True,
        "activation_checkpointing": True,
        "torch_compile": True,
        "torch_compile_backend": "eager",
        "eval_on_start": True,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_agreement",
        "greater_is_better": True,
    }
    whole = dropping(tmp_path / "whole", **together)
    whole.evaluate()
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-6", tmp_path / "part" / "checkpoint-6")
    resumed = dropping(tmp_path / "part", **together)
    resumed.train(resume_from_checkpoint=True)
    identical(tmp_path / "part" / "checkpoint-12", tmp_path / "whole" / "checkpoint-12")
    assert resumed.state.best_metric == whole.state.best_metric


def test_model_init_resumes(tmp_path: Path, alone: tuple[Path, list[dict[str, float]]]) -> None:
    def again() -> DistillationTrainer:
        losses = [HiddenMSE(), SoftTargets()]
        settings = {**SCHEDULE, "train": rows(24), "num_train_epochs": 1}
        init = {"model_init": lambda: student(hidden_dropout_prob=0.1)}
        return trainer_of(tmp_path, losses, others=init, **settings)

    whole, resumed = again(), again()
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(weights_of(resumed)[name], value) for name, value in weights_of(whole).items())


# What is refused


def checkpoint_in(alone: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(alone[0] / "checkpoint-8", tmp_path / "checkpoint-8"))


def test_a_checkpoint_without_its_objective_is_refused(tmp_path: Path, alone: tuple[Path, Any]) -> None:
    checkpoint = checkpoint_in(alone, tmp_path)
    (checkpoint / "objective.safetensors").unlink()
    trainer = dropping(tmp_path)
    with pytest.raises(ValueError, match=r"checkpoint-8 has no objective\.safetensors, .* losses\.hidden_mse"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("change", ["shape", "missing", "more"])
def test_a_checkpoint_of_another_objective_is_refused(tmp_path: Path, alone: tuple[Path, Any], change: str) -> None:
    checkpoint = checkpoint_in(alone, tmp_path)
    heads = load_file(checkpoint / "objective.safetensors")
    name = "losses.hidden_mse.projections.1.weight"
    if change == "shape":
        heads[name] = heads[name][:, :-1].contiguous()
    elif change == "missing":
        del heads[name]
    else:
        heads["losses.hidden_mse.projections.2.weight"] = heads[name].clone()
    save_file(heads, checkpoint / "objective.safetensors")
    with pytest.raises(ValueError, match=r"checkpoint-8/objective\.safetensors is of other losses.*projections\."):
        dropping(tmp_path).train(resume_from_checkpoint=True)


def test_a_checkpoint_with_projections_is_refused_by_losses_without(tmp_path: Path, alone: tuple[Path, Any]) -> None:
    checkpoint_in(alone, tmp_path)
    trainer = trainer_of(tmp_path, [RKDDistance()], student(), train=rows(24), **SCHEDULE)
    with pytest.raises(ValueError, match=r"objective\.safetensors is of other losses"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.parametrize("fields", [{"num_hidden_layers": 3}, {"intermediate_size": 20}])
def test_a_checkpoint_of_another_student_is_refused(
    tmp_path: Path, alone: tuple[Path, Any], fields: dict[str, int]
) -> None:
    checkpoint_in(alone, tmp_path)
    with pytest.raises(ValueError, match=r"the checkpoint checkpoint-8 does not hold this student: .*encoder"):
        dropping(tmp_path, model=student(**fields)).train(resume_from_checkpoint=True)


def test_names_on_disk_need_not_be_names_in_memory(tmp_path: Path) -> None:
    """A ViT is saved under other names than it has: the stock Trainer resumes with fresh weights, and only warns."""
    vit = tiny("vit", "ForImageClassification", num_labels=LABELS)
    names = vit.state_dict().keys()
    vit.save_pretrained(tmp_path / "checkpoint-1")
    on_disk = load_file(tmp_path / "checkpoint-1" / "model.safetensors").keys()
    assert on_disk != names
    other: PreTrainedModel = tiny("vit", "ForImageClassification", seed=3, num_labels=LABELS)
    attachment.reload(other, str(tmp_path / "checkpoint-1"))
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in other.state_dict().items())


def test_the_state_names_nothing_of_the_machinery(alone: tuple[Path, Any]) -> None:
    checkpoint = alone[0] / "checkpoint-8"
    assert {file.name for file in checkpoint.iterdir()} == {
        "config.json",
        "model.safetensors",
        "objective.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
    }
    assert json.loads((checkpoint / "config.json").read_text())["architectures"] == ["BertForSequenceClassification"]
