"""Weights that change while the student trains: schedules, and the balance of gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import collate, rows, student, trainer_of, weights_of
from safetensors.torch import load_file

from hf_distill import DistillationTrainer, anatomy
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss, linear


def test_a_schedule_follows_the_training_and_is_logged(tmp_path: Path) -> None:
    def run(**more: Any) -> DistillationTrainer:
        losses = [SoftTargets(weight=linear(1.0, 0.0)), TaskLoss(weight=lambda progress: progress)]
        return trainer_of(tmp_path, losses, max_steps=4, per_device_train_batch_size=4, **more)

    trainer = run(save_strategy="steps", save_steps=2)
    trainer.train()
    logs = [each for each in trainer.state.log_history if "loss" in each]
    assert [each["soft_targets_weight"] for each in logs] == [1.0, 0.75, 0.5, 0.25]
    assert [each["task_loss_weight"] for each in logs] == [0.0, 0.25, 0.5, 0.75]
    assert logs[0]["task_loss"] == 0
    for each in logs:
        assert each["soft_targets"] + each["task_loss"] == pytest.approx(each["loss"], rel=1e-5)
    again = run()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(value, weights_of(trainer)[name]) for name, value in weights_of(again).items())


@pytest.mark.parametrize("settings", [{}, {"activation_checkpointing": True}, {"bf16": True}])
def test_balance_gives_gradients_the_ratio_of_the_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    """All 16 rows in one batch and a student that stands still: what was measured can be measured again."""
    losses = [SoftTargets(weight=3.0), HiddenMSE(weight=1.0)]
    still = {"max_steps": 3, "learning_rate": 0.0, "per_device_train_batch_size": 16}
    trainer = trainer_of(tmp_path, losses, balance="gradient_norm", balance_every=2, **still, **settings)
    trainer.train()
    logs = [each for each in trainer.state.log_history if "loss" in each]
    weights = [[each[f"{loss.name}_weight"] for loss in losses] for each in logs]
    assert weights[0] == weights[1] == pytest.approx(weights[2])
    assert weights[0] != [3.0, 1.0]
    pulls = []
    for loss in losses:
        single = trainer_of(tmp_path, [loss], max_steps=1)
        kept = {name: trainer.objective.state_dict()[name] for name in single.objective.state_dict()}
        single.objective.load_state_dict(kept)
        single.model.train()
        single.compute_loss(single.model, collate(list(rows(16)))).backward()
        block = anatomy.find_blocks(single.model)[-1]
        pulls.append(sum(float(each.grad.square().sum()) for each in block.parameters()) ** 0.5)
    by = trainer.objective.multipliers.tolist()
    close = 0.05 if settings.get("bf16") else 1e-4
    assert by[0] * pulls[0] == pytest.approx(3 * by[1] * pulls[1], rel=close)
    assert by[0] * pulls[0] + by[1] * pulls[1] == pytest.approx(sum(pulls), rel=close)


def test_balance_comes_back_with_a_checkpoint(tmp_path: Path) -> None:
    def run(**more: Any) -> DistillationTrainer:
        return trainer_of(
            tmp_path, [SoftTargets(), HiddenMSE()], balance="gradient_norm", balance_every=3, max_steps=4, **more
        )

    whole = run(save_strategy="steps", save_steps=2)
    whole.train()
    part = run()
    part.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert all(torch.equal(value, weights_of(whole)[name]) for name, value in weights_of(part).items())
    assert "multipliers" in load_file(tmp_path / "checkpoint-2" / "objective.safetensors")


def test_balance_of_terms_that_share_no_layer_is_refused(tmp_path: Path) -> None:
    losses = [SoftTargets(), HiddenMSE({"embeddings": "embeddings"})]
    trainer_of(tmp_path, losses, balance="gradient_norm", max_steps=1).train()  # both reach the embeddings
    frozen = student()
    frozen.get_input_embeddings().requires_grad_(False)
    with pytest.raises(ValueError, match=r"have none in common. Leave balance out"):
        trainer_of(tmp_path, losses, frozen, balance="gradient_norm", max_steps=1).train()
