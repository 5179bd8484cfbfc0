"""The trainer with language models: heads that compute what counts, in every way a step may be made."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from models import VOCABULARY, inputs_of, tiny
from peft import LoraConfig
from runs import distillation, same, weights, words
from torch._dynamo.utils import counters

from hf_distill import DistillationTrainer
from hf_distill.heads import HeadLogits
from hf_distill.losses import HiddenMSE, LogitLoss, ReverseKL, SoftTargets, TaskLoss, fused
from hf_distill.objective import Objective
from hf_distill.teachers import CachedTeacher, ModelTeacher

HEADS = {"bert": "ForMaskedLM", "gpt2": "LMHeadModel", "t5": "ForConditionalGeneration"}


def rows(family: str, count: int = 16) -> Dataset:
    """Ragged, padded on the right, with a third of the labels; of the last four examples none."""
    model = tiny(family, HEADS[family])
    found = inputs_of(model, count, 20)
    drawn = torch.rand(found["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    labels = found["input_ids"].masked_fill((drawn > 0.3) | (found["attention_mask"] == 0), -100)
    labels[-4:] = -100
    return Dataset.from_dict({name: each.tolist() for name, each in (found | {"labels": labels}).items()})


def trained(folder, family: str, counted: bool, monkeypatch, losses=None, **settings):
    """Weights and log of a short run, and how often a head was fused."""
    calls = []

    def count(*args):
        calls.append(args)
        return apart(*args)

    apart = fused.terms_on_counted
    monkeypatch.setattr("hf_distill.objective.terms_on_counted", count)
    if not counted:
        monkeypatch.setattr(Objective, "reads_counted_only", property(lambda self: False))
    student, teacher = (tiny(family, HEADS[family], seed) for seed in (0, 1))
    trainer = distillation(folder, student, teacher, losses, rows(family), **settings)
    trainer.train()
    monkeypatch.undo()
    return trainer, weights(trainer.model), trainer.state.log_history, len(calls)


def agrees(found, plain, **tolerance) -> None:
    tolerance = tolerance or {"rtol": 1e-3, "atol": 1e-4}
    assert found[3] > 0
    assert plain[3] == 0
    torch.testing.assert_close(found[1], plain[1], **tolerance)
    for mine, theirs in zip(found[2], plain[2], strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine.keys() - {key for key in mine if "runtime" in key or "per_second" in key}:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-2, abs=1e-4), name


SETTINGS = {
    "accumulated": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "balanced": {"balance": "gradient_norm", "balance_every": 2},
    "checkpointed": {"activation_checkpointing": True},
}


@pytest.mark.parametrize("family", HEADS)
def test_a_run_is_the_same(tmp_path, monkeypatch, family):
    runs = [trained(tmp_path, family, counted, monkeypatch, learning_rate=1e-3) for counted in (True, False)]
    agrees(*runs)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_is_the_same_also(tmp_path, monkeypatch, name):
    losses = [TaskLoss(), SoftTargets(), ReverseKL(weight=0.2), HiddenMSE("last")]
    settings = {"learning_rate": 1e-3, "seed": 1, **SETTINGS[name]}
    found, plain = (trained(tmp_path, "bert", counted, monkeypatch, losses, **settings) for counted in (True, False))
    if name == "balanced":
        assert found[3] == 1  # of three steps the first and the third measure each term's own gradient
    agrees(found, plain)


def test_bfloat16_is_close_and_fused(tmp_path, monkeypatch):
    settings = {"bf16": True, "learning_rate": 1e-3}
    made = []
    whole = HeadLogits.whole
    monkeypatch.setattr(HeadLogits, "whole", lambda self: made.append(self) or whole(self))
    found, plain = (trained(tmp_path, "gpt2", counted, monkeypatch, **settings) for counted in (True, False))
    agrees(found, plain, rtol=0.02, atol=0.01)
    assert not made  # accelerate converts a model's answer to float32, and must not compute it for that


def test_adapters_are_trained(tmp_path, monkeypatch):
    settings = {"peft_config": LoraConfig(target_modules=["c_attn"], r=2), "learning_rate": 1e-2}
    found, plain = (trained(tmp_path, "gpt2", counted, monkeypatch, **settings) for counted in (True, False))
    agrees(found, plain)


def test_compiled_formulas_give_the_same_and_are_compiled_once(tmp_path, monkeypatch):
    plain = trained(tmp_path, "bert", True, monkeypatch, learning_rate=1e-3)
    torch._dynamo.reset()
    counters.clear()
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager", "learning_rate": 1e-3}
    found = trained(tmp_path, "bert", True, monkeypatch, **settings)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=1e-4)
    assert not counters["graph_break"]
    assert all("values" in vars(loss) for loss in found[0].objective)
    compiled = [vars(loss)["values"] for loss in found[0].objective]
    found[0].train()
    assert [vars(loss)["values"] for loss in found[0].objective] == compiled
    torch._dynamo.reset()


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_cache_that_holds_all_logits_teaches_the_same(tmp_path, family):
    logs = []
    for cached in (False, True):
        student, teacher = (tiny(family, HEADS[family], seed) for seed in (0, 1))
        master = CachedTeacher(tmp_path / "cache", teacher) if cached else teacher
        data = rows(family)
        trainer = distillation(tmp_path, student, master, None, data, eval_dataset=data, eval_strategy="epoch")
        if cached:
            master.fill([data], trainer.data_collator)
        trainer.train()
        logs.append([each["soft_targets"] for each in trainer.state.log_history if "soft_targets" in each])
    assert logs[1] == pytest.approx(logs[0], rel=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])  # fused, and a head that is capped, which is not
def test_the_largest_logits_and_the_rest_teach_the_same_whatever_is_computed(tmp_path, monkeypatch, family):
    monkeypatch.setitem(HEADS, "gemma2", "ForCausalLM")
    data, runs = rows(family), []
    master = CachedTeacher(tmp_path / "cache", tiny(family, HEADS[family], 1), top_k=5)
    filling = distillation(tmp_path, tiny(family, HEADS[family]), master, None, data)
    master.fill([data], filling.data_collator)
    for counted in (True, False):
        if not counted:
            monkeypatch.setattr(Objective, "reads_counted_only", property(lambda self: False))
        trainer = distillation(tmp_path, tiny(family, HEADS[family]), CachedTeacher(tmp_path / "cache"), None, data)
        trainer.train()
        runs.append((weights(trainer.model), [each["loss"] for each in trainer.state.log_history if "loss" in each]))
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-3, atol=1e-4)
    assert runs[0][1] == pytest.approx(runs[1][1], rel=1e-4)


class Reshaping(ModelTeacher):
    def __init__(self, model, change):
        super().__init__(model)
        self.change = change

    def observe(self, batch):
        return {signal: self.change(seen + 0) for signal, seen in super().observe(batch).items()}


@pytest.mark.parametrize("change", [lambda x: x[:, :-1], lambda x: x[..., :1], lambda x: x[..., :40]])
def test_a_teacher_of_other_positions_or_classes_is_refused(tmp_path, change):
    student, teacher = (tiny("gpt2", HEADS["gpt2"], seed) for seed in (0, 1))
    trainer = distillation(tmp_path, student, Reshaping(teacher, change), [SoftTargets()], rows("gpt2"))
    with pytest.raises(ValueError, match=r"SoftTargets: the student's logits is \(4, 20, 50\), the teacher's"):
        trainer.train()


@pytest.mark.parametrize("reduce", [lambda values: values.mean(), lambda values: values[:, None] * torch.ones(1, 50)])
def test_values_that_are_not_one_a_position_are_refused(tmp_path, reduce):
    class Reduced(SoftTargets):
        def values(self, student, teacher, *more):
            return reduce(super().values(student, teacher, *more))

    student, teacher = (tiny("gpt2", HEADS["gpt2"], seed) for seed in (0, 1))
    trainer = distillation(tmp_path, student, teacher, [Reduced()], rows("gpt2"))
    with pytest.raises(ValueError, match="Give one value a position, not reduced"):
        trainer.train()


def test_a_loss_of_ones_own_on_a_vocabulary_is_computed_behind_the_head(tmp_path, monkeypatch):
    class Own(LogitLoss):
        def values(self, student, teacher):
            return (student - teacher).abs().mean(-1)

    settings = {"learning_rate": 1e-3}
    agrees(*(trained(tmp_path, "gpt2", counted, monkeypatch, [Own()], **settings) for counted in (True, False)))


def test_evaluation_sees_all_logits(tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions)
        return {"right": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

    student, teacher = (tiny("bert", HEADS["bert"], seed) for seed in (0, 1))
    trainer = distillation(tmp_path, student, teacher, None, rows("bert"), eval_dataset=rows("bert"))
    trainer.compute_metrics = metrics
    trainer.train()
    found = trainer.evaluate()
    assert seen[0].shape == (16, 20, VOCABULARY)
    expected = student.eval()(**{name: torch.tensor(rows("bert")[name]) for name in ("input_ids", "attention_mask")})
    np.testing.assert_allclose(seen[0], expected.logits.detach().numpy(), atol=1e-4)
    assert 0 <= found["eval_agreement"] <= 1


class WithOutputs(DistillationTrainer):
    """A subclass with a term of its own on all logits."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.seen = outputs["logits"]
        return (loss, outputs) if return_outputs else loss


def test_who_asks_for_outputs_gets_all_logits(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.DistillationTrainer", WithOutputs)
    student, teacher = (tiny("bert", HEADS["bert"], seed) for seed in (0, 1))
    trainer = distillation(tmp_path, student, teacher, None, rows("bert"), max_steps=1)
    trainer.train()
    assert type(trainer.seen) is torch.Tensor
    assert trainer.seen.shape == (4, 20, VOCABULARY)
    assert trainer.seen.any(-1).all()


@pytest.mark.parametrize("broken", ["weight", "hidden"])
def test_a_teacher_that_is_not_finite_is_named(tmp_path, broken):
    student, teacher = (tiny("gpt2", HEADS["gpt2"], seed) for seed in (0, 1))
    with torch.no_grad():
        if broken == "weight":
            teacher.lm_head.weight = torch.nn.Parameter(teacher.lm_head.weight.clone())
            teacher.lm_head.weight[5] = torch.nan
        else:
            teacher.transformer.ln_f.weight[0] = torch.inf
    trainer = distillation(tmp_path, student, teacher, None, rows("gpt2"))
    with pytest.raises(FloatingPointError, match="the teacher's logits are not finite by step 1"):
        trainer.train()


def test_a_vocabulary_that_is_padded_otherwise_is_no_other_one(tmp_path):
    tokenizer = words()
    student, teacher = (tiny("bert", HEADS["bert"], seed, vocab_size=50 + 6 * seed) for seed in (0, 1))
    master = ModelTeacher(teacher, tokenizer=tokenizer)
    trainer = distillation(tmp_path, student, master, None, rows("bert"), processing_class=tokenizer)
    before = weights(student)
    trainer.train()
    assert trainer.state.log_history[0]["soft_targets"] > 0
    assert not same(weights(student), before)
    assert trainer.evaluate(rows("bert"))["eval_soft_targets"] > 0
