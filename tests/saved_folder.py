"""The least that can be published, as a saved folder."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"  # in the client's environment as HF_TOKEN, and nowhere else


CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-classification
tags: [distillation]
base_model: tester/teacher
base_model_relation: finetune
datasets: [tester/messages]
---
# Student

Made for a test.
"""


def small_folder(path: Path, **extra: str) -> Path:
    """The least that can be published, without transformers; `extra` are further text files."""
    path.mkdir(parents=True)
    save_file({"weight": np.arange(6, dtype=np.float32)}, path / "model.safetensors", metadata={"format": "pt"})
    for name, text in {"config.json": '{"model_type": "distilbert"}', "README.md": CARD, **extra}.items():
        (path / name).write_text(text)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
