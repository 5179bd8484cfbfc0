"""Which names can be repositories on the Hub."""

from __future__ import annotations

import os
import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its __all__

_DATA_FILES = (
    ".arrow",
    ".csv",
    ".json",
    ".jsonl",
    ".parquet",
    ".tsv",
    ".txt",
    ".yaml",
    ".yml",
    ".bin",
    ".safetensors",
)


def is_hub_id(name: str | None) -> bool:
    """Whether a name can be a repository on the Hub: "name" or "owner/name", no data file, and nothing of that name
    on this disk (transformers and datasets would read that instead)."""
    return name is not None and is_repository_name(name) and not os.path.exists(name)


def is_repository_name(name: str | None) -> bool:
    """Whether the Hub takes a name, whatever lies on this disk."""
    if not name or name.lower().endswith(_DATA_FILES) or re.fullmatch(r"checkpoint-\d+", name.split("/")[-1]):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
