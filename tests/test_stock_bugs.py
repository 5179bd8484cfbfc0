"""What the stock Trainer gets wrong and ours guards against.

Each test shows the bug in the stock Trainer first: when that part fails, transformers has mended it, and the guard
named above it can go.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from models import LABELS, tiny
from runs import QUICK, classifier, rows, same, weights
from torch._dynamo.utils import counters
from transformers import Trainer, TrainingArguments

from hf_distill import DistillationConfig, DistillationTrainer, attachment
from hf_distill.capture import Capture
from hf_distill.losses import HiddenMSE, SoftTargets
from hf_distill.signals import hidden

ROOT = Path(__file__).parents[1]
TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"


def stock(folder: Path, student: Any, data: Any = None, **settings: Any) -> Trainer:
    own = {name: settings.pop(name) for name in ("eval_dataset", "compute_metrics") if name in settings}
    args = TrainingArguments(str(folder), **(QUICK | settings))
    return Trainer(student, args, train_dataset=rows() if data is None else data, **own)


def ours(
    folder: Path, student: Any, data: Any = None, *, teacher: Any, losses: Any = None, **settings: Any
) -> DistillationTrainer:
    own = {name: settings.pop(name) for name in ("eval_dataset", "compute_metrics") if name in settings}
    args = DistillationConfig(str(folder), **(QUICK | settings))
    return DistillationTrainer(student, teacher, losses, args, train_dataset=rows() if data is None else data, **own)


# --- gradients of BERT-style heads grow with accumulation. Guard: `loss_is_scaled_for_ga`, `get_batch_samples`


def first_step(trainer: Trainer) -> tuple[float, float]:
    trainer.train()
    entry = trainer.state.log_history[0]
    return float(entry["loss"]), float(entry["grad_norm"])


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_accumulation_scales_neither_loss_nor_gradient(tmp_path, family):
    whole = {"per_device_train_batch_size": 16, "max_steps": 1, "optim": "sgd"}
    parts = whole | {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}

    loss, gradient = first_step(stock(tmp_path, classifier(family), **whole))
    assert first_step(stock(tmp_path, classifier(family), **parts)) == (
        pytest.approx(4 * loss, rel=1e-4),
        pytest.approx(4 * gradient, rel=1e-4),
    )

    teacher = classifier(seed=1)
    once = ours(tmp_path, classifier(family), teacher=teacher, **whole)
    often = ours(tmp_path, classifier(family), teacher=teacher, **parts)
    assert first_step(often) == pytest.approx(first_step(once), rel=1e-4)
    for name, weight in weights(once.model).items():
        torch.testing.assert_close(weights(often.model)[name], weight, rtol=0, atol=1e-7)


# --- weights whose names on disk are not their names in memory are lost. Guard: `attachment.reload`

VISION: dict[str, dict[str, Any]] = {
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 2},
    "Beit": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "patch_size": 4,
    },
}


def vision(family: str, seed: int = 0) -> Any:
    if family in ("vit", "dinov2"):
        return tiny(family, "ForImageClassification", seed, num_labels=LABELS, num_hidden_layers=2)
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(image_size=16, num_labels=LABELS, **VISION[family])
    return getattr(transformers, f"{family}ForImageClassification")(config).eval()


def pictures() -> Dataset:
    pixels = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Dataset.from_dict({"pixel_values": pixels.tolist(), "labels": [0, 1, 2, 0] * 2}).with_format("torch")


FAMILIES = ["vit", "dinov2", "Swin", "Beit"]


@pytest.mark.parametrize("family", FAMILIES)
def test_resume_restores_every_weight(tmp_path, family):
    settings = {"save_strategy": "steps", "save_steps": 2}

    def resumed(make: Any, folder: Path, **more: Any) -> tuple[dict, dict]:
        run = make(folder, vision(family), pictures(), **settings, **more)
        run.train()
        again = make(folder, vision(family, seed=9), pictures(), **settings, **more)
        again.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        return weights(run.model), weights(again.model)

    left_alone, lost = resumed(stock, tmp_path / "stock")
    assert not same(left_alone, lost)
    assert same(*resumed(ours, tmp_path / "ours", teacher=vision(family, seed=1)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_model_at_the_end_is_the_best_model(tmp_path, family):
    def best(make: Any, folder: Path, **more: Any) -> tuple[dict, dict]:
        ranks = itertools.count()
        run = make(
            folder,
            vision(family),
            pictures(),
            eval_dataset=pictures(),
            compute_metrics=lambda prediction: {"rank": next(ranks)},
            metric_for_best_model="rank",
            greater_is_better=False,
            load_best_model_at_end=True,
            save_strategy="steps",
            eval_strategy="steps",
            save_steps=1,
            eval_steps=1,
            **more,
        )
        run.train()
        assert Path(run.state.best_model_checkpoint).name == "checkpoint-1"
        return weights(type(run.model).from_pretrained(folder / "checkpoint-1")), weights(run.model)

    first, last = best(stock, tmp_path / "stock")
    assert not same(first, last)
    assert same(*best(ours, tmp_path / "ours", teacher=vision(family, seed=1)))


# --- DDP is lost by an evaluation before training. Guard: `attachment.forget_evaluation`

TWO_PROCESSES = """
import gc, json, sys
sys.path.insert(0, "tests")
from pathlib import Path
import torch
import torch.distributed as dist
from runs import classifier, rows
from test_stock_bugs import ours, stock
from hf_distill.losses import HiddenMSE

def apart(model):
    mine = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    dist.all_gather(both, mine)
    return float((both[0] - both[1]).abs().max())

folder, data, found = Path(sys.argv[1]), rows(), {}
for name, make in {
    "stock": lambda: stock(folder, classifier(), eval_dataset=data),
    "ours": lambda: ours(folder, classifier(), teacher=classifier(seed=1), eval_dataset=data),
    "projections": lambda: ours(
        folder,
        classifier(),
        teacher=classifier(seed=1, hidden_size=16),
        losses=[HiddenMSE()],
        eval_dataset=data,
        eval_on_start=True,
    ),
}.items():
    trainer = make()
    trainer.evaluate()
    trainer.train()
    found[name] = apart(trainer.model)
    del trainer  # its DDP holds the process group, whose threads would abort the process at its end
if dist.get_rank() == 0:
    (folder / "found.json").write_text(json.dumps(found))
gc.collect()
dist.barrier()
dist.destroy_process_group()
"""


def test_an_early_evaluation_keeps_two_processes_together(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    run = subprocess.run([*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("stock") > 1e-3
    assert found == {"ours": 0.0, "projections": 0.0}


# --- compile and a redirected forward. Guard: `_prepare_for_training` compiles the blocks, `_build_accelerator_args`


class Redirecting(Trainer):
    """The stock Trainer with a forward that is redirected as ours is, and looked into as ours is."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inner = self.accelerator.unwrap_model(model, keep_torch_compile=False)

        def look_and_run(student, **kwargs):
            with Capture(student, {hidden(0)}):
                return student.forward(**kwargs)

        with attachment.redirected(inner, look_and_run):
            return model(**inputs)["loss"]


def compiled(trainer: Trainer) -> tuple[int, int]:
    """How many graphs were compiled, and how many times tracing broke off."""
    torch._dynamo.reset()
    counters.clear()
    trainer.train()
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def test_compile_compiles_the_student(tmp_path):
    settings = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 2}
    args = TrainingArguments(str(tmp_path), **(QUICK | settings | {"max_steps": 1}))
    _, breaks = compiled(Redirecting(classifier(), args, train_dataset=rows()))
    assert breaks > 0

    given: dict[str, Any] = {"teacher": classifier(seed=1), "losses": [SoftTargets(), HiddenMSE({0: 1})]}
    fast = ours(tmp_path, classifier(), **given, **settings)
    graphs, breaks = compiled(fast)
    assert graphs > 0
    assert breaks == 0
    given["losses"] = [SoftTargets(), HiddenMSE({0: 1})]
    slow = ours(tmp_path, classifier(), **given, max_steps=2)
    assert compiled(slow) == (0, 0)
    for name, weight in weights(slow.model).items():
        torch.testing.assert_close(weights(fast.model)[name], weight, rtol=0, atol=1e-6)
    fast.save_model(str(tmp_path / "saved"))
    assert same(weights(type(fast.model).from_pretrained(tmp_path / "saved")), weights(fast.model))


# --- the token in training_args.bin. Guard: `_save`


def test_no_folder_holds_the_token(tmp_path):
    settings = {"hub_token": TOKEN, "save_strategy": "steps", "save_steps": 2, "seed": 1}

    def holding(make: Any, folder: Path, **more: Any) -> list[str]:
        run = make(folder, classifier(), **settings, **more)
        run.train()
        run.save_model()
        assert run.args.hub_token == TOKEN
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert {"model.safetensors", "optimizer.pt", "config.json"} <= {path.name for path in files}
        return sorted(str(path.relative_to(folder)) for path in files if TOKEN.encode() in path.read_bytes())

    assert holding(stock, tmp_path / "stock") == [
        "checkpoint-2/training_args.bin",
        "checkpoint-3/training_args.bin",
        "training_args.bin",
    ]
    assert holding(ours, tmp_path / "ours", teacher=classifier(seed=1)) == []
    assert not list((tmp_path / "ours").rglob("training_args.bin"))


# --- a loss that is not a number is logged as 0. Guard: `logging_nan_inf_filter=False`, `_check_finite`


def test_not_a_number_is_not_logged_as_zero(tmp_path):
    def broken(seed: int = 0) -> Any:
        model = classifier(seed=seed)
        with torch.no_grad():
            model.classifier.bias.fill_(float("nan"))
        return model

    run = stock(tmp_path, broken())
    run.train()
    assert [entry["loss"] for entry in run.state.log_history if "loss" in entry] == [0.0] * 3

    for trainer in (
        ours(tmp_path, broken(), teacher=classifier(seed=1)),
        ours(tmp_path, classifier(), teacher=broken(seed=1)),
    ):
        with pytest.raises(FloatingPointError):
            trainer.train()
        assert not [entry for entry in trainer.state.log_history if "loss" in entry]
