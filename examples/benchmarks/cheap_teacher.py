"""What a teacher in bfloat16 or int8 loses, what its student loses, and what its forward costs, on GoEmotions.

    OMP_NUM_THREADS=1 python examples/benchmarks/cheap_teacher.py       # about 20 minutes on one free core

The teacher and the data of `catalogue.py`: a fine-tuned BERT of 6 layers and width 384, 6,000 rows. Each kind of
teacher answers the dev rows in batches of like length, all kinds in turn; its time is the median over batches of its
time over float32's. A student of 3 layers, made of the float32 teacher, learns from each kind by soft targets alone,
one epoch, two seeds: mean and half of the spread. Agreement is with the float32 teacher's decisions.
"""

import argparse
import copy
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from catalogue import HERE, Remembering, read, trainer_of
from measuring import clock, paired, show, spread, written
from rich.progress import track
from torch import nn
from transformers import DataCollatorWithPadding

from hf_distill import metrics, teachers
from hf_distill.losses import SoftTargets

KINDS = ("float32", "bfloat16", "int8")


def in_kind(model: nn.Module, kind: str) -> nn.Module:
    own = copy.deepcopy(model)
    return teachers.quantize(own) if kind == "int8" else own.to(getattr(torch, kind))


@torch.no_grad()
def answers(models: dict[str, nn.Module], rows: Any, tokenizer: Any) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Everyone's logits of all rows, in the rows' order, and seconds of each batch."""
    collate, now = DataCollatorWithPadding(tokenizer), clock()
    rows = rows.remove_columns([name for name in rows.column_names if name not in ("input_ids", "attention_mask")])
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]["input_ids"]))
    seconds: dict[str, list[float]] = {kind: [] for kind in models}
    found = {kind: torch.empty(len(rows), model.config.num_labels) for kind, model in models.items()}
    for start in track(range(0, len(order), 32), "teachers"):
        chosen = order[start : start + 32]
        batch = collate([rows[index] for index in chosen])
        for kind in models if start % 64 else reversed(models):
            began = now()
            found[kind][chosen] = models[kind](**batch).logits.float()
            seconds[kind].append(now() - began)
    return {kind: logits.numpy() for kind, logits in found.items()}, seconds


def quality(logits: Any, labels: Any) -> float:
    found = metrics.for_task("multi_label").compute(predictions=logits, references=labels)
    return float(found["mean_average_precision"])


def agreement(logits: Any, reference: Any) -> float:
    return float(((logits > 0) == (reference > 0)).mean())


def taught(model: nn.Module, plain: nn.Module, rows: Any, tokenizer: Any, seed: int, steps: int) -> Any:
    """The logits of a student of `plain` that learned from `model`."""
    with tempfile.TemporaryDirectory() as folder:
        teacher = Remembering(model)
        order = {"train_sampling_strategy": "auto"}  # the Trainer's own grouping shuffles what is predicted, too
        trainer = trainer_of([SoftTargets()], rows, tokenizer, teacher, seed, folder, plain, max_steps=steps, **order)
        trainer.train()
        return trainer.predict(rows["validation"]).predictions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "goemotions")
    parser.add_argument("--teacher", type=Path, default=HERE.parent / "shared" / "models" / "goemotions_teacher")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--evaluate", type=int, default=2000, help="rows of the dev split")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many, to try it out")
    arguments = parser.parse_args()
    rows, tokenizer, plain = read(arguments)
    models = {kind: in_kind(plain, kind) for kind in KINDS}
    said, seconds = answers(models, rows["validation"], tokenizer)
    labels = torch.tensor(rows["validation"]["labels"]).numpy()
    header = ["teacher in", "time", "its mAP", "its agreement", "student's mAP", "student's agreement"]
    lines = []
    for kind in KINDS:
        made = [
            taught(models[kind], plain, rows, tokenizer, seed, arguments.steps)
            for seed in track(arguments.seeds, f"students of {kind}")
        ]
        own = [f"{quality(said[kind], labels):.4f}", f"{agreement(said[kind], said['float32']):.4f}"]
        theirs = [
            _mean([measure(each) for each in made])
            for measure in (
                lambda logits: quality(logits, labels),
                lambda logits: agreement(logits, said["float32"]),
            )
        ]
        lines.append([kind, written(paired(seconds[kind], seconds["float32"]), 2), *own, *theirs])
    milliseconds = spread(seconds["float32"])[0] * 1e3
    show(header, lines, f"time of a forward over float32's ({milliseconds:.0f} ms for 32 rows)")


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"


if __name__ == "__main__":
    main()
