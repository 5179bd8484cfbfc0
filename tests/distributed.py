"""Small trainings for the tests of the trainer, here because two processes must be able to import them.

    torchrun --nproc_per_node 2 tests/distributed.py FOLDER

runs every one of `RUNS`, or those that are named after FOLDER, with a batch of 4 a process, and writes what came out
to FOLDER/results.pt.
"""

import gc
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from models import LABELS, VOCABULARY, tiny
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback
from transformers.utils import logging

from hf_distill import DistillationConfig, DistillationTrainer, anatomy
from hf_distill.losses import (
    CATALOGUE,
    AttentionKL,
    AttentionMSE,
    BoundaryTargets,
    ContrastiveRepresentation,
    HiddenCosine,
    HiddenMSE,
    Loss,
    RKDAngle,
    RKDDistance,
    Sobolev,
    SoftTargets,
    TaskLoss,
    warmup,
)
from hf_distill.tasks import find_task

logging.set_verbosity_error()
logging.disable_progress_bar()

TOGETHER = (TaskLoss, SoftTargets, HiddenMSE, HiddenCosine, AttentionKL, AttentionMSE, RKDDistance, RKDAngle)
# boundary samples are made by a teacher of their own: tests/schemes/test_adversarial.py
ALL_LOSSES = [loss for group in CATALOGUE.values() for loss in group if loss is not BoundaryTargets]
HEADS = {
    "labels": ("ForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "one label": ("ForSequenceClassification", {"problem_type": "single_label_classification"}),
    "tokens": ("ForTokenClassification", {}),
}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0}


def teacher(head: str = "labels", **fields: Any) -> PreTrainedModel:
    kind, settings = HEADS[head]
    return tiny("bert", kind, seed=1, **{"num_labels": LABELS, **_NO_DROPOUT, **settings, **fields})


def student(head: str = "labels", **fields: Any) -> PreTrainedModel:
    """Half as wide and half as deep as the teacher."""
    smaller = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24}
    return teacher(head, **{**smaller, **fields})


def made(loss: type[Loss]) -> Loss:
    """With a weight that brings its gradient to the size of the others': rounding grows with it."""
    return loss(
        weight={"DecoupledKL": 0.02, "LabelEmbeddings": 0.01, "AttentionTransfer": 100.0}.get(loss.__name__, 0.7)
    )


def student_for(loss: type[Loss], head: str) -> PreTrainedModel | None:
    """A student that the loss takes with its defaults, narrower than the teacher if it can; None if it takes none."""
    for fields in ({}, {"hidden_size": teacher(head).config.hidden_size}):
        model = student(head, **fields)
        try:
            loss().setup(anatomy.describe(model), anatomy.describe(teacher(head)), find_task(model))
        except ValueError:
            continue
        return model
    return None


def heads_of(loss: type[Loss]) -> list[str]:
    """The heads that a loss is tried on: several labels and tokens, or one label where it takes none of several."""
    taken = [head for head in HEADS if student_for(loss, head) is not None]
    assert taken, loss
    return [head for head in taken if head != "one label" or "labels" not in taken]


def rows(number: int, head: str = "labels", seed: int = 0) -> Dataset:
    """Ragged rows, some of whose labels are ignored."""
    generator = torch.Generator().manual_seed(seed)
    ids = [
        torch.randint(3, VOCABULARY, (int(torch.randint(2, 12, (1,), generator=generator)),), generator=generator)
        for _ in range(number)
    ]
    if head == "labels":
        labels = [torch.randint(0, 2, (LABELS,), generator=generator).float() for _ in ids]
        labels[1] = torch.full((LABELS,), -100.0)
    elif head == "one label":
        labels = [torch.randint(0, LABELS, (), generator=generator) for _ in ids]
        labels[1] = torch.tensor(-100)
    else:
        labels = [torch.randint(0, LABELS, each.shape, generator=generator) for each in ids]
        for each in labels[::3]:
            each[1:] = -100
    return Dataset.from_dict({"input_ids": [x.tolist() for x in ids], "labels": [x.tolist() for x in labels]})


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(each["input_ids"]) for each in examples)

    def padded(values: list[Any], filling: int) -> list[Any]:
        return values + [filling] * (longest - len(values))

    first = examples[0]["labels"]
    per_token = isinstance(first, list) and isinstance(first[0], int)
    return {
        "input_ids": torch.tensor([padded(each["input_ids"], 0) for each in examples]),
        "attention_mask": torch.tensor([padded([1] * len(each["input_ids"]), 0) for each in examples]),
        "labels": torch.tensor([padded(each["labels"], -100) if per_token else each["labels"] for each in examples]),
    }


def trainer_of(
    folder: Path,
    losses: Iterable[Loss] | None,
    model: Any = None,
    head: str = "labels",
    kind: type[DistillationTrainer] = DistillationTrainer,
    train: Dataset | None = None,
    others: dict[str, Any] | None = None,
    **settings: Any,
) -> DistillationTrainer:
    """Plain gradient descent: Adam divides by the size of a gradient, and makes a step of rounding alone."""
    defaults = {"optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "logging_steps": 1}
    quiet = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 2}
    evaluation = {"per_device_eval_batch_size": 4}
    gc.freeze()  # the Trainer collects garbage at its start, among all that was imported
    trainer = kind(
        model=student(head) if model is None and "model_init" not in (others or {}) else model,
        losses=losses,
        args=DistillationConfig(str(folder), **{**defaults, **quiet, **evaluation, **settings}),
        train_dataset=rows(16, head) if train is None else train,
        **{
            "teacher": teacher(head),
            "eval_dataset": rows(9, head, seed=5),
            "data_collator": collate,
            **(others or {}),
        },
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def weights_of(trainer: DistillationTrainer) -> dict[str, Tensor]:
    """Everything that is trained: the student, and the objective, attached to it or not."""
    objective = {f"objective.{name}": value for name, value in trainer.objective.state_dict().items()}
    return {name: value.detach().clone() for name, value in {**trainer.model.state_dict(), **objective}.items()}


def outcome(trainer: DistillationTrainer, **more: Any) -> dict[str, Any]:
    weights = weights_of(trainer)
    flat = torch.cat([value.flatten().float() for value in weights.values()])
    gathered = trainer.accelerator.gather(flat[None])
    return {
        "history": [logs for logs in trainer.state.log_history if "train_runtime" not in logs],
        "weights": weights,
        "ranks_agree": all(torch.equal(each, flat) for each in gathered),
        **more,
    }


class Layout:
    """How one optimizer step of 8 rows is cut: batch 8, or batch 2 accumulated, or batch 4 on two processes."""

    def __init__(self, batch: int, accumulation: int = 1) -> None:
        self.settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}


def one_loss(loss: type[Loss], head: str) -> Callable[[Layout, Path], dict[str, Any]]:
    def run(layout: Layout, folder: Path) -> dict[str, Any]:
        trainer = trainer_of(folder, [made(loss)], student_for(loss, head), head=head, **layout.settings)
        trainer.train()
        return outcome(trainer)

    return run


def together(layout: Layout, folder: Path) -> dict[str, Any]:
    """One loss of each kind, the student evaluated before it is trained, and a prediction afterwards."""
    losses = [loss(weight=0.3) for loss in TOGETHER]
    trainer = trainer_of(folder, losses, eval_strategy="epoch", **layout.settings)
    before = trainer.evaluate()
    trainer.train()
    predicted = trainer.predict(rows(14, seed=6))
    return outcome(trainer, before=before, predictions=predicted.predictions, metrics=predicted.metrics)


def everything(layout: Layout, folder: Path) -> dict[str, Any]:
    """LoRA, accumulation, activation checkpointing, compiled blocks, evaluation first, the best model at the end."""
    batch, accumulation = layout.settings.values()
    settings = {"per_device_train_batch_size": batch // 2, "gradient_accumulation_steps": accumulation * 2}
    trainer = trainer_of(
        folder,
        [SoftTargets(weight=0.5), HiddenMSE(weight=0.5), TaskLoss(weight=0.1)],
        others={"peft_config": LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.0, init_lora_weights="gaussian")},
        activation_checkpointing=True,
        torch_compile=True,
        torch_compile_backend="eager",
        eval_on_start=True,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_hidden_mse",
        greater_is_better=False,
        **settings,
    )
    trainer.train()
    compiled = sum(block._compiled_call_impl is not None for block in anatomy.find_blocks(trainer.model))
    return outcome(trainer, compiled=compiled, best=trainer.state.best_global_step)


def half_precision(layout: Layout, folder: Path) -> dict[str, Any]:
    """bf16 with activation checkpointing and projections, evaluated before."""
    trainer = trainer_of(
        folder,
        [SoftTargets(), HiddenMSE(), RKDDistance(), AttentionKL()],
        bf16=True,
        activation_checkpointing=True,
        **layout.settings,
    )
    trainer.evaluate()
    trainer.train()
    return outcome(trainer)


def balanced(layout: Layout, folder: Path) -> dict[str, Any]:
    """Weights from gradients, measured in every second step, and a term that is warmed up from 0."""
    losses = [SoftTargets(weight=warmup(1.0, over=0.5)), HiddenMSE(), TaskLoss(weight=2.0)]
    trainer = trainer_of(folder, losses, balance="gradient_norm", balance_every=2, **layout.settings)
    trainer.train()
    return outcome(trainer)


def with_arguments(layout: Layout, folder: Path) -> dict[str, Any]:
    """A queue of earlier examples, and second derivatives along two directions."""
    losses = [ContrastiveRepresentation(queue=16, weight=0.1), Sobolev(order=2, projections=2, weight=0.1)]
    as_wide = student(hidden_size=teacher().config.hidden_size)
    trainer = trainer_of(folder, losses, as_wide, **layout.settings)
    trainer.train()
    return outcome(trainer)


def features_only(layout: Layout, folder: Path) -> dict[str, Any]:
    """No loss reaches the head, and activation checkpointing would turn off the search for unused parameters."""
    trainer = trainer_of(folder, [HiddenMSE()], activation_checkpointing=True, **layout.settings)
    trainer.train()
    return outcome(trainer)


def again(layout: Layout, folder: Path) -> dict[str, Any]:
    """Trained twice by one trainer, then by a second one with another objective."""
    trainer = trainer_of(folder, [HiddenMSE()], num_train_epochs=1, **layout.settings)
    trainer.train()
    trainer.train()
    second = trainer_of(folder, [SoftTargets()], trainer.model, num_train_epochs=1, **layout.settings)
    second.train()
    return outcome(second)


def resumed(layout: Layout, folder: Path) -> dict[str, Any]:
    """Dropout on; beside the weights those of a second trainer that went on from the middle of an epoch."""
    settings = {
        **layout.settings,
        "optim": "adamw_torch",
        "train": rows(24),
        "save_strategy": "steps",
        "save_steps": 4,
    }

    def trainer() -> DistillationTrainer:
        dropping = student(hidden_dropout_prob=0.1)
        return trainer_of(folder, [HiddenMSE(), SoftTargets()], dropping, **settings)

    whole, part = trainer(), trainer()
    whole.train()
    part.train(resume_from_checkpoint=str(folder / "checkpoint-4"))
    return outcome(whole, resumed=weights_of(part))


RUNS_OF_SEVERAL = (together, everything, half_precision, balanced, with_arguments, features_only, again, resumed)
RUNS: dict[str, Callable[[Layout, Path], dict[str, Any]]] = {
    **{f"{loss.__name__}-{head}": one_loss(loss, head) for loss in ALL_LOSSES for head in heads_of(loss)},
    **{run.__name__: run for run in RUNS_OF_SEVERAL},
}


def run_all(layout: Layout, folder: Path, names: Iterable[str] = RUNS) -> dict[str, dict[str, Any]]:
    return {name: RUNS[name](layout, folder / name) for name in names}


def main(folder: Path, names: list[str]) -> None:
    results = run_all(Layout(4), folder, names or RUNS)
    if int(dist.get_rank()) == 0:
        torch.save(results, folder / "results.pt")
    gc.unfreeze()  # what trainers left holds the process group, whose threads would abort the process at its end
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
