"""The base example: a DistilBERT of three layers that learns to give several labels from a BERT teacher.

    python examples/multilabel_distilbert.py          # on the messages in the package; makes a teacher of them first
    python examples/multilabel_distilbert.py --teacher my/teacher --train train.tsv --eval dev.tsv

The files have the header `text<TAB>labels`, and labels are names of the teacher's with commas: `delivery,complaint`.
"""

import argparse
import csv
import shutil
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

from hf_distill import DistillationConfig, DistillationTrainer, data, demo, losses, metrics, students


def main(arguments=None):
    options = parser(__doc__).parse_args(arguments)
    teacher, tokenizer, dataset = load(options)
    student = students.from_teacher(teacher, architecture="distilbert", layers=options.layers)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        losses=[
            losses.TaskLoss(weight=0.5),
            losses.SoftTargets(temperature=2.0, weight=0.5),
            losses.HiddenMSE(dict(enumerate(options.layers)), weight=0.1),  # {student layer: teacher layer}
        ],
        args=DistillationConfig(**settings(options)),
        train_dataset=dataset["train"],
        eval_dataset=dataset["validation"],
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
    )
    before = trainer.evaluate()
    trainer.train()
    show(before, trainer.evaluate())
    trainer.save_model()
    print(f'Load it: AutoModelForSequenceClassification.from_pretrained("{options.output}")')


def load(options):
    """The teacher, its tokenizer, and the rows as it reads them. For other data change `load_dataset`."""
    set_seed(0)
    source = options.teacher or make_demo_teacher(Path("out/demo"))
    multi_label = {"problem_type": "multi_label_classification", "dtype": torch.float32}
    teacher = AutoModelForSequenceClassification.from_pretrained(source, **multi_label)
    tokenizer = AutoTokenizer.from_pretrained(source)
    files = {"train": options.train, "validation": options.eval}
    rows = load_dataset("csv", data_files=files, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
    labels = teacher.config.id2label
    return teacher, tokenizer, data.encode(rows, tokenizer, task="multi_label", id2label=labels, max_length=96)


def make_demo_teacher(folder):
    if not (folder / "teacher" / "config.json").exists():
        shutil.copytree(demo.HERE, folder / "data", ignore=shutil.ignore_patterns("__*"), dirs_exist_ok=True)
        demo.fine_tune_teacher(demo.encoder_folder(), folder)
    return folder / "teacher"


def settings(options):
    """Any field of `DistillationConfig`, and so of `TrainingArguments`."""
    return {
        "output_dir": options.output,
        "num_train_epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "warmup_steps": 0.1,  # a share of the run
        "per_device_train_batch_size": 16,
        "save_strategy": "no",
    }


def compute_metrics(prediction):
    quality = metrics.for_task("multi_label")
    return quality.compute(predictions=prediction.predictions, references=prediction.label_ids)


def show(before, after):
    for name in ("eval_loss", "eval_mean_average_precision", "eval_macro_f1", "eval_agreement"):
        print(f"{name:30}{before[name]:.3f} -> {after[name]:.3f}")


def parser(description):
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--teacher", help="Hub id or folder of a multi-label BERT; without, one is made in out/demo")
    options.add_argument("--train", default=str(demo.HERE / "train.tsv"))
    options.add_argument("--eval", default=str(demo.HERE / "test.tsv"))
    options.add_argument("--output", default="out/student")
    options.add_argument("--layers", type=int, nargs="+", default=[0, 2, 4], help="blocks of the teacher to keep")
    options.add_argument("--epochs", type=float, default=8)
    options.add_argument("--learning-rate", type=float, default=3e-4)
    return options


if __name__ == "__main__":
    main()
