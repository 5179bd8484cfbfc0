"""Facts of every kind, for tests of cards."""

import dataclasses

from hf_distill.card import CardFacts
from hf_distill.report import ModelFacts

HINTON = "Hinton, Vinyals, Dean 2015, arXiv:1503.02531"


def full(**changes) -> CardFacts:
    time = {"batch_size": 8, "threads": 1, "device": "cpu"}
    facts = CardFacts(
        name="Emotions, small",
        repo_id="someone/emotions-small",
        task="multi_label",
        license="apache-2.0",
        language="en",
        tags=["emotions"],
        base_model="someone/encoder",
        teacher="someone/emotions-teacher",
        student="DistilBERT, 3 layers, width 384",
        student_from="someone/emotions-teacher",
        copied=["embeddings", "blocks 0, 2, 4"],
        not_copied=["classifier"],
        losses=[
            {"name": "TaskLoss", "weight": 0.5, "config": {}},
            {"name": "SoftTargets", "weight": 0.5, "config": {"temperature": 2.0}, "citation": HINTON},
            {"name": "HiddenMSE", "weight": 0.1, "config": {"layers": {0: 0, 1: 2}}, "citation": HINTON},
        ],
        dataset="someone/emotions",
        dataset_name="Emotions",
        dataset_config="simplified",
        dataset_revision="abc123",
        train_split="train",
        train_rows=43410,
        evaluation_split="test",
        evaluation_rows=5426,
        labels=["joy", "grief", "relief"],
        label_support={"joy": 500, "grief": 13, "relief": 0},
        thresholds=[0.4, 0.3, 0.5],
        thresholds_split="validation",
        models=[
            ModelFacts("teacher", 22_700_000, 90.9, 4.0, 0.1, **time, metrics={"mean_average_precision": 0.55}),
            ModelFacts(
                "distilled student",
                17_400_000,
                69.5,
                2.0,
                0.1,
                **time,
                metrics={"mean_average_precision": 0.54, "macro_f1": 0.5, "micro_f1": 0.6},
                agreement=0.97,
            ),
        ],
        steps=4071,
        epochs=3.0,
        batch_size=32,
        learning_rate=5e-5,
        max_length=64,
        precision="bf16",
        seed=7,
        device="cpu",
        versions={"torch": "2.13.0", "transformers": "5.23.0"},
        recipe="task: multi_label\nteacher: {model: someone/emotions-teacher}\n",
        command="hf-distill train recipe.yaml",
    )
    return dataclasses.replace(facts, **changes)
