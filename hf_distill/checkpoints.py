"""The checkpoints in an output folder."""

import json
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def newest(folder: Path) -> str | None:
    """The checkpoint with the most steps. One without a state was cut off while it was written."""
    steps = {}
    for state in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json"):
        try:
            steps[json.loads(state.read_text(encoding="utf-8"))["global_step"]] = str(state.parent)
        except (ValueError, KeyError):
            continue
    return steps[max(steps)] if steps else None
