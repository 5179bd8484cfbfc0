"""The work that every contestant does: the same models, rows, losses, optimizer and schedule."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    get_linear_schedule_with_warmup,
    set_seed,
)

Batch = dict[str, Tensor]
MULTI_LABEL, CAUSAL_LM = "multi_label", "causal_lm"


@dataclass
class Work:
    """A teacher, a student, rows, and how to learn. `task_weight` is the labels' share, soft targets have the rest."""

    kind: str
    teacher: PreTrainedModel
    student: PreTrainedModel
    rows: list[dict[str, Any]]
    collate: Callable[[list[dict[str, Any]]], Batch]
    output: Path
    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: float = 0.06
    temperature: float = 2.0
    task_weight: float = 0.5
    seed: int = 0
    options: list[str] = field(default_factory=list)  # switches that a contestant's documentation offers

    @property
    def steps(self) -> int:
        return -(-len(self.rows) // self.batch_size) * self.epochs

    def loader(self) -> DataLoader:
        """Shuffled anew in every epoch."""
        return DataLoader(self.rows, self.batch_size, shuffle=True, collate_fn=self.collate)

    def optimizer(self) -> torch.optim.Optimizer:
        """The Trainer's: fused AdamW, no decay of biases and norms."""
        decayed = {name: p for name, p in self.student.named_parameters() if p.ndim > 1}
        others = [p for name, p in self.student.named_parameters() if name not in decayed]
        groups = [
            {"params": list(decayed.values()), "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)

    def schedule(self) -> tuple[Callable[..., Any], dict[str, int]]:
        """The scheduler's maker and its arguments."""
        steps = {"num_warmup_steps": math.ceil(self.warmup * self.steps), "num_training_steps": self.steps}
        return get_linear_schedule_with_warmup, steps

    def soft_loss(self, student: Tensor, teacher: Tensor, temperature: float | None = None) -> Tensor:
        """Soft targets times temperature squared: of several labels the sum of each one's, else the softmax's KL."""
        t = self.temperature if temperature is None else temperature
        if self.kind == MULTI_LABEL:
            each = F.binary_cross_entropy_with_logits(student / t, torch.sigmoid(teacher / t), reduction="none")
            return each.sum(-1).mean() * t**2
        log_q, log_p = (F.log_softmax(side[:, :-1].flatten(0, 1) / t, dim=-1) for side in (student, teacher))
        return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * t**2

    def trainer_arguments(self) -> dict[str, Any]:
        """The same for contestants that are Trainers."""
        return {
            "output_dir": str(self.output),
            "num_train_epochs": self.epochs,
            "per_device_train_batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "warmup_steps": self.warmup,
            "save_strategy": "no",
            "logging_steps": 100,
            "report_to": "none",
            "use_cpu": True,
            "seed": self.seed,
        }


def from_files(spec: dict[str, Any]) -> Work:
    """A teacher and a student in folders, and rows in a file of texts and label ids. Padded to the batch's longest."""
    teacher, student = (
        AutoModelForSequenceClassification.from_pretrained(spec.pop(role), dtype=torch.float32)
        for role in ("teacher", "student")
    )
    tokenizer = AutoTokenizer.from_pretrained(teacher.name_or_path)
    texts, labels = [], []
    for line in filter(None, Path(spec.pop("rows")).read_text(encoding="utf-8").split("\n")):
        text, ids, *_ = line.split("\t")
        texts.append(text)
        labels.append([float(str(label) in ids.split(",")) for label in range(student.config.num_labels)])
    encoded = tokenizer(texts, truncation=True, max_length=spec.pop("max_length"), return_token_type_ids=False)
    rows = [
        {"input_ids": ids, "attention_mask": mask, "labels": row}
        for ids, mask, row in zip(encoded["input_ids"], encoded["attention_mask"], labels, strict=True)
    ]
    padded = DataCollatorWithPadding(tokenizer)
    return Work(
        MULTI_LABEL, teacher, student, rows, lambda batch: dict(padded(batch)), Path(spec.pop("output")), **spec
    )


def from_sizes(spec: dict[str, Any]) -> Work:
    """Random models and random rows of full length, as many as so many steps of one epoch take."""
    kind, sizes, length, steps = spec.pop("kind"), spec.pop("sizes"), spec.pop("length"), spec.pop("steps")
    layers = sizes["num_hidden_layers"]
    teacher, student = (_model(kind, {**sizes, "num_hidden_layers": depth}) for depth in (layers, layers // 2))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, teacher.config.vocab_size, (steps * spec["batch_size"], length), generator=generator)
    labels = ids
    if kind == MULTI_LABEL:
        labels = torch.randint(0, 2, (len(ids), teacher.config.num_labels), generator=generator).float()
    rows = [{"input_ids": one, "labels": label} for one, label in zip(ids.tolist(), labels.tolist(), strict=True)]
    return Work(kind, teacher, student, rows, _stacked, Path(spec.pop("output")), **{"epochs": 1, **spec})


def _model(kind: str, sizes: dict[str, int]) -> PreTrainedModel:
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if kind == CAUSAL_LM:
        return LlamaForCausalLM(LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, **sizes))
    return BertForSequenceClassification(BertConfig(num_labels=28, problem_type="multi_label_classification", **sizes))


def _stacked(rows: list[dict[str, Any]]) -> Batch:
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def load(text: str) -> Work:
    """The work that a JSON text describes: of folders and a file, or of sizes."""
    spec = json.loads(text)
    set_seed(spec.get("seed", 0))
    work = from_sizes(spec) if "sizes" in spec else from_files(spec)
    work.output.mkdir(parents=True, exist_ok=True)
    work.teacher.eval()
    set_seed(work.seed)
    return work
