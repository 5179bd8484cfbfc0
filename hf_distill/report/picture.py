"""A run's models as a picture: quality against time."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_distill.report import LOWER_IS_BETTER, TEACHER, ModelFacts, conditions, digits, title


def draw(facts: Sequence[ModelFacts], path: str | os.PathLike[str], metric: str | None = None) -> Path:
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
    _plot(figure.add_subplot(), drawn, metric)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)
    return target


def _plot(axes: Any, drawn: Sequence[tuple[ModelFacts, float, float]], metric: str) -> None:
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
            fact.name + (f"\n{digits.count(fact.parameters)} parameters" if fact.parameters is not None else ""),
            (x, beneath),
            xytext=(-12 if right else 12, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="center",
            color=colour,
        )
    timed = conditions([fact for fact, _, _ in drawn])
    axes.set_xlabel("milliseconds per example" + (f" ({timed})" if timed else ""))
    axes.set_ylabel(title(metric) + (" (lower is better)" if metric in LOWER_IS_BETTER else ""))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
