"""Pairs of a picture and its words, and a teacher that learned from the words: what `cross_modal.py` works with.

    python examples/emoji_pairs.py --pairs my/pairs --output out/of_words

In the folder `meta.json` lists {name, keywords, category, split: train or test}, and `images_32.npz` holds `twitter`,
a picture for each, (rows, size, size, 3). The teacher is a text classifier; only it has labels.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import DistillationConfig, DistillationTrainer, demo, losses, metrics, teachers


def main(arguments=None):
    options = parser(__doc__, "out/of_words", epochs=4).parse_args(arguments)
    rows, labels = load(options.pairs)
    encoder = options.encoder or demo.encoder_folder()
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    words = {split: part.map(lambda some: tokenizer(some["words"]), batched=True) for split, part in rows.items()}
    trainer = DistillationTrainer(
        AutoModelForSequenceClassification.from_pretrained(encoder, **labels),
        teachers.Nobody(),
        [losses.TaskLoss()],
        DistillationConfig(options.output, num_train_epochs=options.epochs, **COMMON),
        train_dataset=words["train"],
        eval_dataset=words["test"],
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model()
    print(f"teacher, of words: accuracy {trainer.evaluate()['eval_accuracy']:.3f}")


COMMON = {"per_device_train_batch_size": 32, "save_strategy": "no"}


def load(folder):
    """The rows by split, each with words, picture and label; and the labels' names, for a config."""
    meta = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8"))
    pictures = np.load(Path(folder) / "images_32.npz")["twitter"]
    names = sorted({row["category"] for row in meta})
    splits = {"train": [], "test": []}
    for row, picture in zip(meta, pictures, strict=True):
        words = f"{row['name']}: {', '.join(row['keywords'])}"
        pixels = (picture.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)
        splits[row["split"]].append({"words": words, "pixel_values": pixels, "labels": names.index(row["category"])})
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return {split: Dataset.from_list(rows) for split, rows in splits.items()}, labels


def compute_metrics(prediction):
    quality = metrics.for_task("single_label")
    return quality.compute(predictions=prediction.predictions, references=prediction.label_ids)


def parser(description, output, epochs):
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", required=True, help="folder of meta.json and images_32.npz")
    options.add_argument("--encoder", help="folder or Hub id of what the teacher is made of; none takes MiniLM")
    options.add_argument("--output", default=output)
    options.add_argument("--epochs", type=float, default=epochs)
    return options


if __name__ == "__main__":
    main()
