"""A step of the trainer as the benchmarks time it, and what it is given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PrinterCallback, ProgressCallback

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers

Inputs = dict[str, torch.Tensor]
Step = Callable[[Inputs], Any]


def collate(rows: list[dict[str, Any]]) -> Inputs:
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name in ("input_ids", "labels")}
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def half_of(teacher: nn.Module) -> nn.Module:
    return students.keep_layers(teacher, list(range(teacher.config.num_hidden_layers // 2)))


def soft_targets() -> list[losses.Loss]:
    return [losses.TaskLoss(weight=0.5), losses.SoftTargets(weight=0.5)]


def ours(
    student: nn.Module,
    teacher: teachers.Teacher,
    terms: list[losses.Loss],
    rows: Dataset,
    size: int,
    folder: Path | str,
) -> Step:
    """A step of the trainer: what it does between two batches, and no logging."""
    config = DistillationConfig(
        str(Path(folder) / "out"),
        per_device_train_batch_size=size,
        max_steps=10**6,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
    )
    trainer = DistillationTrainer(student, teacher, terms, config, train_dataset=rows, data_collator=collate)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    if isinstance(teacher, teachers.CachedTeacher):
        teacher.fill([rows], collate)
    trainer.create_optimizer()
    trainer.current_gradient_accumulation_steps = 1
    trainer.state.global_step = 1  # in the first step the teacher runs to its end

    def step(batch: Inputs) -> None:
        trainer.model.train()
        samples, counts = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        trainer.training_step(trainer.model, samples[0], counts)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step
