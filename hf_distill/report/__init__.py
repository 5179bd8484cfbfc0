"""What a run measured: how large each model is, how long it takes, and how good it is.

times = report.latencies({"teacher": teacher, "distilled student": student}, inputs)
facts = [report.measure("teacher", teacher, times["teacher"], metrics=teacher_metrics),
         report.measure("distilled student", student, times["distilled student"], metrics=..., agreement=0.97)]
rich.print(report.table(facts))
report.save(facts, "out/report.json")
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.table import Table
from torch import Tensor, nn

from hf_distill.report import digits, markdown
from hf_distill.report.latency import Latency
from hf_distill.report.latency import latencies as latencies  # `report.latencies`: the first half of every report
from hf_distill.weights import stored

TEACHER, ALONE, DISTILLED = "teacher", "student alone", "distilled student"
LOWER_IS_BETTER = frozenset({"mse", "mae", "rmse", "kl", "loss", "perplexity", "wer", "cer"})
_LONGEST_NAME = 24  # characters; longer names of models fold
_VERSION = 1


class Size(NamedTuple):
    """Parameters (tied ones once) and megabytes (10**6 bytes) of the weights as saved."""

    parameters: int
    megabytes: float


@dataclasses.dataclass
class ModelFacts:
    """What was measured of one model. What was not measured is None, and no table invents it.

    Attributes:
        name: "teacher", "student alone", "distilled student", or any other; "teacher" is what the others are
            compared with.
        parameters: how many, tied ones once.
        megabytes: of the saved weights, 10**6 bytes, in the dtype they are saved in.
        milliseconds, milliseconds_iqr, batch_size, threads, device: see `Latency`.
        metrics: task quality by name, in the order of the columns.
        agreement: share of decisions equal to the teacher's; None for the teacher itself.
    """

    name: str
    parameters: int | None = None
    megabytes: float | None = None
    milliseconds: float | None = None
    milliseconds_iqr: float | None = None
    batch_size: int | None = None
    threads: int | None = None
    device: str | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which knows no NaN: values that are not finite become None."""
        plain = dataclasses.asdict(self)
        plain["metrics"] = {key: _finite(value) for key, value in self.metrics.items()}
        return {key: _finite(value) for key, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> ModelFacts:
        """The inverse of `to_dict`; a metric that was not finite comes back as NaN.

        Raises:
            ValueError: keys that are no field, or no name.
        """
        unknown = sorted(set(plain) - {field.name for field in dataclasses.fields(cls)})
        if unknown or "name" not in plain:
            raise ValueError(f"no facts of a model: {f'unknown keys {unknown}' if unknown else 'name is missing'}.")
        metrics = {key: math.nan if value is None else value for key, value in (plain.get("metrics") or {}).items()}
        return cls(**{**plain, "metrics": metrics})


def size(model: nn.Module) -> Size:
    """Parameters and megabytes of a model as `save_pretrained` writes it: persistent buffers too, tied weights once.

    Counted from the tensors in memory, so a model loaded in another dtype than it is saved in must be cast first. The
    header of the file, some kilobytes, is left out, and so is what `_keys_to_ignore_on_save` names.
    """
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    kept = {id(tensor): tensor for key, tensor in model.state_dict(keep_vars=True).items() if key not in ignored}
    tensors = [tensor for tensor in kept.values() if isinstance(tensor, Tensor)]
    parameters = sum(tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter))
    plain = [part for tensor in tensors for part in stored(tensor)]
    return Size(parameters, sum(part.numel() * part.element_size() for part in plain) / 1e6)


def measure(
    name: str,
    model: nn.Module,
    time: Latency | None = None,
    metrics: Mapping[str, Any] | None = None,
    agreement: float | None = None,
) -> ModelFacts:
    """The facts of a model: its size is taken here, the rest is passed in.

    Of `metrics` the numbers are kept; what else `compute` returned ("per_label") has no place in a table.
    """
    parameters, megabytes = size(model)
    return ModelFacts(
        name=name,
        parameters=parameters,
        megabytes=megabytes,
        milliseconds=time.milliseconds if time else None,
        milliseconds_iqr=time.iqr if time else None,
        batch_size=time.batch_size if time else None,
        threads=time.threads if time else None,
        device=time.device if time else None,
        metrics={key: float(value) for key, value in (metrics or {}).items() if isinstance(value, int | float)},
        agreement=agreement,
    )


def table(facts: Sequence[ModelFacts], metrics: Sequence[str] | None = None, width: int = 100) -> Table:
    """One row a model, for `rich.print`; where that is too wide, one column a model. The best of the students is bold.

    Args:
        facts: in the order of the rows.
        metrics: which metrics are shown. None is all.
        width: characters of the terminal.
    """
    cells = _cells(facts, _every_metric(facts) if metrics is None else metrics)
    if cells.width() > width:
        cells = cells.turned()
    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    grid.caption = _literal("\n".join(filter(None, [*summary(facts), _how(facts)])))
    for i, title in enumerate(cells.header):
        side: Literal["left", "right"] = "left" if i == 0 else "right"
        longest = None if i else _LONGEST_NAME
        grid.add_column(_literal(_stacked(title)), justify=side, max_width=longest, overflow="fold", vertical="bottom")
    for i, row in enumerate(cells.rows):
        grid.add_row(
            *(
                f"[bold]{_literal(cell)}[/bold]" if (i, j) in cells.best else _literal(cell)
                for j, cell in enumerate(row)
            )
        )
    return grid


def markdown_table(facts: Sequence[ModelFacts], metrics: Sequence[str] | None = None) -> str:
    """The same table in Markdown, for a model card or a README, with what it was measured on below.

    Args:
        facts: in the order of the rows.
        metrics: which metrics get a column. None is all.
    """
    cells = _cells(facts, _every_metric(facts) if metrics is None else metrics)
    lines = ["| " + " | ".join(map(markdown.cell, cells.header)) + " |"]
    lines.append("|" + "|".join([" --- ", *[" ---: "] * (len(cells.header) - 1)]) + "|")
    for i, row in enumerate(cells.rows):
        texts = map(markdown.cell, row)
        marked = [f"**{text}**" if (i, j) in cells.best else text for j, text in enumerate(texts)]
        lines.append("| " + " | ".join(marked) + " |")
    notes = [markdown.cell(note) for note in (*summary(facts), _how(facts)) if note]
    return "\n".join(lines) + ("\n\n" + "  \n".join(notes) if notes else "")


def summary(facts: Sequence[ModelFacts]) -> list[str]:
    """One sentence a student: its share of the teacher's first metric, parameters and speed. None if no teacher.

    Where the student alone is better than the teacher, one more says so.
    """
    teacher = next((fact for fact in facts if fact.name == TEACHER), None)
    if teacher is None:
        return []
    metric = next((key for key in teacher.metrics if key not in LOWER_IS_BETTER), None)
    lines = []
    for fact in facts:
        quality = _share(fact.metrics.get(metric), teacher.metrics[metric]) if metric else None
        parameters = _share(fact.parameters, teacher.parameters)
        speed = _share(teacher.milliseconds, fact.milliseconds)
        parts = [f"{quality:.1%} of the teacher's {title(metric)}" if quality is not None and metric else "",
                 f"{parameters:.0%} of its parameters" if parameters is not None else "",
                 f"{speed:.2g} times its speed" if speed is not None else ""]  # fmt: skip
        said = ", ".join(part for part in parts if part)
        if fact is not teacher and said:
            lines.append(f"{fact.name}: {said}.")
        if fact.name == ALONE and quality is not None and quality > 1:
            lines.append("The teacher is worse than the student alone: train it longer, or take a better one.")
    return lines


def save(facts: Sequence[ModelFacts], path: str | os.PathLike[str]) -> Path:
    """Write the facts as JSON, whole or not at all: a run that is killed leaves the former file.

    Returns:
        The path.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"version": _VERSION, "models": [fact.to_dict() for fact in facts]}, indent=2, allow_nan=False)
    # Beside the target: os.replace is atomic within one file system only.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike[str]) -> list[ModelFacts]:
    """Read what `save` wrote.

    Raises:
        ValueError: the file is no report of this version.
    """
    try:
        plain = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON: {error}.") from None
    version = plain.get("version") if isinstance(plain, dict) else None
    if version != _VERSION:
        raise ValueError(f"{path}: a report of version {version!r}; this hf_distill reads version {_VERSION}.")
    return [ModelFacts.from_dict(entry) for entry in plain["models"]]


class _Cells(NamedTuple):
    """What both tables show: header, rows, and the (row, column) of the best students."""

    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]

    def width(self) -> int:
        """Characters that `table` needs."""
        columns = zip(map(_stacked, self.header), *self.rows, strict=True)
        widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
        widths[0] = min(widths[0], _LONGEST_NAME)
        return sum(widths) + 2 * len(widths) + 2

    def turned(self) -> _Cells:
        """Rows for columns."""
        header, *rows = zip(self.header, *self.rows, strict=True)
        best = {(column - 1, row + 1) for row, column in self.best}
        return _Cells(["", *header[1:]], [list(row) for row in rows], best)


def _cells(facts: Sequence[ModelFacts], metrics: Sequence[str]) -> _Cells:
    header = ["model", "parameters", "MB", "ms / example (IQR)", *map(title, metrics), "agreement"]
    rows = [
        [
            fact.name,
            digits.count(fact.parameters),
            digits.megabytes(fact.megabytes),
            _time(fact),
            *(digits.number(fact.metrics.get(key)) for key in metrics),
            digits.number(fact.agreement),
        ]
        for fact in facts
    ]
    # A column that nothing was measured for is left out.
    used = [0, *(j for j in range(1, len(header)) if any(row[j] != digits.NOTHING for row in rows))]
    keys = dict(enumerate([*metrics, "agreement"], start=4))
    return _Cells(
        [header[j] for j in used],
        [[row[j] for j in used] for row in rows],
        {(row, place) for place, j in enumerate(used) if j in keys for row in _best(facts, keys[j])},
    )


def _every_metric(facts: Sequence[ModelFacts]) -> list[str]:
    return list(dict.fromkeys(key for fact in facts for key in fact.metrics))


def _best(facts: Sequence[ModelFacts], key: str) -> list[int]:
    """Rows of the best students, none where fewer than two can be compared."""
    values = {
        row: value
        for row, fact in enumerate(facts)
        if fact.name != TEACHER
        and (value := _finite(fact.agreement if key == "agreement" else fact.metrics.get(key))) is not None
    }
    if len(values) < 2:
        return []
    top = (min if key in LOWER_IS_BETTER else max)(values.values())
    return [row for row, value in values.items() if value == top]


def conditions(facts: Sequence[ModelFacts]) -> str:
    """What the models were timed on, in words; nothing where none was timed."""
    timed = [fact for fact in facts if fact.milliseconds is not None]
    said = {
        ", ".join(
            part
            for part in (
                f"batch of {fact.batch_size}" if fact.batch_size else "",
                f"{fact.threads} {'thread' if fact.threads == 1 else 'threads'}" if fact.threads else "",
                fact.device or "",
            )
            if part
        )
        for fact in timed
    }
    return "; ".join(sorted(said - {""}))


def _how(facts: Sequence[ModelFacts]) -> str:
    parts = ["MB: saved weights, millions of bytes." if any(fact.megabytes is not None for fact in facts) else ""]
    if any(fact.milliseconds is not None for fact in facts):
        timed = conditions(facts)
        parts.append(f"ms: median of the forward pass{f', {timed}' if timed else ''}.")
    return " ".join(part for part in parts if part)


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or not whole or not math.isfinite(part) or not math.isfinite(whole):
        return None
    return part / whole


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _time(fact: ModelFacts) -> str:
    if fact.milliseconds is None:
        return digits.NOTHING
    spread = "" if fact.milliseconds_iqr is None else f" ({fact.milliseconds_iqr:.2g})"
    return f"{digits.three_digits(fact.milliseconds)}{spread}"


def title(metric: str) -> str:
    """The name of a metric in words."""
    return metric.replace("_", " ")


def _stacked(title: str) -> str:
    """A header of short lines: columns are then as narrow as their numbers."""
    return "\n".join(textwrap.wrap(title, 10, break_long_words=False)) or title


def _literal(cell: str) -> str:
    return cell.replace("[", r"\[")  # rich would take it for a style
