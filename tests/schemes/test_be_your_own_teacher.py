"""Exits learn from the last block; afterwards they are gone, or stay beside the student."""

import json

import pytest
import torch
from datasets import Dataset
from models import VOCABULARY
from peft import LoraConfig
from runs import distillation, rows, same, weights
from safetensors.torch import load_file

from hf_distill import hub, losses, schemes
from hf_distill.teachers import Nobody

from .arranged import check_resumed, deep, planned


def test_the_stage_by_hand(tmp_path):
    knobs = {
        "layers": [0, 2],
        "alpha": 0.3,
        "temperature": 2.0,
        "hint_weight": 0.01,
        "bottleneck": 4,
        "pooling": "mean",
    }
    found = schemes.be_your_own_teacher(planned(tmp_path / "scheme", deep(4)), **knobs)
    objective = [losses.TaskLoss(), losses.SelfExits(**knobs)]
    alone = distillation(tmp_path / "alone", deep(4), Nobody(), objective)
    alone.train()
    assert same(weights(found), weights(alone.model))
    without = distillation(tmp_path / "without", deep(4), Nobody(), [losses.TaskLoss()])
    without.train()
    assert not same(weights(found), weights(without.model))


@pytest.mark.parametrize("own", [None, [losses.LogitMSE()]])
def test_a_teacher_teaches_the_last_block(tmp_path, own):
    teacher = deep(2, seed=1)
    found = schemes.be_your_own_teacher(planned(tmp_path / "scheme", deep(2), teacher, losses=own))
    default = [losses.TaskLoss(weight=0.5), losses.SoftTargets(temperature=2.0, weight=0.5)]
    alone = distillation(tmp_path / "alone", deep(2), teacher, [*(own or default), losses.SelfExits()])
    alone.train()
    assert same(weights(found), weights(alone.model))


def test_exits_that_are_kept_are_those_that_were_trained(tmp_path):
    taken = []
    plan = planned(tmp_path, deep(4), watch=taken.append)
    student = schemes.be_your_own_teacher(plan, layers=[0, 2], bottleneck=4, keep_exits=True)
    early = schemes.EarlyExit.from_pretrained(tmp_path)
    trained = taken[0].objective.losses["self_exits"]
    assert same(dict(early.exits.state_dict()), dict(trained.state_dict()))
    assert same(weights(early.model), weights(student))
    assert not [name for name in json.loads((tmp_path / "config.json").read_text()) if "exit" in name]


def test_exits_are_published_with_the_student(tmp_path):
    schemes.be_your_own_teacher(planned(tmp_path / "out", deep(2)), keep_exits=True)
    hub.stage(tmp_path / "out", tmp_path / "staged")
    assert schemes.EarlyExit.from_pretrained(tmp_path / "staged").layers == (0, 1)


def test_exits_go_away_and_do_not_outlive_another_run(tmp_path):
    schemes.be_your_own_teacher(planned(tmp_path, deep(2)), keep_exits=True)
    schemes.be_your_own_teacher(planned(tmp_path, deep(2)))
    assert not list(tmp_path.rglob("exits.*"))
    assert not list(tmp_path.rglob("objective.safetensors"))


def test_the_exits_of_the_best_checkpoint_are_kept(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1}
    taken = []
    plan = planned(
        tmp_path,
        deep(2),
        eval_dataset=rows(8),
        watch=taken.append,
        save_steps=1,
        learning_rate=0.3,
        max_steps=6,
        **best,
    )
    schemes.be_your_own_teacher(plan, keep_exits=True)
    folder = tmp_path / "student" / f"checkpoint-{taken[0].state.best_global_step}"
    assert taken[0].state.best_global_step < 6
    stored = load_file(folder / "objective.safetensors")
    kept = schemes.EarlyExit.from_pretrained(tmp_path).exits.state_dict()
    assert same({name.removeprefix("losses.self_exits."): value for name, value in stored.items()}, dict(kept))


def test_cut_off_it_goes_on_and_a_finished_one_still_has_its_exits(tmp_path):
    def run(folder, **settings):
        return schemes.be_your_own_teacher(planned(folder, deep(2), **settings), keep_exits=True)

    check_resumed(tmp_path, run, after=2)
    whole, cut = (schemes.EarlyExit.from_pretrained(tmp_path / name).exits.state_dict() for name in ("whole", "cut"))
    assert same(dict(whole), dict(cut))
    (tmp_path / "cut" / "exits.safetensors").unlink()
    run(tmp_path / "cut", resume=True, save_strategy="steps", save_steps=1)
    assert same(dict(schemes.EarlyExit.from_pretrained(tmp_path / "cut").exits.state_dict()), dict(whole))


def ordered(count, seed):
    """Rows whose label says which of two words stands first."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, VOCABULARY, (count, 8), generator=generator)
    places = torch.stack([torch.randperm(8, generator=generator)[:2] for _ in range(count)])
    ids.scatter_(1, places, torch.tensor([[3, 4]]).expand(count, 2))
    columns = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": (places[:, 0] < places[:, 1]).long(),
    }
    return Dataset.from_dict({name: column.tolist() for name, column in columns.items()})


def loss_of(early, layer, data):
    batch = {name: torch.tensor(data[name][:]) for name in data.column_names}
    return float(torch.nn.functional.cross_entropy(early(batch, layer), batch["labels"]))


@pytest.mark.parametrize("seed", [0, 1])  # of the seeds 0 to 2; with 2 each exit learns it alone, and better
def test_each_exit_is_better_than_when_it_is_trained_alone(tmp_path, seed):
    settings = {"max_steps": 160, "per_device_train_batch_size": 32, "learning_rate": 2e-3, "seed": seed}
    settings["data"] = ordered(256, 0)

    def student():
        return deep(3, seed, id2label={0: "before", 1: "after"})

    schemes.be_your_own_teacher(planned(tmp_path, student(), **settings), pooling="mean", keep_exits=True)
    together, unseen = schemes.EarlyExit.from_pretrained(tmp_path), ordered(256, 1)
    for layer in (0, 1):
        only = losses.SelfExits([layer], alpha=0, hint_weight=0, pooling="mean")
        trainer = distillation(tmp_path / str(layer), student(), Nobody(), [only], **settings)
        trainer.train()
        alone = schemes.EarlyExit(trainer.model, trainer.objective.losses["self_exits"])
        assert loss_of(together, layer, unseen) < 0.9 * loss_of(alone, layer, unseen)


@pytest.mark.parametrize(("knobs", "message"), [({"layers": [1]}, "must be blocks of"), ({"alpha": 2.0}, "alpha=2.0")])
def test_knobs_that_do_not_fit_are_refused(tmp_path, knobs, message):
    with pytest.raises(ValueError, match=message):
        schemes.be_your_own_teacher(planned(tmp_path, deep(2)), **knobs)


def test_exits_beside_an_adapter_are_refused(tmp_path):
    plan = planned(tmp_path, deep(2), peft_config=LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="keep_exits=True is for a whole model, not a PeftModel"):
        schemes.be_your_own_teacher(plan, keep_exits=True)
    assert not (tmp_path / "student").exists()
