"""A folder as a user has it: a tiny BERT teacher with its WordPiece tokenizer, messages in files, and a recipe."""

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from models import tiny
from transformers import BertTokenizerFast, PreTrainedModel

LABELS = ["refund", "delivery", "praise", "bug", "how_to"]
TALK = "refund parcel late app crash love thanks how do i change my address please cancel order the is broken"
WORDS = TALK.split()
QUICK = ["train.max_steps=2", "train.save_strategy=no", "baseline=false"]
RECIPE = """\
task: {task}
teacher: {{model: teacher}}
student: {{from: teacher, architecture: distilbert, layers: [0, 2]}}
dataset: {{path: data/*.tsv}}
losses:
  - {{name: TaskLoss, weight: 0.5}}
  - {{name: SoftTargets, temperature: 2.0, weight: 0.5}}
  - {{name: HiddenMSE, layers: {{0: 0, 1: 2}}, weight: 0.1}}
baseline: true
train:
  output_dir: out
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-3
  logging_steps: 2
  use_cpu: true
  report_to: none
"""


def make(folder: Path, task: str = "multi_label", splits: tuple[str, ...] = ("train", "dev", "test")) -> Path:
    """Fills the folder and gives it back. The teacher's logits are of the size that a trained one has."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    BertTokenizerFast(vocab=vocabulary, model_max_length=16).save_pretrained(folder / "teacher")
    teacher(task, vocab_size=len(vocabulary)).save_pretrained(folder / "teacher")
    (folder / "data").mkdir(exist_ok=True)
    for seed, split in enumerate(splits):
        write_rows(folder / "data" / f"{split}.tsv", task, {"train": 24, "dev": 10}.get(split, 13), seed)
    (folder / "recipe.yaml").write_text(RECIPE.format(task=task), encoding="utf-8")
    return folder


def teacher(task: str, **fields: Any) -> PreTrainedModel:
    problems = {"multi_label": "multi_label_classification", "single_label": "single_label_classification"}
    labels: dict[str, Any] = {"num_labels": 1}
    if task != "regression":
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    problem = problems.get(task, "regression")
    model = tiny(
        "bert", "ForSequenceClassification", problem_type=problem, max_position_embeddings=20, **labels, **fields
    )
    with torch.no_grad():
        model.classifier.weight.mul_(8)
    return model


def write_rows(path: Path, task: str, count: int, seed: int) -> None:
    chance = random.Random(seed)
    lines = ["text\tlabels"]
    for _ in range(count):
        text = " ".join(chance.choices(WORDS, k=chance.randint(2, 11)))
        chosen = chance.sample(LABELS, 1 if task == "single_label" else chance.choice([1, 1, 2]))
        lines.append(f"{text}\t{f'{chance.gauss(0, 1):.3f}' if task == 'regression' else ','.join(chosen)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def command(*arguments: str, folder: Path, env: dict[str, str] | None = None, **more: Any) -> Any:
    """`hf-distill ...` as a process of its own, in a folder, without network."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "hf-distill"), *arguments],
        cwd=folder,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=240,
        **more,
    )


def environment(**more: str) -> dict[str, str]:
    """Of a user with one thread, no network, and a terminal of 80 columns."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "80", **more}
