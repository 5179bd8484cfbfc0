"""What a subclass, a callback or a second trainer may do."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import collate, rows, student, teacher, trainer_of, weights_of
from models import tiny
from transformers import TrainerCallback

from hf_distill import DistillationTrainer
from hf_distill.batch import Batch
from hf_distill.losses import AttentionKL, HiddenMSE, Sobolev, SoftTargets, SortedLogits, TaskLoss
from hf_distill.signals import LOGITS
from hf_distill.teachers import ModelTeacher, Teacher


class PassesNothingOn(DistillationTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        return super().compute_loss(model, inputs, return_outputs)


class AddsAMean(DistillationTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        loss = loss + 0.25
        return (loss, outputs) if return_outputs else loss


class OwnLoss(DistillationTrainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        loss = logits.square().mean()
        return (loss, {"logits": logits}) if return_outputs else loss


@pytest.mark.parametrize("kind", [PassesNothingOn, AddsAMean, OwnLoss])
def test_a_subclass_may_compute_the_loss_as_in_any_trainer(tmp_path: Path, kind: type[DistillationTrainer]) -> None:
    """The same curve for 1 x 8 and 4 x 2 accumulated; mean terms are means, not sums over micro-batches."""
    runs = []
    for batch, accumulation in ((8, 1), (2, 4)):
        layout = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        trainer = trainer_of(tmp_path, [SoftTargets()], kind=kind, **layout)
        trainer.train()
        runs.append([(logs["loss"], logs["grad_norm"]) for logs in trainer.state.log_history if "loss" in logs])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    plain = trainer_of(tmp_path, [SoftTargets()], per_device_train_batch_size=8)
    plain.train()
    first = next(logs["loss"] for logs in plain.state.log_history if "loss" in logs)
    extra = {PassesNothingOn: 0.0, AddsAMean: 0.25}
    if kind in extra:
        assert runs[0][0][0] == pytest.approx(first + extra[kind], rel=1e-5)


def test_a_callback_may_compute_a_loss_and_the_log_stays_clean(tmp_path: Path) -> None:
    class Curious(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            trainer.compute_loss(model, collate(list(rows(2))))

    trainer = trainer_of(tmp_path, [SoftTargets(), TaskLoss()], max_steps=2)
    trainer.add_callback(Curious())
    trainer.train()
    for logs in (each for each in trainer.state.log_history if "loss" in each):
        assert logs["soft_targets"] + logs["task_loss"] == pytest.approx(logs["loss"], rel=1e-5)


def test_the_best_by_a_term_is_the_smallest(tmp_path: Path) -> None:
    trainer = trainer_of(
        tmp_path,
        [SoftTargets()],
        metric_for_best_model="soft_targets",
        load_best_model_at_end=True,
        eval_strategy="epoch",
        save_strategy="epoch",
    )
    trainer.train()
    seen = [logs["eval_soft_targets"] for logs in trainer.state.log_history if "eval_soft_targets" in logs]
    assert trainer.state.best_metric == min(seen) < max(seen)


def test_an_optimizer_that_forgets_projections_is_refused(tmp_path: Path) -> None:
    model = student()
    mine = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(ValueError, match=r"does not hold losses.hidden_mse.projections.0.weight of the losses"):
        trainer_of(tmp_path, [HiddenMSE()], model, others={"optimizers": (mine, None)})
    trainer_of(tmp_path, [SoftTargets()], model, others={"optimizers": (mine, None)}).train()


def test_one_list_of_losses_serves_two_trainers(tmp_path: Path) -> None:
    losses = [HiddenMSE()]
    first = trainer_of(tmp_path, losses, max_steps=1)
    kept = weights_of(first)
    second = trainer_of(tmp_path, losses, student(hidden_size=32), max_steps=1)
    assert all(torch.equal(value, kept[name]) for name, value in weights_of(first).items())
    first.train()
    second.train()


def test_a_teacher_without_a_head_teaches_hidden_states_to_a_classifier(tmp_path: Path) -> None:
    headless = {"teacher": tiny("bert", seed=1)}
    trainer = trainer_of(tmp_path, [TaskLoss(), HiddenMSE()], others=headless, max_steps=1)
    trainer.train()
    assert "eval_agreement" not in trainer.evaluate()
    with pytest.raises(ValueError, match="the losses look at the teacher's answers, and BertModel has no head"):
        trainer_of(tmp_path, [SoftTargets()], others=headless)


def test_what_the_teacher_says_on_padding_may_be_anything(tmp_path: Path) -> None:
    class Odd(ModelTeacher):
        def observe(self, batch: Batch) -> Any:
            seen = super().observe(batch)
            padded = batch.inputs["attention_mask"] == 0
            return {**seen, LOGITS: seen[LOGITS].masked_fill(padded[..., None], float("nan"))}

    trainer = trainer_of(tmp_path, [SoftTargets()], head="tokens", others={"teacher": Odd(teacher("tokens"))})
    trainer.train()
    assert all(math.isfinite(logs["loss"]) for logs in trainer.state.log_history if "loss" in logs)


def test_after_training_the_student_is_plain(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [HiddenMSE()], max_steps=2)
    trainer.train()
    assert trainer.model.state_dict().keys() == student().state_dict().keys()
    before = trainer.evaluate()
    assert before["eval_hidden_mse"] == trainer.evaluate()["eval_hidden_mse"]


def test_attention_that_backward_would_compute_otherwise_is_refused(tmp_path: Path) -> None:
    eager = student()
    eager.set_attn_implementation("eager")
    trainer_of(tmp_path, [AttentionKL()], eager, max_steps=1).train()
    with pytest.raises(ValueError, match=r'runs eager attention, which is not recorded, .*\("sdpa"\)'):
        trainer_of(tmp_path, [AttentionKL()], eager, max_steps=1, activation_checkpointing=True).train()


@pytest.mark.parametrize("switch", ["activation_checkpointing", "torch_compile"])
def test_second_derivatives_of_what_has_none_are_refused(tmp_path: Path, switch: str) -> None:
    wide = student(hidden_size=32)
    with pytest.raises(ValueError, match=f"differentiated again.*Turn {switch} off"):
        trainer_of(tmp_path, [Sobolev()], wide, max_steps=1, torch_compile_backend="eager", **{switch: True}).train()


def test_a_teacher_of_other_classes_teaches_their_sorted_probabilities(tmp_path: Path) -> None:
    class Elsewhere(Teacher):
        """Another model behind a wall: seven classes, no shape."""

        def observe(self, batch: Batch) -> Any:
            answers = torch.nn.functional.one_hot(batch.inputs["input_ids"][:, 0] % 7, 7)
            return {LOGITS: answers * 3.0}

    others = {"teacher": Elsewhere()}
    trainer = trainer_of(tmp_path, [SortedLogits()], head="one label", others=others, learning_rate=1.0)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_sorted_logits"] < before["eval_sorted_logits"]
    assert "eval_agreement" not in after
    with pytest.raises(ValueError, match=r"the student's logits is \(8, 3\), the teacher's \(8, 7\)"):
        trainer_of(tmp_path, [SoftTargets()], head="one label", others=others).train()
