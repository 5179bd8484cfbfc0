"""The settings of a stage: those of the plan, with its part of the epochs or steps."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_distill.config import DistillationConfig

Share = float | tuple[float, float]


def settings_of(
    args: DistillationConfig, folder: Path, name: str, share: Share = 1.0, changes: Mapping[str, Any] | None = None
) -> DistillationConfig:
    """A copy for one stage.

    Args:
        args: of the plan.
        folder: the stage's; nothing of it is pushed.
        name: of the stage, for messages.
        share: of the epochs, or of `max_steps`; or from where to where of them it goes: stages whose parts make up
            the whole have all of `max_steps` together, however they are rounded, and each of two parts has a step.
        changes: fields that differ.

    Raises:
        ValueError: the share is nothing, or a field is not known.
    """
    start, end = share if isinstance(share, tuple) else (0.0, share)
    if not end > start:
        raise ValueError(f"stage {name!r}: share is {share}, of the plan's epochs or steps; it must be above 0.")
    args, whole = copy.copy(args), args.max_steps
    args.output_dir, args.push_to_hub = str(folder), False
    if whole > 0:
        args.max_steps = _place(whole, end) - _place(whole, start)
        if args.max_steps < 1:
            raise ValueError(
                f"stage {name!r} has none of the plan's {whole} steps: its share is {end - start:.3g} of them. Raise "
                "max_steps."
            )
    else:
        args.num_train_epochs = round(args.num_train_epochs * (end - start), 9)  # 1 - 0.7 is a bit above 0.3
    for field, value in (changes or {}).items():
        if not hasattr(args, field):
            raise ValueError(f"{type(args).__name__} has no field {field!r}.")
        setattr(args, field, value)
    return args


def _place(whole: int, share: float) -> int:
    """After which step a share ends; at least one from both ends, unless it is one of them."""
    return min(max(round(whole * share), 1), whole - 1) if 0 < share < 1 and whole > 1 else round(whole * share)
