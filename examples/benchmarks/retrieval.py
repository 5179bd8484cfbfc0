"""RKD on embeddings, as in its paper: classes nobody was trained on are searched with a student of 2 layers.

    python examples/benchmarks/retrieval.py                    # both seeds: about 20 minutes on one core
    python examples/benchmarks/retrieval.py --seeds 0 --methods triplet RKD-DA
    python examples/benchmarks/retrieval.py --seeds            # only the table, from the runs that are there

The first half of Banking77's intents, by name, is seen in training; the second half is searched. The teacher is
all-MiniLM-L6-v2, fine-tuned with the triplet loss; its embeddings are unit vectors, as in the paper. The student is
two blocks of MiniLM *before* the fine-tuning, so that what it learns of the seen classes comes through its one loss:
triplets of the labels; or the teacher's distances, angles or both, and then no labels. Every run of a seed has the
same batches, 16 classes with 4 texts each. A run that is finished is not made again.

Recall@K: the share of texts that have one of their own class among the K nearest others, Euclidean, in the embeddings
that the loss saw (unit vectors for a student that is normalised).

Reference: Park et al. 2019, arXiv:1904.05068, section 4.1.
Differs from the paper: texts instead of images; the triplet loss takes all triplets of a batch that violate the
margin, not distance-weighted samples; batches of 64 and not 128; few steps (120, in bfloat16), with the table of words
frozen.
"""

import argparse
import csv
import json
import random
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PrinterCallback, ProgressCallback
from transformers.utils import logging

from hf_distill import DistillationConfig, DistillationTrainer, demo, students
from hf_distill.batch import Batch
from hf_distill.losses import Loss, RKDAngle, RKDDistance
from hf_distill.signals import Signals, pooled
from hf_distill.tasks import Task
from hf_distill.teachers import Nobody, Teacher

HERE = Path(__file__).resolve().parents[2]
METHODS = ("triplet", "RKD-D", "RKD-A", "RKD-DA")
ENCODER, TEACHER, UNTRAINED = "MiniLM-L6 as it comes", "teacher", "untrained student"
KS = (1, 2, 4, 8)
MAX_LENGTH = 32
EMBEDDING = pooled("mean")

console = Console(width=120)


# The losses


def triplet(rows: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Mean of `distance to a positive - distance to a negative + margin` over all triplets where that is above 0.

    Args:
        rows: embeddings, shape (batch, dim).
        labels: class ids, shape (batch,).
        margin: how much further away the negative must be.

    Returns:
        A scalar; 0 where every negative is far enough.
    """
    found = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    violation = (found[:, :, None] - found[:, None, :] + margin).relu()  # (anchor, positive, negative)
    violation = torch.where(positive[:, :, None] & ~same[:, None, :], violation, 0.0)
    return violation.sum() / (violation > 0).sum().clamp(min=1)


class Triplet(Loss):
    """The labels' own loss on embeddings: no teacher is asked."""

    needs_labels = True
    relational = True

    def __init__(self, margin: float = 0.2, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.margin = margin

    def pairs(self):
        return [(EMBEDDING, None)]

    def compare(self, student, teacher, batch):
        return batch.mean(triplet(student, batch.labels, self.margin), over="batch")


class Normalised:
    """In front of a loss: it sees the student's embeddings as unit vectors."""

    def project(self, index, student):
        return F.normalize(student, dim=-1)


class UnitTriplet(Normalised, Triplet):
    """Triplets of unit vectors."""


class UnitRKDDistance(Normalised, RKDDistance):
    """Distances between unit vectors."""


class UnitRKDAngle(Normalised, RKDAngle):
    """Angles between unit vectors."""


def losses_of(method: str, normalised: bool) -> list[Loss]:
    """The only loss of a run, with the paper's weights."""
    distance, angle = (UnitRKDDistance, UnitRKDAngle) if normalised else (RKDDistance, RKDAngle)
    return {
        "triplet": [UnitTriplet() if normalised else Triplet()],
        "RKD-D": [distance("mean", weight=1.0)],
        "RKD-A": [angle("mean", weight=2.0)],
        "RKD-DA": [distance("mean", weight=1.0), angle("mean", weight=2.0)],
    }[method]


# The data


def read(file: Path, tokenizer: Any) -> tuple[Dataset, Dataset]:
    """Tokenised texts of the seen and of the unseen classes: the first and the second half by name."""
    with open(file, encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    names = sorted({row["category"] for row in rows})
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    found = []
    for half in halves:
        texts = [row for row in rows if row["category"] in half]
        encoded = tokenizer([row["text"] for row in texts], truncation=True, max_length=MAX_LENGTH)
        labels = {"label": [half.index(row["category"]) for row in texts], "row": list(range(len(texts)))}
        found.append(Dataset.from_dict({**encoded, **labels}))
    return found[0], found[1]


def class_batches(labels: Sequence[int], steps: int, classes: int, examples: int, seed: int) -> list[int]:
    """Rows of `steps` batches one after the other, each of so many classes with so many different examples."""
    drawn = random.Random(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for row, label in enumerate(labels):
        members[label].append(row)
    return [
        row
        for _ in range(steps)
        for label in drawn.sample(sorted(members), classes)
        for row in drawn.sample(members[label], examples)
    ]


# Training and searching


class Embedded(Teacher):
    """The teacher's embeddings of all training texts, computed once: it is frozen, and a text is always the same."""

    input_names = ("row",)

    def __init__(self, embeddings: Tensor) -> None:
        self.embeddings = embeddings

    def observe(self, batch: Batch) -> Signals:
        return {EMBEDDING: self.embeddings[batch.inputs["row"]]}


@torch.no_grad()
def embed(model: nn.Module, rows: Dataset, tokenizer: Any, normalised: bool) -> Tensor:
    """Mean-pooled embeddings of all rows, in their order: (rows, width)."""
    by_length = sorted(range(len(rows)), key=lambda row: len(rows[row]["input_ids"]))
    texts = rows.remove_columns(["label", "row"])
    found = torch.empty(len(rows), model.config.hidden_size)
    for start in range(0, len(rows), 128):
        chosen = by_length[start : start + 128]
        inputs = tokenizer.pad(texts[chosen], return_tensors="pt")
        found[chosen] = Batch(inputs, Task.EMBEDDING).pool(model(**inputs).last_hidden_state, "mean")
    return F.normalize(found, dim=-1) if normalised else found


def recall(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of the rows that have a row of their class among their K nearest others, in percent: {K: share}."""
    apart = torch.cdist(embeddings, embeddings).fill_diagonal_(torch.inf)
    nearest = apart.topk(max(KS), largest=False).indices
    hits = (labels[nearest] == labels[:, None]).cumsum(1) > 0
    return {str(k): 100 * hits[:, k - 1].float().mean().item() for k in KS}


class Experiment:
    """What the runs of one seed share: data, batches and the fine-tuned teacher."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed = options, seed
        self.encoder = options.encoder or demo.encoder_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(self.encoder)
        self.seen, self.unseen = read(options.data, self.tokenizer)
        order = class_batches(self.seen["label"], options.steps, options.classes, options.examples, seed)
        self.batches = self.seen.select(order)
        self.folder = options.output / f"seed{seed}" / "teacher"
        self._taught: Embedded | None = None

    def model(self, path: Path) -> nn.Module:
        return AutoModel.from_pretrained(path, dtype=torch.float32)

    def student(self) -> nn.Module:
        encoder = self.model(self.encoder)
        return students.keep_layers(encoder, students.spread(encoder, 2))

    def train(self, model: nn.Module, teacher: Teacher, losses: list[Loss], learning_rate: float) -> nn.Module:
        """The model itself after one pass over the batches, in the order in which they stand."""
        model.get_input_embeddings().requires_grad_(False)  # half of the weights or more; only seen words would move
        with tempfile.TemporaryDirectory() as folder:
            args = DistillationConfig(
                folder,
                per_device_train_batch_size=self.options.classes * self.options.examples,
                num_train_epochs=1,
                train_sampling_strategy="sequential",
                learning_rate=learning_rate,
                warmup_steps=0.1,
                weight_decay=0.01,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                bf16=True,
                seed=self.seed,
            )
            trainer = DistillationTrainer(
                model, teacher, losses, args, train_dataset=self.batches, processing_class=self.tokenizer
            )
            for callback in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(callback)
            trainer.train()
        return model.eval()

    def teacher(self) -> nn.Module:
        """Fine-tuned with triplets of unit vectors, or loaded if that was done."""
        if not self.folder.exists():
            model = self.train(self.model(self.encoder), Nobody(), [UnitTriplet()], self.options.teacher_learning_rate)
            model.save_pretrained(self.folder)
        return self.model(self.folder)

    def taught(self) -> Embedded:
        """What the teacher says of the seen texts."""
        if self._taught is None:
            self._taught = Embedded(embed(self.teacher(), self.seen, self.tokenizer, normalised=True))
        return self._taught

    def run(self, name: str, normalised: bool) -> dict[str, float]:
        """One row of the table: Recall@K among the unseen classes."""
        if name == ENCODER:
            model = self.model(self.encoder)
        elif name == TEACHER:
            model = self.teacher()
        else:
            model = self.student()
        if name in METHODS:
            teacher = Nobody() if name == "triplet" else self.taught()
            model = self.train(model, teacher, losses_of(name, normalised), self.options.learning_rate)
        embeddings = embed(model, self.unseen, self.tokenizer, normalised)
        return recall(embeddings, torch.tensor(self.unseen["label"]))


def wanted(methods: Sequence[str]) -> list[tuple[str, bool]]:
    """The rows of the table: (name, normalised)."""
    both = [(name, normalised) for name in (UNTRAINED, *methods) for normalised in (False, True)]
    return [(ENCODER, True), (TEACHER, True), *both]


def make(options: argparse.Namespace, seed: int) -> None:
    """The runs of a seed that are not there yet; each is stored as soon as it is finished."""
    file = options.output / f"seed{seed}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    missing = [each for each in wanted(options.methods) if key(*each) not in found]
    if not missing:
        return
    experiment = Experiment(options, seed)
    for name, normalised in track(missing, f"seed {seed}", console=console):
        start = time.perf_counter()
        found[key(name, normalised)] = experiment.run(name, normalised)
        file.write_text(json.dumps(found, indent=1))
        first = found[key(name, normalised)]["1"]
        console.print(
            f"seed {seed}, {key(name, normalised)}: Recall@1 {first:.1f}, {time.perf_counter() - start:.0f} s"
        )


# The table


def key(name: str, normalised: bool) -> str:
    return f"{name}, normalised" if normalised else name


def show(runs: Sequence[dict[str, dict[str, float]]], names: Sequence[tuple[str, bool]]) -> None:
    """Mean and half range over the seeds, on the screen and as Markdown."""
    header = ["student learns from", "normalised", *(f"Recall@{k}" for k in KS)]
    rows = []
    for name, normalised in names:
        made = [run[key(name, normalised)] for run in runs if key(name, normalised) in run]
        cells = [spread([run[str(k)] for run in made]) for k in KS]
        rows.append([name, "yes" if normalised else "no", *cells])
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    print("\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]))


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    half = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{half}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "banking77" / "train.csv")
    parser.add_argument("--encoder", type=Path, help="a folder; left out: all-MiniLM-L6-v2 from its package")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--classes", type=int, default=16, help="of a batch")
    parser.add_argument("--examples", type=int, default=4, help="of each class of a batch")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="the student's")
    parser.add_argument("--teacher-learning-rate", type=float, default=5e-5)
    parser.add_argument("--output", type=Path, default=Path("out/retrieval"))
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    options.output.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        make(options, seed)
    show([json.loads(file.read_text()) for file in sorted(options.output.glob("seed*.json"))], wanted(options.methods))


if __name__ == "__main__":
    main()
