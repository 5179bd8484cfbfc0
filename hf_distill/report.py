"""What a run measured: how large each model is, how long it takes, and how good it is.

times = report.latencies({"teacher": teacher, "distilled student": student}, inputs)
facts = [report.measure("teacher", teacher, times["teacher"], metrics=teacher_metrics),
         report.measure("distilled student", student, times["distilled student"], metrics=..., agreement=0.97)]
rich.print(report.table(facts))
report.save(facts, "out/report.json")
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.utils.benchmark import Measurement, Timer

TEACHER = "teacher"
LOWER_IS_BETTER = frozenset({"mse", "mae", "rmse", "kl", "loss", "perplexity", "wer", "cer"})
_LONGEST_NAME = 24  # characters; longer names of models fold
_VERSION = 1
_NOTHING = "-"


class Size(NamedTuple):
    """Parameters (tied ones once) and megabytes (10**6 bytes) of the weights as saved."""

    parameters: int
    megabytes: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """Time of a forward pass, divided by the examples in it.

    Attributes:
        milliseconds: median, per example.
        iqr: interquartile range (75th less 25th percentile) of the same, milliseconds per example.
        batch_size: examples in one forward pass.
        threads: CPU threads of torch while measuring.
        device: where it ran: "cpu", or the name of the accelerator.
        runs: how many timings the median is taken of.
    """

    milliseconds: float
    iqr: float
    batch_size: int
    threads: int
    device: str
    runs: int


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
    return Size(parameters, sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6)


def latency(
    model: nn.Module, inputs: Mapping[str, Tensor], seconds: float = 2.0, threads: int = 1, rounds: int = 5
) -> Latency:
    """Time one model; see `latencies`. Two models are to be compared by one call of `latencies`, not two of this."""
    return latencies({"model": model}, inputs, seconds=seconds, threads=threads, rounds=rounds)["model"]


def latencies(
    models: Mapping[str, nn.Module],
    inputs: Mapping[str, Tensor],
    seconds: float = 2.0,
    threads: int = 1,
    rounds: int = 5,
) -> dict[str, Latency]:
    """Time several models in turns, so that a machine that slows down slows all of them: ratios are fair.

    Runs in eval and inference mode; every submodule gets its own mode back afterwards, also after an error.

    Args:
        models: by name, each on one device.
        inputs: one batch of tensors, the first dimension the examples, without labels (they would add the loss).
            Each model gets those that its `forward` names: a DistilBERT takes no `token_type_ids`.
        seconds: measured per model, over all rounds, after a warm-up.
        threads: CPU threads of torch while measuring. One, by default: it is comparable between machines.
        rounds: turns that each model gets; every second one goes backwards through the models.

    Returns:
        A `Latency` per name.

    Raises:
        ValueError: no models, no inputs, or numbers that are not positive.
    """
    if not models or not inputs:
        raise ValueError(f"nothing to time: {len(models)} models, {len(inputs)} inputs.")
    if seconds <= 0 or threads < 1 or rounds < 1:
        raise ValueError(f"seconds={seconds}, threads={threads} and rounds={rounds} must be positive.")
    batch_size = len(next(iter(inputs.values())))
    timers = {name: Timer("forward()", globals={"forward": _forward(model, inputs)}, num_threads=threads)
              for name, model in models.items()}  # fmt: skip
    turns: dict[str, list[Measurement]] = {name: [] for name in models}
    with _evaluating(models), torch.inference_mode():
        for timer in timers.values():
            timer.timeit(1)
        for turn in range(rounds):
            for name in list(models)[:: -1 if turn % 2 else 1]:
                turns[name].append(timers[name].blocked_autorange(min_run_time=seconds / rounds))
    return {
        name: _latency(
            [time for measured in turns[name] for time in measured.times], batch_size, threads, models[name]
        )
        for name in models
    }


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
    lines = ["| " + " | ".join(map(_cell, cells.header)) + " |"]
    lines.append("|" + "|".join([" --- ", *[" ---: "] * (len(cells.header) - 1)]) + "|")
    for i, row in enumerate(cells.rows):
        marked = [f"**{_cell(cell)}**" if (i, j) in cells.best else _cell(cell) for j, cell in enumerate(row)]
        lines.append("| " + " | ".join(marked) + " |")
    notes = [_cell(note) for note in (*summary(facts), _how(facts)) if note]
    return "\n".join(lines) + ("\n\n" + "  \n".join(notes) if notes else "")


def summary(facts: Sequence[ModelFacts]) -> list[str]:
    """One sentence a student: its share of the teacher's first metric, parameters and speed. None if no teacher."""
    teacher = next((fact for fact in facts if fact.name == TEACHER), None)
    if teacher is None:
        return []
    metric = next((key for key in teacher.metrics if key not in LOWER_IS_BETTER), None)
    lines = []
    for fact in facts:
        quality = _share(fact.metrics.get(metric), teacher.metrics[metric]) if metric else None
        parameters = _share(fact.parameters, teacher.parameters)
        speed = _share(teacher.milliseconds, fact.milliseconds)
        parts = [f"{quality:.1%} of the teacher's {_title(metric)}" if quality is not None and metric else "",
                 f"{parameters:.0%} of its parameters" if parameters is not None else "",
                 f"{speed:.2g} times its speed" if speed is not None else ""]  # fmt: skip
        said = ", ".join(part for part in parts if part)
        if fact is not teacher and said:
            lines.append(f"{fact.name}: {said}.")
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


def picture(facts: Sequence[ModelFacts], path: str | os.PathLike[str], metric: str | None = None) -> Path:
    """Draw quality against milliseconds per example, each model with its parameters, the IQR as a bar.

    Args:
        facts: those without the metric or without a time are left out.
        path: the file; its ending names the format (.png, .svg, .pdf).
        metric: what to draw upwards. None is the first metric there is.

    Returns:
        The path.

    Raises:
        ImportError: matplotlib is not there.
        ValueError: no model has both a time and the metric.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install hf-distill[report]") from error
    metric = metric or next((key for fact in facts for key in fact.metrics), None)
    drawn = [
        (fact, float(fact.milliseconds), float(fact.metrics[metric]))
        for fact in facts
        if metric and fact.milliseconds is not None and math.isfinite(fact.metrics.get(metric, math.nan))
    ]
    if not drawn or metric is None:
        raise ValueError(f"nothing to draw: no model has both milliseconds and {metric or 'a metric'}.")
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    _draw(figure.add_subplot(), drawn, metric)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    return target


def _draw(axes: Any, drawn: Sequence[tuple[ModelFacts, float, float]], metric: str) -> None:
    low, high = min(y for *_, y in drawn), max(y for *_, y in drawn)
    span = high - low or abs(high) or 1.0
    axes.set_ylim(low - 0.3 * span, high + 0.3 * span)
    longest = max(x for _, x, _ in drawn)
    axes.set_xlim(0, 1.25 * longest)
    beneath = -math.inf
    colours = iter(f"C{i % 10}" for i in range(len(drawn)))
    for fact, x, y in sorted(drawn, key=lambda point: point[2]):
        colour = "0.35" if fact.name == TEACHER else next(colours)
        spread = (fact.milliseconds_iqr or 0.0) / 2
        axes.errorbar(x, y, xerr=spread or None, fmt="o", markersize=9, capsize=3, color=colour)
        beneath = max(y, beneath + 0.12 * 1.6 * span)  # labels of two lines, a tenth of the height apart
        right = x > 0.6 * longest  # they point inwards, so that none is cut off
        axes.annotate(
            fact.name + (f"\n{_count(fact.parameters)} parameters" if fact.parameters is not None else ""),
            (x, beneath),
            xytext=(-12 if right else 12, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            color=colour,
        )
    conditions = _conditions([fact for fact, _, _ in drawn])
    axes.set_xlabel("milliseconds per example" + (f" ({conditions})" if conditions else ""))
    axes.set_ylabel(_title(metric) + (" (lower is better)" if metric in LOWER_IS_BETTER else ""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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
    header = ["model", "parameters", "MB", "ms / example (IQR)", *map(_title, metrics), "agreement"]
    rows = [
        [
            fact.name,
            _count(fact.parameters),
            _megabytes(fact.megabytes),
            _time(fact),
            *(_number(fact.metrics.get(key)) for key in metrics),
            _number(fact.agreement),
        ]
        for fact in facts
    ]
    # A column that nothing was measured for is left out.
    used = [0, *(j for j in range(1, len(header)) if any(row[j] != _NOTHING for row in rows))]
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


def _conditions(facts: Sequence[ModelFacts]) -> str:
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
        conditions = _conditions(facts)
        parts.append(f"ms: median of the forward pass{f', {conditions}' if conditions else ''}.")
    return " ".join(part for part in parts if part)


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or not whole or not math.isfinite(part) or not math.isfinite(whole):
        return None
    return part / whole


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def _count(parameters: int | None) -> str:
    if parameters is None:
        return _NOTHING
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return str(parameters)


def _megabytes(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return _three_digits(value)


def _time(fact: ModelFacts) -> str:
    if fact.milliseconds is None:
        return _NOTHING
    spread = "" if fact.milliseconds_iqr is None else f" ({fact.milliseconds_iqr:.2g})"
    return f"{_three_digits(fact.milliseconds)}{spread}"


def _three_digits(value: float) -> str:
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{places}f}" if value >= 0.1 else f"{value:.3g}"


def _title(metric: str) -> str:
    return metric.replace("_", " ")


def _stacked(title: str) -> str:
    """A header of short lines: columns are then as narrow as their numbers."""
    return "\n".join(textwrap.wrap(title, 10, break_long_words=False)) or title


def _literal(cell: str) -> str:
    return cell.replace("[", r"\[")  # rich would take it for a style


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def _forward(model: nn.Module, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
    named = inspect.signature(model.forward).parameters
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    wanted = {key: value for key, value in inputs.items() if key in named} or dict(inputs)
    here = {key: value.to(device) for key, value in wanted.items()}
    return lambda: model(**here)


@contextmanager
def _evaluating(models: Mapping[str, nn.Module]) -> Iterator[None]:
    modes = [(module, module.training) for model in models.values() for module in model.modules()]
    try:
        for model in models.values():
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _latency(times: Sequence[float], batch_size: int, threads: int, model: nn.Module) -> Latency:
    per_example = torch.tensor(times, dtype=torch.float64) / batch_size * 1e3
    low, median, high = torch.quantile(per_example, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Latency(median, high - low, batch_size, threads, name, len(times))
