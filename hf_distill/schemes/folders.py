"""Which folders in an output folder are a scheme's own, so that nothing else is ever removed."""

import json
import shutil
from pathlib import Path
from typing import Any

MARK = "stage.json"  # of a stage it holds its facts too
OF_EXITS = ("exits.json", "exits.safetensors")
OF_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "adapter_config.json")


def mark(folder: Path, name: str, of: dict[str, Any]) -> None:
    """Says that a folder which is no stage was made by a scheme, and of what."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(json.dumps({"name": name, "finished": True, "of": of}) + "\n", encoding="utf-8")


def check_made(folder: Path, of: dict[str, Any]) -> None:
    """Refuses what a former run made of something else.

    Raises:
        ValueError: it is there, and was made of another call, other rows or another teacher.
    """
    try:
        former = json.loads((folder / MARK).read_text(encoding="utf-8")).get("of", {})
    except FileNotFoundError:
        return
    differ = [name for name in of if name in former and former[name] != of[name]]
    if differ:
        before, now = ({name: each[name] for name in differ} for each in (former, of))
        raise ValueError(
            f"{folder} was made of {before}, and now it is {now}. Resume with what it was made of, or start anew "
            "without resume in another output_dir."
        )


def check_own(folder: Path) -> None:
    """Refuses a folder that somebody else made.

    Raises:
        ValueError: it is there, holds something, and no scheme made it.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise ValueError(
            f"{folder} is needed for a part of the scheme, and holds something that no scheme made. Take another "
            "output_dir, or move it away."
        )


def remove(folder: Path) -> None:
    """Removes a part of a former run; another folder of that name is left alone."""
    if (folder / MARK).exists():
        shutil.rmtree(folder)


def forget(folder: Path) -> None:
    """Removes all parts of a former run, and the exits beside its student."""
    for mark_file in folder.glob(f"*/{MARK}"):
        remove(mark_file.parent)
    for name in OF_EXITS:
        (folder / name).unlink(missing_ok=True)


def forget_weights(folder: Path) -> None:
    """Removes the weights beside which others are to be saved, of a former model of another kind."""
    for name in OF_WEIGHTS:
        (folder / name).unlink(missing_ok=True)
