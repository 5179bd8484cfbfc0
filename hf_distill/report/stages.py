"""The stages of a scheme: what was trained, by whom, for how long, and how good it was at the end."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hf_distill.recipe.portable import without_folders
from hf_distill.report.digits import number
from hf_distill.report.markdown import cell

_VERSION = 1
_WHAT_IT_IS = ("student", "losses", "settings")  # who taught is among the settings, in more than words


@dataclasses.dataclass
class StageFacts:
    """One stage of a scheme.

    Attributes:
        name: "generation_2".
        teacher: in words, the name of a former stage where it was made there; None: nobody taught.
        student: what it is: "BertForSequenceClassification, 3 layers, width 384".
        losses: each with its settings and weight.
        settings: of the training, by name.
        finished: whether it was trained to its end.
        steps: optimizer steps.
        seconds: of training; None where it went on from a checkpoint, and the time before is not known.
        metrics: of the evaluation after it, by name.
        epochs: of its training.
    """

    name: str
    teacher: str | None = None
    student: str | None = None
    losses: list[str] = dataclasses.field(default_factory=list)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    finished: bool = False
    steps: int | None = None
    seconds: float | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    epochs: float | None = None


def call(name: str, knobs: Mapping[str, Any]) -> str:
    """A scheme as it was called: ``"born_again(generations=3)"``. Objects that are no plain values are left out.

    It is told on the card: absolute paths are reduced to their last names.
    """
    plain = {key: value for key, value in knobs.items() if isinstance(value, str | int | float | list | tuple | dict)}
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in without_folders(plain).items())})"


def write(facts: StageFacts, path: Path) -> None:
    """One stage as JSON, whole or not at all."""
    _replace(path, dataclasses.asdict(facts))


def read(path: Path) -> StageFacts | None:
    """What `write` wrote; None where there is nothing, or nothing that can be read."""
    try:
        return StageFacts(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def save(facts: Sequence[StageFacts], scheme: str, path: Path) -> None:
    """All stages and the scheme as JSON, whole or not at all."""
    _replace(path, {"version": _VERSION, "scheme": scheme, "stages": [dataclasses.asdict(fact) for fact in facts]})


def check_same(found: StageFacts, wanted: StageFacts, folder: Path, but: Sequence[str] = ()) -> None:
    """Refuses to go on with a stage that was begun with other settings.

    Args:
        found: as it was begun.
        wanted: as it would be now.
        folder: whom the message names.
        but: fields and settings that are not compared.

    Raises:
        ValueError: names the first field that differs.
    """
    for field in [each for each in _WHAT_IT_IS if each not in but]:
        before, now = json.loads(json.dumps([getattr(found, field), getattr(wanted, field)], default=str))
        if field == "settings":
            shared = before.keys() & now.keys() - set(but)  # a former version noted others
            before, now = (
                {name: each[name] for name in sorted(shared) if before[name] != now[name]} for each in (before, now)
            )
        if before != now:
            raise ValueError(
                f"{folder} was begun with {field} {before}, and now it is {now}. Resume with what it was begun with, "
                "or start anew without resume."
            )


def table(facts: Sequence[StageFacts]) -> RenderableType:
    """The stages for the terminal; what the students are is told above, once for all that are the same."""
    students: dict[str, list[str]] = {}
    for fact in facts:
        if fact.student:
            students.setdefault(fact.student, []).append(fact.name)
    who = ["student"] if len(students) == 1 else [", ".join(names) for names in students.values()]
    told = [Text(f"{names}: {student}") for names, student in zip(who, students, strict=True)]
    grid = Table(box=None)
    head, rows = _cells(facts)
    shown = [place for place, name in enumerate(head) if name != "student"]
    for name in [head[place] for place in shown]:
        grid.add_column(name, justify="left" if name in _TEXT else "right", overflow="fold", no_wrap=name == "stage")
    for row in rows:
        grid.add_row(*(escape(row[place]) for place in shown))
    return Group(*told, grid)


def markdown(facts: Sequence[StageFacts]) -> str:
    """The stages for a model card."""
    head, rows = _cells(facts)
    rule = ["---" if title in _TEXT else "---:" for title in head]
    return "\n".join(f"| {' | '.join(map(cell, row))} |" for row in [head, rule, *rows])


_TEXT = ("stage", "teacher", "student")


def _cells(facts: Sequence[StageFacts]) -> tuple[list[str], list[list[str]]]:
    metrics = list(dict.fromkeys(name for fact in facts for name in fact.metrics))
    head = [*_TEXT, "steps", "seconds", *(name.replace("_", " ") for name in metrics)]
    rows = []
    for fact in facts:
        counts = ["-" if value is None else f"{value:,.0f}" for value in (fact.steps, fact.seconds)]
        measured = [number(fact.metrics.get(name)) for name in metrics]
        rows.append([fact.name, fact.teacher or "nobody", fact.student or "", *counts, *measured])
    return head, rows


def _replace(path: Path, plain: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(plain, indent=2, default=str) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
