"""What a step costs: the teacher live, cut short or read from disk, against the least that it could cost, in one run.

    OMP_NUM_THREADS=1 python examples/benchmarks/step.py                          # about 3 minutes on one free core
    OMP_NUM_THREADS=1 python examples/benchmarks/step.py --shapes 4x128 4x512     # some 15 more

A BERT-base teacher of 12 layers, a student of its first 6, 28 labels, random weights, random texts of full length: a
step is forward, losses, backward and AdamW. Every case makes one step in each round, in changing order; a ratio is the
median over rounds of the case's time over that of its limit in the same round. Limits are loops written by hand:

- "student alone": the student's step on the labels, with no teacher at all;
- "teacher and student": the teacher's forward without gradients, then that step with the soft targets' loss;
- "half a teacher and student": the same with a teacher of its first six blocks.

Nothing here needs a trained model: no figure depends on what the models say. `--cases` names those that run.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, ProgressCallback

from hf_distill import DistillationConfig, DistillationTrainer, losses, students, teachers

LABELS, ROWS = 28, 64
SIZE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
STUDENT_LAYERS = 6

Step = Callable[[dict[str, torch.Tensor]], None]


def models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    config = BertConfig(num_labels=LABELS, problem_type="multi_label_classification", **SIZE)
    teacher = BertForSequenceClassification(config).eval()
    return teacher, students.keep_layers(teacher, list(range(STUDENT_LAYERS)))


def rows_of(length: int) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (ROWS, length), generator=generator)
    labels = torch.randint(0, 2, (ROWS, LABELS), generator=generator).float()
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    ids = torch.tensor([row["input_ids"] for row in rows])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {})


# ---- limits, written by hand --------------------------------------------------------------------------------------


def by_hand(student: nn.Module, teacher: nn.Module | None, eager: bool = False) -> Step:
    """A loop as anybody would write it; `eager` also takes two hidden states and two attention maps, as outputs."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    more = {"output_hidden_states": True, "output_attentions": True} if eager else {}
    for model in (student, teacher) if eager else ():
        model.set_attn_implementation("eager")

    def step(batch: dict[str, torch.Tensor]) -> None:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if teacher is not None:
            with torch.no_grad():
                theirs = teacher(**inputs, **more)
        mine = student.train()(**inputs, **more)
        loss = F.binary_cross_entropy_with_logits(mine.logits, batch["labels"])
        if teacher is not None and theirs.logits.shape == mine.logits.shape:
            loss = loss + F.binary_cross_entropy_with_logits(mine.logits / 2, torch.sigmoid(theirs.logits / 2))
        if eager:
            for layer, other in ((2, 5), (5, 11)):
                loss = loss + F.mse_loss(mine.hidden_states[layer + 1], theirs.hidden_states[other + 1])
                loss = loss + F.kl_div(
                    mine.attentions[layer].clamp(min=1e-9).log(), theirs.attentions[other], reduction="batchmean"
                )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# ---- ours ---------------------------------------------------------------------------------------------------------


def ours(
    student: nn.Module,
    teacher: teachers.Teacher,
    terms: list[losses.Loss],
    rows: Dataset,
    batch_size: int,
    folder: str,
) -> Step:
    """A step of the trainer: what it does between two batches, and no logging."""
    config = DistillationConfig(
        folder,
        per_device_train_batch_size=batch_size,
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

    def step(batch: dict[str, torch.Tensor]) -> None:
        trainer.model.train()
        samples, counts = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        trainer.training_step(trainer.model, samples[0], counts)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    return step


def soft_targets() -> list[losses.Loss]:
    return [losses.TaskLoss(weight=0.5), losses.SoftTargets(weight=0.5)]


def hidden() -> list[losses.Loss]:
    return [losses.HiddenMSE({2: 5, 5: 11})]


# case: (its limit, its losses, where the teacher's answers come from)
CASES: dict[str, tuple[str, Callable[[], list[losses.Loss]], str]] = {
    "logits from a cache": ("student alone", soft_targets, "cache"),
    "logits, 2 hidden states, RKD, from a cache": (
        "student alone",
        lambda: [*soft_targets(), *hidden(), losses.RKDDistance()],
        "cache",
    ),
    "logits live": ("teacher and student", soft_targets, "live"),
    "logits, 2 hidden states, 2 attention maps live": (
        "teacher and student",
        lambda: [*soft_targets(), *hidden(), losses.AttentionKL({2: 5, 5: 11})],
        "live",
    ),
    "the same by hand, everything eager": ("teacher and student", soft_targets, "eager"),
    "hidden states of the first half live": (
        "half a teacher and student",
        lambda: [losses.TaskLoss(), losses.HiddenMSE({2: 2, 5: 5})],
        "live",
    ),
}


def steps_of(names: list[str], rows: Dataset, batch_size: int, folder: str) -> dict[str, Step]:
    """Every case and every limit that one of them needs, each with a student of its own."""
    teacher, student = models()
    half = students.keep_layers(teacher, list(range(SIZE["num_hidden_layers"] // 2))).eval()
    limits: dict[str, nn.Module | None] = {
        "student alone": None,
        "teacher and student": teacher,
        "half a teacher and student": half,
    }
    wanted = {CASES[name][0] for name in names}
    steps = {name: by_hand(copy.deepcopy(student), model) for name, model in limits.items() if name in wanted}
    for name in names:
        _, terms, source = CASES[name]
        own = copy.deepcopy(student)
        if source == "eager":
            steps[name] = by_hand(own, copy.deepcopy(teacher), eager=True)
            continue
        made: teachers.Teacher = teachers.ModelTeacher(teacher)
        if source == "cache":
            made = teachers.CachedTeacher(Path(folder) / name.replace(" ", "_"), teacher)
        steps[name] = ours(own, made, terms(), rows, batch_size, folder)
    return steps


def measure(names: list[str], batch_size: int, length: int, rounds: int) -> dict[str, tuple[float, float, float]]:
    """{case: (seconds, ratio to its limit, half the spread of the ratio's middle half)}, of steps in turn."""
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(length)
        steps = steps_of(names, rows, batch_size, folder)
        times: dict[str, list[float]] = {name: [] for name in steps}
        order = list(steps)
        generator = torch.Generator().manual_seed(1)
        for number in track(range(rounds + 1), f"{batch_size} x {length}"):
            batch = collate([rows[i] for i in torch.randperm(ROWS, generator=generator)[:batch_size].tolist()])
            for name in order if number % 2 else reversed(order):
                start = time.perf_counter()
                steps[name](batch)
                if number:  # the first is a warm-up
                    times[name].append(time.perf_counter() - start)
    found = {}
    for name in names:
        ratios = [mine / limit for mine, limit in zip(times[name], times[CASES[name][0]], strict=True)]
        quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
        found[name] = (statistics.median(times[name]), statistics.median(ratios), (quarters[2] - quarters[0]) / 2)
    return found


def show(found: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    """One row a case, one column a shape; on the screen and as Markdown."""
    header = ["a step with", "its limit", *found]
    lines = []
    for name in dict.fromkeys(name for each in found.values() for name in each):
        cells = [f"{each[name][1]:.2f} ± {each[name][2]:.2f}" if name in each else "-" for each in found.values()]
        lines.append([name, CASES[name][0], *cells])
    table = Table(*header, caption=f"time over that of the limit; {torch.get_num_threads()} thread(s)")
    for line in lines:
        table.add_row(*line)
    Console(width=140).print(table)
    print("\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4x128"], help="batch x tokens")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    found = {}
    for shape in arguments.shapes:
        batch_size, length = map(int, shape.split("x"))
        found[f"{batch_size} x {length}"] = measure(arguments.cases, batch_size, length, arguments.rounds)
    show(found)


if __name__ == "__main__":
    main()
