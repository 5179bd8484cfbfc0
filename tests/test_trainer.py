from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchrun
from distributed import (
    ALL_LOSSES,
    LABELS,
    RUNS,
    TOGETHER,
    Layout,
    collate,
    heads_of,
    made,
    rows,
    student,
    student_for,
    teacher,
    trainer_of,
    weights_of,
)
from models import tiny
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._dynamo.utils import counters

from hf_distill import DistillationConfig, DistillationTrainer, anatomy
from hf_distill.batch import Batch
from hf_distill.losses import (
    AttentionKL,
    AttentionMSE,
    HiddenMSE,
    Loss,
    RKDAngle,
    RKDDistance,
    SoftTargets,
    TaskLoss,
    rkd_angle,
    rkd_distance,
)
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher, Teacher

pytestmark = pytest.mark.timeout(600)  # the first test starts two processes that run everything

CLOSE = 1e-6
CLOCK = ("time", "per_second")


# One process, one that accumulates, two processes


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every run of `distributed` on two real processes, 4 rows each."""
    return torchrun.results(Path(__file__).with_name("distributed.py"), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One run of `distributed` in this process: `one(name, batch, accumulation)`."""

    @cache
    def run(name: str, batch: int = 8, accumulation: int = 1) -> dict[str, Any]:
        return RUNS[name](Layout(batch, accumulation), tmp_path_factory.mktemp(name))

    return run


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The same weights and the same curves, of everything that is logged."""
    assert found["weights"].keys() == expected["weights"].keys()
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=CLOSE)
    same_curves(found["history"], expected["history"], CLOSE)


def same_curves(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(map(timeless, found), map(timeless, expected), strict=True):
        assert mine == pytest.approx(theirs, rel=tolerance, abs=tolerance)


def timeless(logs: dict[str, float]) -> dict[str, float]:
    """Without what the clock says, and the epoch, which counts micro-batches."""
    return {name: value for name, value in logs.items() if name != "epoch" and not name.endswith(CLOCK)}


def terms_of(logs: dict[str, float], prefix: str = "") -> dict[str, float]:
    known = {"loss", "grad_norm", "learning_rate", "epoch", "step", "agreement", "model_preparation_time"}
    cut = {name.removeprefix(prefix): value for name, value in timeless(logs).items() if name.startswith(prefix)}
    return {name: value for name, value in cut.items() if name not in known}


@pytest.mark.parametrize(
    ("loss", "head"),
    [pytest.param(loss, head, id=f"{loss.__name__}-{head}") for loss in ALL_LOSSES for head in heads_of(loss)],
)
def test_a_step_is_the_same_however_it_is_cut(
    two: dict[str, Any], one: Any, tmp_path: Path, loss: type[Loss], head: str
) -> None:
    name = f"{loss.__name__}-{head}"
    whole = one(name)
    assert two[name]["ranks_agree"]
    same(two[name], whole)
    if not loss.relational:
        same(one(name, 2, 4), whole)
    assert len(whole["history"]) == 4
    for logs in whole["history"]:
        assert terms_of(logs) == {loss().name: pytest.approx(logs["loss"], rel=CLOSE)}
        assert logs["loss"] > 0
        assert logs["grad_norm"] > 0
    start = trainer_of(tmp_path, [made(loss)], student_for(loss, head), head=head)
    moved = {name for name, weight in weights_of(start).items() if not torch.equal(weight, whole["weights"][name])}
    assert len([name for name in moved if not name.startswith("objective")]) > 5
    assert any(name.startswith("objective") for name in moved) == any(True for _ in start.objective.parameters())


@pytest.mark.parametrize("name", ["balanced", "with_arguments"])
def test_two_processes_are_one_also_with(two: dict[str, Any], one: Any, name: str) -> None:
    assert two[name]["ranks_agree"]
    same(two[name], one(name))


def test_balance_is_on_from_the_first_step_also_where_a_term_is_warmed_up(one: Any) -> None:
    first = one("balanced")["history"][0]
    assert first["soft_targets_weight"] == 0
    assert first["hidden_mse_weight"] != pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(("loss", "formula"), [(RKDDistance, rkd_distance), (RKDAngle, rkd_angle)])
def test_an_accumulated_micro_batch_sees_its_own_relations(tmp_path: Path, loss: type[Loss], formula: Any) -> None:
    batches: list[dict[str, Tensor]] = []

    def keeping(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batches.append(collate(examples))
        return batches[-1]

    layout = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    trainer = trainer_of(tmp_path, [loss()], train=rows(8), others={"data_collator": keeping}, **layout)
    models = [student(), teacher()]
    trainer.train()

    def first_tokens(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(**batch, output_hidden_states=True).hidden_states[-1][:, 0]

    with torch.no_grad():
        own = [formula(*(first_tokens(model, batch) for model in models)) for batch in batches]
        all_rows = [torch.cat([first_tokens(model, batch) for batch in batches]) for model in models]
    logged = trainer.state.log_history[0][loss().name]
    assert logged == pytest.approx(float(sum(own) / 2), rel=1e-5)
    assert logged != pytest.approx(float(formula(*all_rows)), rel=1e-3)


def test_the_last_step_of_an_epoch_may_hold_less(tmp_path: Path) -> None:
    results = []
    for batch, accumulation in ((8, 1), (2, 4)):
        settings = Layout(batch, accumulation).settings
        trainer = trainer_of(tmp_path, [TaskLoss(), HiddenMSE()], head="tokens", train=rows(12, "tokens"), **settings)
        trainer.train()
        results.append({"weights": weights_of(trainer), "history": trainer.state.log_history[:-1]})
    assert len(results[0]["history"]) == 4
    same(results[1], results[0])


def test_evaluation_is_the_same_on_two_processes(two: dict[str, Any], one: Any) -> None:
    """With batches of 4: of 9 rows, the second process has none of its own in the last batch, of 14 it has two."""
    found, expected = two["together"], one("together")
    same(found, expected)
    for name in ("before", "metrics"):
        assert timeless(found[name]) == pytest.approx(timeless(expected[name]), abs=CLOSE, rel=CLOSE)
    torch.testing.assert_close(found["predictions"], expected["predictions"], rtol=0, atol=1e-5)
    assert len(found["predictions"]) == 14
    evaluations = [logs for logs in found["history"] if "eval_loss" in logs]
    assert len(evaluations) == 2
    for logs in evaluations:
        terms = terms_of(logs, "eval_")
        assert len(terms) == len(TOGETHER)
        assert sum(terms.values()) == pytest.approx(logs["eval_loss"], rel=1e-5)
        assert 0 < logs["eval_agreement"] < 1
    for logs in (logs for logs in found["history"] if "loss" in logs):
        assert sum(terms_of(logs).values()) == pytest.approx(logs["loss"], rel=1e-5)


def test_evaluation_is_over_every_row_once(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [SoftTargets(weight=3.0), TaskLoss()])
    metrics = trainer.evaluate()
    batch = collate(list(trainer.eval_dataset))
    with torch.no_grad():
        mine, theirs = (model(batch["input_ids"], batch["attention_mask"]).logits for model in (student(), teacher()))
    difference = nn.functional.binary_cross_entropy_with_logits(mine / 2, (theirs / 2).sigmoid(), reduction="none")
    difference -= nn.functional.binary_cross_entropy_with_logits(theirs / 2, (theirs / 2).sigmoid(), reduction="none")
    assert metrics["eval_agreement"] == pytest.approx(((mine > 0) == (theirs > 0)).float().mean().item())
    assert metrics["eval_soft_targets"] == pytest.approx(3 * 4 * difference.sum(1).mean().item(), rel=1e-4)


def test_all_at_once_on_two_processes(two: dict[str, Any], one: Any) -> None:
    found = two["everything"]
    assert found["ranks_agree"]
    assert found["compiled"] == 2
    assert not any("_orig_mod" in name for name in found["weights"])
    same(found, one("everything"))
    start = {name: weight for name, weight in student().state_dict().items() if name.startswith("bert.encoder")}
    for name, weight in found["weights"].items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in start:
            assert torch.equal(weight, start[plain])  # only adapters, the head and projections are trained
    assert sum("lora_B" in name and bool(weight.any()) for name, weight in found["weights"].items()) == 4


def test_half_precision_on_two_processes(two: dict[str, Any], one: Any) -> None:
    found, expected = two["half_precision"], one("half_precision")
    assert found["ranks_agree"]
    same_curves(found["history"], expected["history"], 5e-3)
    assert all(weight.dtype is torch.float32 for weight in found["weights"].values() if weight.is_floating_point())


@pytest.mark.parametrize("name", ["features_only", "again"])
def test_two_processes_train_as_one(two: dict[str, Any], one: Any, name: str) -> None:
    assert two[name]["ranks_agree"]
    same(two[name], one(name))


def test_two_processes_resume_exactly(two: dict[str, Any]) -> None:
    found = two["resumed"]
    assert found["ranks_agree"]
    for name, weight in found["weights"].items():
        assert torch.equal(found["resumed"][name], weight), name


# What a subclass and a teacher of one's own may do


def test_default_losses_follow_the_task(tmp_path: Path) -> None:
    assert list(trainer_of(tmp_path, None).objective.losses) == ["task_loss", "soft_targets"]
    assert [loss.weight for loss in trainer_of(tmp_path, None).objective] == [0.5, 0.5]


def test_an_embedding_model_learns_hidden_states_without_labels(tmp_path: Path) -> None:
    model = tiny("bert", "Model", hidden_size=16, num_hidden_layers=2, intermediate_size=24)
    unlabelled = rows(16).remove_columns("labels")

    def collate_unlabelled(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate([{**each, "labels": [0.0]} for each in examples])
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}

    trainer = trainer_of(
        tmp_path,
        None,
        model,
        train=unlabelled,
        others={"teacher": tiny("bert", "Model"), "eval_dataset": unlabelled, "data_collator": collate_unlabelled},
        max_steps=1,
    )
    assert list(trainer.objective.losses) == ["hidden_cosine"]
    before = trainer.evaluate()["eval_hidden_cosine"]
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_hidden_cosine"] < before
    assert after["eval_loss"] == pytest.approx(after["eval_hidden_cosine"])
    assert "eval_agreement" not in after


def test_losses_for_is_overridden(tmp_path: Path) -> None:
    asked: list[Task] = []

    class Own(DistillationTrainer):
        def losses_for(self, task: Task) -> list[Loss]:
            asked.append(task)
            return [HiddenMSE("last")]

    trainer = trainer_of(tmp_path, None, kind=Own, max_steps=1)
    trainer.train()
    assert asked == [Task.MULTI_LABEL]
    assert set(terms_of(trainer.state.log_history[0])) == {"hidden_mse"}
    assert set(trainer_of(tmp_path, [TaskLoss()], kind=Own).objective.losses) == {"task_loss"}


def test_compute_loss_is_overridden(tmp_path: Path) -> None:
    class Decayed(DistillationTrainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
            loss = loss + 0.25
            return (loss, outputs) if return_outputs else loss

    trainer = trainer_of(tmp_path, [SoftTargets(), HiddenMSE()], kind=Decayed, max_steps=2, eval_strategy="epoch")
    trainer.train()
    plain = trainer_of(tmp_path, [SoftTargets(), HiddenMSE()], max_steps=2, eval_strategy="epoch")
    plain.train()
    for mine, theirs in zip(trainer.state.log_history, plain.state.log_history, strict=True):
        added = {name: value - theirs[name] for name, value in mine.items() if not name.endswith(CLOCK)}
        expected = {name: 0.25 if name.removeprefix("eval_") in ("loss", "train_loss") else 0.0 for name in added}
        expected.pop("eval_model_preparation_time", None), added.pop("eval_model_preparation_time", None)
        assert added == pytest.approx(expected, abs=1e-5)


class Rules(Teacher):
    """No model: answers by rule, and counts what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.observed = 0

    def observe(self, batch: Any) -> Any:
        self.observed += 1
        return {LOGITS: torch.stack([batch.inputs["input_ids"][:, 0] % 2 * 4.0 - 2] * LABELS, dim=1)}

    def step(self) -> None:
        self.steps.append(self.observed)


def test_a_teacher_needs_no_model(tmp_path: Path) -> None:
    rules = Rules()
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "eval_strategy": "epoch"}
    trainer = trainer_of(tmp_path, [SoftTargets()], others={"teacher": rules}, **settings)
    trainer.train()
    logs = trainer.state.log_history
    assert logs[-2]["eval_soft_targets"] < next(each for each in logs if "eval_loss" in each)["eval_soft_targets"]
    assert 0 <= logs[-2]["eval_agreement"] <= 1
    # told once after each of the 4 steps of two micro-batches, and not again at the end of an epoch (3 evaluations)
    assert rules.steps == [2, 4, 9, 11]
    with pytest.raises(ValueError, match="HiddenMSE needs the layers of a teacher model"):
        trainer_of(tmp_path, [HiddenMSE()], others={"teacher": Rules()})


def test_the_teacher_stays_as_it_is_and_outside(tmp_path: Path) -> None:
    model = teacher()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = trainer_of(tmp_path, [SoftTargets(), AttentionKL(), TaskLoss()], others={"teacher": model}, max_steps=2)
    trainer.train()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    mine = {id(parameter) for parameter in model.parameters()}
    assert not any(id(parameter) in mine for parameter in trainer.model.parameters())
    assert model.config._attn_implementation == trainer.model.config._attn_implementation == "sdpa"
    model.train()
    with pytest.raises(ValueError, match="put into train mode"):
        trainer.train()


# One run after another


def test_projections_come_from_the_seed_of_the_run(tmp_path: Path) -> None:
    def projections(seed: int) -> dict[str, Tensor]:
        trainer = trainer_of(tmp_path, [HiddenMSE()], seed=seed)
        return {name: value.clone() for name, value in trainer.objective.state_dict().items()}

    torch.manual_seed(5)
    first = projections(1)
    torch.manual_seed(6)
    again, other = projections(1), projections(2)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not any(torch.equal(other[name], value) for name, value in first.items())


def test_model_init_starts_anew_every_time(tmp_path: Path) -> None:
    losses = (loss for loss in [HiddenMSE(), TaskLoss()])  # used up after one look
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "num_train_epochs": 1}
    trainer = trainer_of(tmp_path, losses, others={"model_init": lambda: student()}, **settings)
    trainer.train()
    first, histories = weights_of(trainer), [trainer.state.log_history[:2]]
    trainer.train()
    histories.append(trainer.state.log_history[:2])
    assert all(torch.equal(value, first[name]) for name, value in weights_of(trainer).items())
    same_curves(histories[0], histories[1], 0)
    assert all(block._compiled_call_impl is not None for block in anatomy.find_blocks(trainer.model))
    assert any(name.startswith("objective.losses.hidden_mse") for name in first)


@pytest.mark.parametrize("bf16", [False, True])
def test_training_twice_goes_on(tmp_path: Path, bf16: bool) -> None:
    trainer = trainer_of(tmp_path, [HiddenMSE(), TaskLoss()], bf16=bf16, num_train_epochs=1)
    trainer.train()
    first = trainer.state.log_history[1]["hidden_mse"]
    trainer.train()
    assert trainer.state.log_history[-2]["hidden_mse"] < trainer.state.log_history[0]["hidden_mse"] < first
    assert sum(terms_of(trainer.state.log_history[0]).values()) == pytest.approx(trainer.state.log_history[0]["loss"])


def test_a_second_trainer_takes_the_student_over(tmp_path: Path) -> None:
    first = trainer_of(tmp_path, [HiddenMSE()], bf16=True, max_steps=1)
    first.train()
    before = first.evaluate()
    second = trainer_of(tmp_path, [SoftTargets(), AttentionMSE()], first.model, max_steps=1)
    assert dict(second.model.named_children())["objective"] is second.objective
    seen = dtypes_of(second)
    second.evaluate()
    assert seen == {torch.float32}  # and not the first one's bfloat16
    second.train()
    second.save_model()
    assert load_file(tmp_path / "model.safetensors").keys() == student().state_dict().keys()
    after = first.evaluate()
    assert terms_of(after, "eval_").keys() == terms_of(before, "eval_").keys() == {"hidden_mse"}
    old = {name: value.clone() for name, value in first.objective.state_dict().items()}
    first.train()
    assert not any(torch.equal(value, old[name]) for name, value in first.objective.state_dict().items())
    assert "objective" not in dict(first.model.named_children())  # the training is over


def test_a_student_that_was_trained_may_get_adapters(tmp_path: Path) -> None:
    first = trainer_of(tmp_path, [HiddenMSE()], bf16=True, max_steps=1)
    first.train()
    second = trainer_of(tmp_path, [HiddenMSE("last")], first.model, others={"peft_config": adapters()}, max_steps=1)
    second.train()
    assert [name for name in weights_of(second) if "objective" in name] == [
        "objective.losses.hidden_mse.projections.0.weight",
        "objective.losses.hidden_mse.projections.0.bias",
    ]


# What works together


def dtypes_of(trainer: DistillationTrainer) -> set[torch.dtype]:
    """Fills with the types that student, teacher and projections compute in."""
    seen: set[torch.dtype] = set()
    queries = [
        next(module for name, module in model.named_modules() if name.endswith("attention.self.query"))
        for model in (trainer.model, trainer.teacher.model)
    ]
    projections = [module for module in trainer.objective.modules() if isinstance(module, nn.Linear)]
    for module in (*queries, *projections):
        module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    return seen


def adapters(**fields: Any) -> LoraConfig:
    settings = {"task_type": "SEQ_CLS", "r": 4, "lora_dropout": 0.0, "init_lora_weights": "gaussian"}
    return LoraConfig(**{**settings, **fields})


def test_half_precision_is_on_before_and_in_training(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, [SoftTargets(), HiddenMSE()], bf16=True, max_steps=1)
    seen = dtypes_of(trainer)
    early = trainer.evaluate()
    assert seen == {torch.bfloat16}
    seen.clear()
    trainer.train()
    assert seen == {torch.bfloat16}
    plain = trainer_of(tmp_path, [SoftTargets(), HiddenMSE()], max_steps=1)
    exact = plain.evaluate()
    assert early["eval_hidden_mse"] == pytest.approx(exact["eval_hidden_mse"], rel=2e-2)
    assert early["eval_hidden_mse"] != exact["eval_hidden_mse"]


def test_activation_checkpointing_changes_memory_only(tmp_path: Path) -> None:
    calls: dict[bool, int] = {}
    results = []
    for on in (False, True):
        losses = [HiddenMSE(), AttentionKL(), RKDAngle(), TaskLoss()]
        trainer = trainer_of(tmp_path, losses, activation_checkpointing=on, **Layout(4, 2).settings)
        calls[on] = 0
        inner = anatomy.find_blocks(trainer.model)[0].attention

        def count(*_: Any, on: bool = on) -> None:
            calls[on] += 1

        inner.register_forward_hook(count)
        trainer.train()
        results.append({"weights": weights_of(trainer), "history": trainer.state.log_history[:-1]})
    assert calls[True] == 2 * calls[False] > 0  # each block runs again in backward
    same(results[1], results[0])


def test_reentrant_checkpointing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_reentrant=True: what is caught inside a block would have no gradient"):
        DistillationConfig(str(tmp_path), activation_checkpointing_kwargs={"use_reentrant": True})
    trainer = trainer_of(tmp_path, [HiddenMSE()], max_steps=1)
    trainer.model.activation_checkpointing_enable({"use_reentrant": True})
    with pytest.raises(ValueError, match="is checkpointed with use_reentrant=True"):
        trainer.train()


def test_compiled_blocks_are_compiled_once_and_give_the_same(tmp_path: Path) -> None:
    results = []
    for on in (False, True):
        settings = {"torch_compile": on, "torch_compile_backend": "aot_eager" if on else None, "logging_steps": 1}
        trainer = trainer_of(tmp_path, [HiddenMSE(), AttentionMSE(), TaskLoss()], train=rows(16), **settings)
        torch._dynamo.reset()
        counters.clear()
        trainer.train()
        results.append({"weights": weights_of(trainer), "history": trainer.state.log_history[:-1]})
        assert not counters["graph_break"]
        graphs = counters["stats"]["unique_graphs"]
        trainer.train()
        assert counters["stats"]["unique_graphs"] == graphs  # the same shapes: nothing is traced again, step by step
        assert (graphs > 0) == on
        trainer.save_model(str(tmp_path / str(on)))
        assert load_file(tmp_path / str(on) / "model.safetensors").keys() == student().state_dict().keys()
    same(results[1], results[0])


@pytest.mark.parametrize("peft", [None, "config", "model"])
def test_the_best_model_comes_back_with_its_projections(tmp_path: Path, peft: str | None) -> None:
    model = student()
    trainer = trainer_of(
        tmp_path,
        [HiddenMSE(), SoftTargets()],
        get_peft_model(model, adapters()) if peft == "model" else model,
        others={"peft_config": adapters()} if peft == "config" else None,
        bf16=True,
        activation_checkpointing=True,
        torch_compile=True,
        torch_compile_backend="eager",
        eval_on_start=True,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_agreement",
        greater_is_better=False,  # so that the best is not the last
        learning_rate=0.5,
        **Layout(4, 2).settings,
    )
    trainer.train()
    evaluations = {logs["step"]: logs["eval_agreement"] for logs in trainer.state.log_history if "eval_loss" in logs}
    best = trainer.state.best_global_step
    assert len(evaluations) == 5
    assert 0 < best < 4
    assert trainer.state.best_metric == evaluations[best]
    checkpoint, last = tmp_path / f"checkpoint-{best}", tmp_path / "checkpoint-4"
    for name, value in trainer.objective.state_dict().items():
        assert torch.equal(value, load_file(checkpoint / "objective.safetensors")[name])
        assert not torch.equal(value, load_file(last / "objective.safetensors")[name])
    assert trainer.evaluate()["eval_agreement"] == evaluations[best]
    trainer.save_model(str(tmp_path / "saved"))
    file = "model.safetensors" if peft is None else "adapter_model.safetensors"
    saved, kept = load_file(tmp_path / "saved" / file), load_file(checkpoint / file)
    assert saved.keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in saved.items())
    assert not any("objective" in name or "_orig_mod" in name for name in saved)
    if peft is not None:
        assert any("lora_A" in name for name in saved)
        assert not any("query.weight" in name for name in saved)
        assert (tmp_path / "saved" / "adapter_config.json").exists()
        assert not (tmp_path / "saved" / "model.safetensors").exists()


def test_the_objective_learns_whatever_its_student_is(tmp_path: Path) -> None:
    """Everything is in the optimizer, once, and moves: student or adapters, head, and projections."""
    for peft in (None, adapters()):
        trainer = trainer_of(tmp_path, [HiddenMSE(), TaskLoss()], others={"peft_config": peft}, max_steps=2)
        before = weights_of(trainer)
        trainer.train()
        held = [id(each) for group in trainer.optimizer.param_groups for each in group["params"]]
        everything = [*trainer.model.parameters(), *trainer.objective.parameters()]
        trained = [id(each) for each in everything if each.requires_grad]
        assert sorted(held) == sorted(trained)
        moved = {name for name, value in weights_of(trainer).items() if not torch.equal(value, before[name])}
        assert {name for name in before if name.startswith("objective")} <= moved
        trained_names = {name for name, each in trainer.model.named_parameters() if each.requires_grad}
        assert {name for name in moved if not name.startswith("objective")} <= trained_names
        assert ("bert.encoder.layer.0.attention.self.query.weight" in moved) == (peft is None)


def test_a_label_map_reorders_what_the_teacher_says(tmp_path: Path) -> None:
    ours, others = {0: "a", 1: "b", 2: "c"}, {0: "c", 1: "a", 2: "b"}
    model, master = student(id2label=ours), teacher(id2label=others)
    reordered = ModelTeacher(master, label_map="by_name")
    trainer = trainer_of(tmp_path, [SoftTargets()], model, others={"teacher": reordered})
    batch = collate(list(rows(3)))
    with torch.no_grad():
        plain = master(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    assert torch.equal(trainer.teacher.observe(Batch(batch, Task.MULTI_LABEL))[LOGITS], plain[:, [1, 2, 0]])
