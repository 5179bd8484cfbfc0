"""A model of pictures learns from a model of words what their pairs are about, and never sees a label.

    python examples/cross_modal.py --pairs my/pairs

There `meta.json` lists {name, keywords, category, split: train or test} and `images_32.npz` holds `twitter`, a picture
for each, (rows, size, size, 3). First a teacher learns the category of an emoji from its words; only it has labels.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, ViTConfig, ViTForImageClassification

from hf_distill import DistillationConfig, DistillationTrainer, demo, losses, metrics, schemes, teachers


def main(arguments=None):
    options = parser().parse_args(arguments)
    encoder, folder = options.encoder or demo.encoder_folder(), Path(options.pairs)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows, names = load(folder)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    common = {"per_device_train_batch_size": 32, "save_strategy": "no"}

    teacher = AutoModelForSequenceClassification.from_pretrained(encoder, **labels)
    words = {split: part.map(lambda some: tokenizer(some["words"]), batched=True) for split, part in rows.items()}
    args = DistillationConfig(f"{options.output}/teacher", num_train_epochs=options.teacher_epochs, **common)
    data = {"train_dataset": words["train"], "eval_dataset": words["test"], "compute_metrics": compute_metrics}
    trainer = DistillationTrainer(
        teacher, teachers.Nobody(), [losses.TaskLoss()], args, **data, processing_class=tokenizer
    )
    trainer.train()
    print(f"teacher, of words: accuracy {trainer.evaluate()['eval_accuracy']:.3f}")

    pairs = {split: teachers.add_view(part, lambda some: tokenizer(some["words"])) for split, part in rows.items()}
    shape = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    student = ViTForImageClassification(ViTConfig(image_size=32, patch_size=4, **shape, **labels))
    args = DistillationConfig(options.output, num_train_epochs=options.epochs, learning_rate=1e-3, **common)
    data = {"train_dataset": pairs["train"], "eval_dataset": pairs["test"], "compute_metrics": compute_metrics}
    pads = teachers.PairedCollator(None, tokenizer)  # pictures need no padding
    plan = schemes.Plan(student, teacher.eval(), args=args, data_collator=pads, **data)
    schemes.cross_modal(plan)
    print(f"student, of pictures: accuracy {plan.stages[-1].metrics['accuracy']:.3f}")
    print(f'Load it: ViTForImageClassification.from_pretrained("{options.output}")')


def load(folder):
    """The rows by split, each with words, picture and label, and the labels' names."""
    meta, pictures = json.loads((folder / "meta.json").read_text()), np.load(folder / "images_32.npz")["twitter"]
    names = sorted({row["category"] for row in meta})
    splits = {"train": [], "test": []}
    for row, picture in zip(meta, pictures, strict=True):
        words = f"{row['name']}: {', '.join(row['keywords'])}"
        pixels = (picture.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
        splits[row["split"]].append({"words": words, "pixel_values": pixels, "labels": names.index(row["category"])})
    return {split: Dataset.from_list(rows) for split, rows in splits.items()}, names


def compute_metrics(prediction):
    quality = metrics.for_task("single_label")
    return quality.compute(predictions=prediction.predictions, references=prediction.label_ids)


def parser():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", required=True, help="folder of meta.json and images_32.npz")
    options.add_argument("--encoder", help="folder or Hub id of what the teacher is made of; none takes MiniLM")
    options.add_argument("--output", default="out/cross_modal")
    options.add_argument("--teacher-epochs", type=float, default=4)
    options.add_argument("--epochs", type=float, default=20)
    return options


if __name__ == "__main__":
    main()
