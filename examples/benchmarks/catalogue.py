"""Every loss of the catalogue on GoEmotions: alone, and beside soft targets. Which ones help, and what they cost.

    python examples/benchmarks/catalogue.py                       # all losses, two seeds: about 3 hours on one core
    python examples/benchmarks/catalogue.py --seeds 0 --losses HiddenMSE RKDAngle
    python examples/benchmarks/catalogue.py --seeds               # only the table, from the runs that are there

One teacher (6 layers), one student of 3 layers made of its blocks, 6,000 rows, one epoch, for every run of a seed the
same batches in the same order. The second term of a pair pulls as hard as soft targets do (`balance="gradient_norm"`),
so that no weight was tuned for any of them; alone, a loss has weight 1. The student starts with the teacher's head, so
that a loss that never looks at logits has figures too. What the teacher says of a batch is computed once and
remembered for all runs of a seed. A run that is finished is not made again.

Seconds are measured apart, each loss and soft targets in turn, teacher live: `--time`.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn
from transformers import AutoTokenizer, PrinterCallback, ProgressCallback, set_seed

from hf_distill import DistillationConfig, DistillationTrainer, data, metrics, students, teachers
from hf_distill.batch import Batch
from hf_distill.losses import CATALOGUE, Loss, SoftTargets
from hf_distill.recipe import DatasetSpec
from hf_distill.signals import Signal, Signals

HERE = Path(__file__).resolve().parents[2]
LOSSES = {loss.__name__: loss for group in CATALOGUE.values() for loss in group}
REFERENCE = "SoftTargets"
WAYS = ("alone", "with soft targets")


class Remembering(teachers.ModelTeacher):
    """Answers a batch that it has seen from memory: every run of a seed has the same batches."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._said: dict[bytes, dict[Signal, torch.Tensor]] = {}
        self._wanted: frozenset[Signal] = frozenset()

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        super().prepare(student, wanted, device, tokenizer)
        self._wanted = wanted

    def observe(self, batch: Batch) -> Signals:
        known = self._said.setdefault(batch.inputs["input_ids"].numpy().tobytes(), {})
        if not self._wanted <= known.keys():
            known.update(super().observe(batch))
        said = {signal: known[signal] for signal in self._wanted}
        for signal in [each for each in known if each.kind == "input_gradient"]:  # along directions of this step alone
            del known[signal]
        return said


def read(arguments: argparse.Namespace) -> tuple[Any, Any, nn.Module]:
    """Rows, tokenizer and teacher."""
    disable_progress_bars()
    folder = arguments.data
    spec = DatasetSpec(path=f"{folder}/*.tsv", columns=["text", "labels", "id"], label_names=f"{folder}/labels.txt")
    teacher = teachers.load(str(arguments.teacher))
    tokenizer = AutoTokenizer.from_pretrained(arguments.teacher)
    names = data.read_label_names(spec.label_names)
    loaded = data.load(spec)
    loaded["train"] = loaded["train"].shuffle(seed=0).select(range(arguments.rows))
    loaded["validation"] = loaded["validation"].select(range(min(arguments.evaluate, len(loaded["validation"]))))
    rows = data.encode(loaded, tokenizer, task="multi_label", label_names=names, max_length=64)
    return rows, tokenizer, teacher


def losses_of(name: str, way: str) -> list[Loss] | None:
    """One loss, or soft targets and that loss; None for soft targets beside themselves."""
    if way == "alone":
        return [LOSSES[name]()]
    return None if name == REFERENCE else [SoftTargets(), LOSSES[name]()]


def trainer_of(
    losses: list[Loss],
    rows: Any,
    tokenizer: Any,
    teacher: teachers.ModelTeacher,
    seed: int,
    folder: str,
    made_of: nn.Module | None = None,
    **more: Any,
) -> DistillationTrainer:
    """A trainer of one epoch; the student is made of the teacher, or of another model."""
    set_seed(seed)
    model = teacher.model if made_of is None else made_of
    student = students.from_teacher(model, "distilbert", students.spread(model, 3))
    settings = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 128,
        "num_train_epochs": 1,
        "learning_rate": 3e-4,
        "warmup_steps": 0.06,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",
        "balance": "gradient_norm" if len(losses) > 1 else None,
        "balance_every": 20,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": seed,
    }
    trainer = DistillationTrainer(
        student,
        teacher,
        losses,
        DistillationConfig(folder, **{**settings, **more}),
        train_dataset=rows["train"],
        eval_dataset=rows["validation"],
        processing_class=tokenizer,
    )
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    return trainer


def run(name: str, way: str, seed: int, rows: Any, tokenizer: Any, teacher: teachers.ModelTeacher) -> dict[str, Any]:
    """Trains one student, and says how good it is and how like its teacher; or why it cannot be trained."""
    losses = losses_of(name, way)
    assert losses is not None
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = trainer_of(losses, rows, tokenizer, teacher, seed, folder)
        except ValueError as error:
            return {"refused": str(error)}
        trainer.train()
        evaluated = trainer.predict(rows["validation"])
    quality = metrics.for_task("multi_label").compute(
        predictions=evaluated.predictions, references=evaluated.label_ids
    )
    return {
        "mean_average_precision": quality["mean_average_precision"],
        "agreement": evaluated.metrics["test_agreement"],
    }


def measure(rows: Any, tokenizer: Any, teacher: nn.Module, names: list[str], steps: int) -> dict[str, float]:
    """Seconds per 100 steps with soft targets beside it, over those of soft targets alone; in turn, teacher live."""
    ratios = {}
    live = teachers.ModelTeacher(teacher)
    with tempfile.TemporaryDirectory() as folder:
        for name in track(names, "time"):
            losses = losses_of(name, "with soft targets")
            try:
                pair = [
                    trainer_of(each, rows, tokenizer, live, 0, folder, balance=None, max_steps=steps)
                    for each in ([SoftTargets()], losses or [SoftTargets()])
                ]
            except ValueError:
                continue
            found = []
            batches = [batch for _, batch in zip(range(steps), pair[0].get_train_dataloader(), strict=False)]
            for trainer in pair:
                trainer.create_optimizer()
                trainer.model.train()
            for batch in batches:
                seconds = [_step(trainer, live, batch) for trainer in pair]
                found.append(seconds[1] / seconds[0])
            ratios[name] = statistics.median(found)
    return ratios


def _step(trainer: DistillationTrainer, live: teachers.ModelTeacher, batch: Any) -> float:
    """One step of training, by the clock; the teacher, shared by two trainers, is told which one asks."""
    wanted = trainer.objective.wanted_of_teacher
    live.prepare(trainer.model, wanted, torch.device("cpu"), None)
    start = time.perf_counter()
    trainer.compute_loss(trainer.model, batch).backward()
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return time.perf_counter() - start


def show(found: dict[str, Any], ratios: dict[str, float]) -> None:
    """The table, on the screen and as Markdown."""
    header = ["loss", *(f"{way}: {what}" for way in WAYS for what in ("mAP", "agreement")), "time"]
    rows = []
    for group, members in CATALOGUE.items():
        for loss in members:
            name, cells = loss.__name__, []
            for way in WAYS:
                runs = [each for key, each in found.items() if key.startswith(f"{name}|{way}|")]
                if any("refused" in each for each in runs):
                    cells += ["refused", ""]
                    continue
                for what, digits in (("mean_average_precision", 3), ("agreement", 4)):
                    cells.append(_spread([each[what] for each in runs], digits))
            rows.append([name, *cells, f"{ratios[name]:.2f}" if name in ratios else "-", group])
    table = Table(*header)
    for row in rows:
        table.add_row(*row[:-1])
    Console(width=150).print(table)
    print(
        "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *(r[:-1] for r in rows)])
    )
    for name, text in sorted(
        {key.split("|")[0]: each["refused"] for key, each in found.items() if "refused" in each}.items()
    ):
        print(f"{name}: {text}")


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    mean = statistics.mean(values)
    half = (max(values) - min(values)) / 2
    return f"{mean:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "goemotions")
    parser.add_argument("--teacher", type=Path, default=HERE.parent / "shared" / "models" / "goemotions_teacher")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--evaluate", type=int, default=5426, help="rows of the dev split")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--output", type=Path, default=Path("out/catalogue"))
    parser.add_argument("--time", type=int, default=0, metavar="STEPS", help="measure seconds over so many steps")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.seeds or arguments.time:
        rows, tokenizer, model = read(arguments)
    for seed in arguments.seeds:
        file, teacher = arguments.output / f"seed{seed}.json", Remembering(model)
        found = json.loads(file.read_text()) if file.exists() else {}
        wanted = [(name, way) for name in arguments.losses for way in WAYS if losses_of(name, way) is not None]
        for name, way in track(
            [pair for pair in wanted if f"{pair[0]}|{pair[1]}|{seed}" not in found], f"seed {seed}"
        ):
            found[f"{name}|{way}|{seed}"] = run(name, way, seed, rows, tokenizer, teacher)
            file.write_text(json.dumps(found, indent=1))
    if arguments.time:
        ratios = measure(rows, tokenizer, model, arguments.losses, arguments.time)
        (arguments.output / "time.json").write_text(json.dumps(ratios, indent=1))
    found = {}
    for file in sorted(arguments.output.glob("seed*.json")):
        found |= json.loads(file.read_text())
    times = arguments.output / "time.json"
    show(found, json.loads(times.read_text()) if times.exists() else {})


if __name__ == "__main__":
    main()
