"""The student alone, in the same trainer."""

import pytest
import torch
from runs import classifier, distillation, exactly, rows, weights
from transformers import Trainer, TrainingArguments

from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.teachers import Nobody


def test_with_the_task_loss_it_is_the_stock_trainer(tmp_path):
    trainer = distillation(tmp_path, classifier(), Nobody(), [TaskLoss()], eval_dataset=rows())
    given = {name: getattr(trainer.args, name) for name in ("max_steps", "learning_rate", "logging_steps")}
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=4, use_cpu=True, report_to="none", **given)
    stock = Trainer(classifier(), args, train_dataset=rows())
    for each in (trainer, stock):
        each.train()
    for name, mine in weights(trainer.model).items():
        torch.testing.assert_close(mine, weights(stock.model)[name])
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in (trainer, stock)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    metrics = trainer.evaluate()
    assert metrics["eval_task_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-5)
    assert "eval_agreement" not in metrics


@pytest.mark.parametrize("losses", [None, [SoftTargets()]])
def test_losses_that_ask_a_teacher_are_refused(tmp_path, losses):
    message = "the losses ask a teacher for logits, and Nobody says nothing. Pass losses=[TaskLoss()]."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), Nobody(), losses)


def test_losses_on_layers_are_refused(tmp_path):
    message = "HiddenMSE needs the layers of a teacher model, and this teacher is not one. Leave it out."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), Nobody(), [HiddenMSE()])
