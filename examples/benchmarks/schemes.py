"""Every scheme against soft targets alone: same student, same steps of it, which ones help, and what they cost.

    python examples/benchmarks/schemes.py                          # all schemes, two seeds
    python examples/benchmarks/schemes.py --seeds 0 --runs born_again mutual
    python examples/benchmarks/schemes.py --seeds                  # only the tables, from the runs that are there

150 intents of short queries (CLINC150). Teachers of 6 blocks are fine-tuned once, on all 15,000 queries; students are
two blocks of the encoder that the teachers started from, and learn from 4,000 of the queries. Every student that is
measured takes as many optimizer steps as with soft targets alone; what a scheme needs beside that (assistants,
generations, peers, samples) is in its time, which is the processor's, over that of soft targets. The teacher's logits
of the 4,000 are known before, as from a cache; what else is asked of teachers is in the time. `unlabelled` has further
4,000 queries without labels. A run that is finished is not made again.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset, DatasetDict, disable_progress_bars
from measuring import draw_bars, show
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    ProgressCallback,
    set_seed,
)
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import logging

from hf_distill import DistillationConfig, DistillationTrainer, losses, schemes, students, teachers
from hf_distill.batch import Batch
from hf_distill.metrics import for_task
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import PROBLEM_TYPES, Task

HERE = Path(__file__).resolve().parents[2]
REFERENCE = "soft targets"
BLOCKS = [1, 4]  # of the encoder's six, which a student is made of


class Remembering(teachers.ModelTeacher):
    """Answers with logits that it has given before, row by row; where more is asked for, the model runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._wanted: frozenset[Signal] = frozenset()
        self._said: dict[tuple[int, ...], Tensor] = {}

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        super().prepare(student, wanted, device, tokenizer)
        self._wanted = wanted

    def remember(self, rows: Dataset, tokenizer: Any) -> None:
        """Asks the model about rows once."""
        for ids, said in zip(rows["input_ids"][:], logits_of(self.model, rows, tokenizer), strict=True):
            self._said[tuple(ids)] = said

    def observe(self, batch: Batch) -> Signals:
        if self._wanted == {LOGITS} and "input_ids" in batch.inputs:
            kept = batch.inputs["attention_mask"].bool()
            rows = [tuple(ids[mask].tolist()) for ids, mask in zip(batch.inputs["input_ids"], kept, strict=True)]
            if all(row in self._said for row in rows):
                return {LOGITS: torch.stack([self._said[row] for row in rows])}
        return super().observe(batch)


class Setting:
    """Data, teachers and students of one seed.

    Args:
        arguments: of the command line.
        seed: chooses the rows and starts the students.
    """

    def __init__(self, arguments: argparse.Namespace, seed: int) -> None:
        disable_progress_bars()
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # a fresh head is meant
        self.seed, self.arguments = seed, arguments
        self.noted: dict[str, float] = {}  # what a run says beside its student's figures
        self.tokenizer = AutoTokenizer.from_pretrained(arguments.encoder)
        self.rows, self.names = read(arguments.data, self.tokenizer)
        drawn = self.rows["train"].shuffle(seed=seed)
        self.train = drawn.select(range(arguments.rows))
        rest = drawn.select(range(arguments.rows, min(2 * arguments.rows, len(drawn))))
        self.unlabelled = rest.remove_columns("labels")
        held_out = self.rows["validation"].shuffle(seed=0)
        self.validation = held_out.select(range(min(arguments.evaluate, len(held_out))))
        self.teachers = [Remembering(self._teacher(number)) for number in range(2)]
        for rows in (self.train, self.validation):
            self.teachers[0].remember(rows, self.tokenizer)

    def _teacher(self, number: int) -> nn.Module:
        folder = self.arguments.output / f"teacher_{number}"
        if not (folder / "config.json").exists():
            set_seed(number)
            model = self.encoder()
            epochs = {"num_train_epochs": self.arguments.teacher_epochs / (number + 1), "seed": number}
            with tempfile.TemporaryDirectory() as scratch:
                trainer = self.trainer(
                    model,
                    teachers.Nobody(),
                    [losses.TaskLoss()],
                    Path(scratch),
                    train_dataset=self.rows["train"],
                    **epochs,
                )
                trainer.train()
            model.save_pretrained(folder)
        return teachers.load(str(folder))

    def encoder(self) -> Any:
        """The encoder before it was a teacher, with a fresh head."""
        names = dict(enumerate(self.names))
        return AutoModelForSequenceClassification.from_pretrained(
            self.arguments.encoder,
            id2label=names,
            label2id={name: number for number, name in names.items()},
            problem_type=PROBLEM_TYPES[Task.SINGLE_LABEL],
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
        )

    def student(self) -> Any:
        """A fresh student, always the same one of a seed."""
        set_seed(self.seed)
        return students.keep_layers(self.encoder(), BLOCKS)

    def student_of_teacher(self) -> Any:
        """The same blocks of the teacher, whose table of embeddings rows of embeddings cannot train."""
        return students.keep_layers(self.teachers[0].model, BLOCKS)

    def config(self, folder: Path, **more: Any) -> DistillationConfig:
        """The settings of every training."""
        settings = {
            "per_device_train_batch_size": 32,
            "per_device_eval_batch_size": 256,
            "num_train_epochs": self.arguments.epochs,
            "learning_rate": 5e-4,
            "warmup_steps": 0.1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": self.seed,
        }
        return DistillationConfig(str(folder), **{**settings, **more})

    def trainer(
        self, student: Any, teacher: Any, terms: Any, folder: Path, train_dataset: Any = None, **more: Any
    ) -> Any:
        """One training without a scheme."""
        data = self.train if train_dataset is None else train_dataset
        args = self.config(folder, **more)
        made = DistillationTrainer(student, teacher, terms, args, train_dataset=data, processing_class=self.tokenizer)
        quiet(made)
        return made

    def plan(self, folder: Path, teacher: Any, student: Any = None, **more: Any) -> schemes.Plan:
        """What a scheme works with; `student` makes other students than `self.student` does."""
        kwargs = {
            "train_dataset": self.train,
            "eval_dataset": self.validation,
            "processing_class": self.tokenizer,
            "compute_metrics": compute_metrics,
        }
        console = Console(file=StringIO())
        args = self.config(folder)
        return schemes.Plan(
            student or self.student, teacher, None, args, console=console, watch=quiet, **{**kwargs, **more}
        )


def read(folder: Path, tokenizer: Any) -> tuple[DatasetDict, list[str]]:
    """The queries as token ids, and the names of the intents."""
    found = json.loads((folder / "data_full.json").read_text(encoding="utf-8"))
    names = sorted({name for _, name in found["train"]})

    def encoded(pairs: list[list[str]]) -> Dataset:
        columns = dict(tokenizer([text for text, _ in pairs], truncation=True, max_length=32))
        return Dataset.from_dict({**columns, "labels": [names.index(name) for _, name in pairs]})

    return DatasetDict(train=encoded(found["train"]), validation=encoded(found["val"])), names


def quiet(trainer: Any) -> None:
    """Without the Trainer's own lines."""
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy and macro F1."""
    quality = for_task(Task.SINGLE_LABEL)
    return quality.compute(predictions=prediction.predictions, references=prediction.label_ids)


@torch.no_grad()
def logits_of(model: nn.Module, rows: Dataset, tokenizer: Any) -> Tensor:
    """What a model says of rows, (rows, labels)."""
    collate, said = DataCollatorWithPadding(tokenizer), []
    plain = rows.remove_columns([name for name in rows.column_names if name == "labels"])
    for first in range(0, len(rows), 256):
        part = plain.select(range(first, min(first + 256, len(rows))))
        said.append(model.eval()(**collate(list(part))).logits)
    return torch.cat(said)


def figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """How often the largest logit is right, and how surprised the model is by the labels, in nats."""
    right = (logits.argmax(-1) == labels).float().mean()
    return {"accuracy": right.item(), "surprise": F.cross_entropy(logits, labels).item()}


# ---- the runs ------------------------------------------------------------------------------------------------------


def alone(setting: Setting, folder: Path, teacher: Any, terms: Any = None) -> nn.Module:
    """One training of the student."""
    student = setting.student()
    setting.trainer(student, teacher, terms, folder).train()
    return student


def by_labels(setting: Setting, folder: Path) -> nn.Module:
    return alone(setting, folder, teachers.Nobody(), [losses.TaskLoss()])


def by_soft_targets(setting: Setting, folder: Path) -> nn.Module:
    return alone(setting, folder, setting.teachers[0])


def scheme(name: str, taught: bool = True, **knobs: Any) -> Callable[[Setting, Path], nn.Module]:
    """A scheme with the losses that a plan has by default."""

    def carried_out(setting: Setting, folder: Path) -> nn.Module:
        plan = setting.plan(folder, setting.teachers[0] if taught else None)
        return getattr(schemes, name)(plan, **knobs)

    return carried_out


def by_many(setting: Setting, folder: Path) -> nn.Module:
    """Both teachers, their answers and the order of the distances that both of them see."""
    return schemes.multi_teacher_triplet(setting.plan(folder, teachers.EnsembleTeacher(setting.teachers)))


def by_ensemble(setting: Setting, folder: Path) -> nn.Module:
    return alone(setting, folder, teachers.EnsembleTeacher(setting.teachers))


def boundary(setting: Setting, folder: Path) -> nn.Module:
    """Half as many moves as by default, of half of a batch: each is a pass of the teacher, forward and backward."""
    return schemes.adversarial(setting.plan(folder, setting.teachers[0]), most=16, iterations=5)


def more_rows(setting: Setting, folder: Path) -> nn.Module:
    """Labelled and unlabelled rows, half the epochs: as many steps."""
    rows = schemes.combine(setting.train, setting.unlabelled)
    plan = setting.plan(folder, setting.teachers[0], train_dataset=rows)
    plan.args.num_train_epochs = setting.arguments.epochs * len(setting.train) / len(rows)
    return schemes.unlabelled(plan, labels="where known")


def no_text(source: str, share: float = 1.0, **knobs: Any) -> Callable[[Setting, Path], nn.Module]:
    """Without a single query, for a student cut out of the teacher. A share of the rows is seen the more often."""

    def carried_out(setting: Setting, folder: Path) -> nn.Module:
        plan = setting.plan(folder, setting.teachers[0], setting.student_of_teacher, train_dataset=None)
        plan.args.num_train_epochs /= share
        return schemes.data_free(plan, source=source, rows=int(setting.arguments.rows * share), length=16, **knobs)

    return carried_out


def with_copies(setting: Setting, folder: Path) -> nn.Module:
    """One copy of each row with words replaced, and half the epochs: as many steps."""
    plan = setting.plan(folder, setting.teachers[0])
    plan.args.num_train_epochs /= 2
    return schemes.two_stage(plan, share=0.5, samples=1)


def of_teacher(setting: Setting, folder: Path) -> nn.Module:
    """Soft targets of the queries, for the student of the runs without text."""
    student = setting.student_of_teacher()
    setting.trainer(student, setting.teachers[0], [losses.SoftTargets()], folder).train()
    return student


def both_learn(setting: Setting, folder: Path) -> nn.Module:
    """The teacher starts as the encoder that it was before it was fine-tuned."""
    set_seed(setting.seed)
    return schemes.online(setting.plan(folder, setting.encoder()), learning_rate=1e-4)


def with_exits(setting: Setting, folder: Path) -> nn.Module:
    """Notes how good the exit is, beside one that is trained alone."""
    plan = setting.plan(folder, None)
    student = schemes.be_your_own_teacher(plan, keep_exits=True)
    together = schemes.EarlyExit.from_pretrained(folder)
    loss = losses.SelfExits([0], alpha=0, hint_weight=0)  # its labels alone
    trainer = setting.trainer(setting.student(), teachers.Nobody(), [loss], folder / "exit_alone")
    trainer.train()
    alone = schemes.EarlyExit(trainer.model, trainer.objective.losses["self_exits"])
    setting.noted |= {"exit 0": accuracy_of_exit(together, setting), "exit 0, alone": accuracy_of_exit(alone, setting)}
    return student


@torch.no_grad()
def accuracy_of_exit(model: Any, setting: Setting) -> float:
    """Of the exit after the first block."""
    batches = DataLoader(setting.validation, 256, collate_fn=DataCollatorWithPadding(setting.tokenizer))
    right = [model(batch, 0).argmax(-1) == batch["labels"] for batch in batches]
    return torch.cat(right).float().mean().item()


def with_specialists(setting: Setting, folder: Path) -> nn.Module:
    """Notes how near generalist and specialists are to the labels, on queries of the specialists' own classes."""
    plan = setting.plan(folder, setting.teachers[0])
    student = schemes.specialists(plan, count=3, share=0.5)
    experts = [teachers.load(str(each)) for each in sorted(folder.glob("specialist_*"))]
    together = teachers.SpecialistTeacher([setting.teachers[0], *experts])
    together.prepare(setting.student(), frozenset({LOGITS}), torch.device("cpu"), None)
    theirs = {name for expert in experts for name in expert.config.id2label.values()}
    own = [row for row, label in enumerate(setting.validation["labels"][:]) if setting.names[label] in theirs]
    rows = setting.validation.select(own)
    labels = torch.tensor(rows["labels"][:])
    general = logits_of(setting.teachers[0].model, rows, setting.tokenizer)
    joint = logits_of(Observed(together), rows, setting.tokenizer)
    for name, said in (("generalist", general), ("with specialists", joint)):
        setting.noted |= {f"{name}: {what}": value for what, value in figures(said, labels).items()}
    setting.noted["queries of special classes"] = len(own)
    return student


class Observed(nn.Module):
    """A teacher, called like a model."""

    def __init__(self, teacher: teachers.Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, **inputs: Tensor) -> Any:
        said = self.teacher.observe(Batch(inputs, Task.SINGLE_LABEL))
        return SequenceClassifierOutput(logits=said[LOGITS])


def with_peer(setting: Setting, folder: Path) -> nn.Module:
    """Notes how good the other student is."""
    student = schemes.mutual(setting.plan(folder, None), students=2)
    peer = AutoModelForSequenceClassification.from_pretrained(folder / "peer_2")
    labels = torch.tensor(setting.validation["labels"][:])
    setting.noted["peer"] = figures(logits_of(peer, setting.validation, setting.tokenizer), labels)["accuracy"]
    return student


RUNS: dict[str, Callable[[Setting, Path], nn.Module]] = {
    "labels alone": by_labels,
    REFERENCE: by_soft_targets,
    "two teachers": by_ensemble,
    "multi_teacher_triplet": by_many,
    "chain": scheme("chain", sizes=[4]),
    "iterated": scheme("iterated", drop=2),
    "born_again": scheme("born_again", generations=3),
    "born_again, ensemble": scheme("born_again", generations=2, ensemble=True),
    "hints": scheme("hints", share=0.3),
    "two_stage": scheme("two_stage", share=0.5),
    "two_stage, copies": with_copies,
    "specialists": with_specialists,
    "adversarial": boundary,
    "unlabelled": more_rows,
    "online": both_learn,
    "mutual": with_peer,
    "progressive_self": scheme("progressive_self", taught=False),
    "augmented_self": scheme("augmented_self", taught=False),
    "be_your_own_teacher": with_exits,
    "cut out of the teacher": of_teacher,
    "data_free: random_tokens": no_text("random_tokens"),
    "data_free: embeddings": no_text("embeddings", share=0.25, steps=30),
    "data_free: generator": no_text("generator"),
}


def run(name: str, setting: Setting) -> dict[str, Any]:
    """Trains one student; says how good it is, what it took, and what its stages were."""
    setting.noted = {}
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time()
        student = RUNS[name](setting, Path(scratch))
        seconds = time.process_time() - start
        file = Path(scratch) / "stages.json"
        made = json.loads(file.read_text())["stages"] if file.exists() else []
    said = logits_of(student, setting.validation, setting.tokenizer)
    found = figures(said, torch.tensor(setting.validation["labels"][:]))
    return {
        **found,
        "seconds": seconds,
        "noted": setting.noted,
        "stages": {each["name"]: each["metrics"] for each in made},
    }


# ---- the tables ----------------------------------------------------------------------------------------------------


def tables(found: dict[str, dict[str, Any]], picture: Path) -> None:
    """Quality and cost of every run, paired with soft targets by seed."""
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for key, measured in found.items():
        name, seed = key.rsplit("|", 1)
        by_run.setdefault(name, {})[seed] = measured
    reference = by_run.get(REFERENCE, {})
    lines, bars = [], {}
    for name in [each for each in RUNS if each in by_run]:
        runs = by_run[name]
        seeds = [seed for seed in runs if seed in reference]
        gained = [100 * (runs[seed]["accuracy"] - reference[seed]["accuracy"]) for seed in seeds]
        times = [runs[seed]["seconds"] / reference[seed]["seconds"] for seed in seeds]
        cells = [mean([100 * each["accuracy"] for each in runs.values()], 1), mean(gained, 1, sign=True)]
        cells += [mean([each["surprise"] for each in runs.values()], 3), mean(times, 1)]
        lines.append([name, *cells])
        if gained:
            bars[name] = (statistics.mean(gained), (max(gained) - min(gained)) / 2)
    header = ["run", "accuracy, %", "over soft targets, points", "surprise, nats", "time over soft targets"]
    show(header, lines, "mean ± half the range over the seeds")
    inside = []
    for name in [each for each in RUNS if each in by_run]:
        runs = list(by_run[name].values())
        for stage in runs[0]["stages"] if len(runs[0]["stages"]) > 1 else ():
            inside.append([name, stage, mean([100 * each["stages"][stage].get("accuracy", 0) for each in runs], 1)])
        for what in runs[0]["noted"]:
            inside.append([name, what, mean([each["noted"][what] for each in runs], 3)])
    show(["run", "inside of it", "accuracy, %, of a stage; else as named"], inside, "stages and what a run notes")
    print(draw_bars(picture, {"accuracy over soft targets, points": bars}, line=0.0))


def mean(values: list[float], digits: int, sign: bool = False) -> str:
    """The mean, and half the range; empty where there is nothing."""
    if not values:
        return "-"
    plus = "+" if sign else ""
    half = (max(values) - min(values)) / 2
    middle = f"{statistics.mean(values):{plus}.{digits}f}"
    return f"{middle} ± {half:.{digits}f}" if len(values) > 1 else middle


def main() -> None:
    shared = HERE.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=shared / "data" / "clinc150")
    parser.add_argument("--encoder", type=Path, default=shared / "models" / "goemotions_teacher")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--evaluate", type=int, default=1500, help="rows of the validation split")
    parser.add_argument("--epochs", type=float, default=2, help="of each student")
    parser.add_argument("--teacher-epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--output", type=Path, default=Path("out/schemes"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        file = arguments.output / f"seed{seed}.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        setting = Setting(arguments, seed)
        for name in arguments.runs:
            if f"{name}|{seed}" not in found:
                found[f"{name}|{seed}"] = measured = run(name, setting)
                file.write_text(json.dumps(found, indent=1))
                print(
                    f"seed {seed}: {name}: accuracy {measured['accuracy']:.4f}, {measured['seconds']:.0f} s",
                    flush=True,
                )
    found = {}
    for file in sorted(arguments.output.glob("seed*.json")):
        found |= json.loads(file.read_text())
    tables(found, arguments.output / "schemes.png")


if __name__ == "__main__":
    main()
