"""What models are worth on encoded rows: their logits, their decisions, their figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel

from hf_distill import anatomy, metrics, report
from hf_distill.report import TEACHER, ModelFacts
from hf_distill.tasks import Task

TIMED_EXAMPLES = 8


@dataclass
class Figures:
    """What was measured.

    Args:
        facts: a row a model, in the order of the models.
        split: what it was measured on; None where there is nothing but training rows.
        thresholds: {model: probability per label}, tuned on `thresholds_split`; empty unless multi-label.
        thresholds_split: validation, or `split` itself where there is no other; F1 is then cross-fitted: `decided`.
    """

    facts: list[ModelFacts] = field(default_factory=list)
    split: str | None = None
    thresholds: dict[str, np.ndarray] = field(default_factory=dict)
    thresholds_split: str | None = None


def measure(
    models: Mapping[str, PreTrainedModel],
    dataset: Mapping[str, Dataset],
    task: Task,
    tokenizer: Any,
    teacher_order: Sequence[int] | None = None,
    more: Sequence[Any] = (),
    known: Mapping[str, Callable[[Dataset], np.ndarray]] | None = None,
    views: Mapping[str, Callable[[Dataset], tuple[Dataset, Any]]] | None = None,
) -> Figures:
    """Size, time, quality and agreement with the teacher, on the test split, or on validation where there is none.

    Args:
        models: by name; the one that is called "teacher" is what the others are compared with.
        dataset: encoded splits. Without labels there is no quality, and the rest is measured.
        task: multi-label, single label or regression.
        tokenizer: pads the rows.
        teacher_order: for each label of the data the teacher's index of it; None where they are in the same order.
        more: further `evaluate` modules, computed on decisions.
        known: {name: what gives its logits of rows, in the order of the data's labels} of models that are not run for
            them. Of those that have no weights (device meta) no time is taken either.
        views: {name: what makes the rows that it reads of the data's, and their tokenizer} of models that read others.
    """
    known, views = known or {}, views or {}
    split = next((split for split in ("test", "validation") if split in dataset), None)
    if split is None:
        return Figures()

    def seen_by(name: str, rows: Dataset) -> tuple[Dataset, Any]:
        return views[name](rows) if name in views else (rows, tokenizer)

    def logits_on(name: str, rows: Dataset) -> np.ndarray:
        if name in known:
            return known[name](rows)
        found = predict(models[name], *seen_by(name, rows), description=f"measuring the {name}")
        return found[:, teacher_order] if name == TEACHER and teacher_order is not None else found

    rows, labels = dataset[split], labels_of(dataset[split])
    logits = {name: logits_on(name, rows) for name in models}
    figures = Figures(split=split)
    if task is Task.MULTI_LABEL:
        figures.thresholds_split = next(
            (name for name in ("validation", split) if name in dataset and "labels" in dataset[name].column_names),
            None,
        )
    if figures.thresholds_split is not None:
        other = dataset[figures.thresholds_split]
        for name in models:
            own = logits[name] if figures.thresholds_split == split else logits_on(name, other)
            figures.thresholds[name] = metrics.tune_thresholds(own, labels_of(other))
    tuned = {} if figures.thresholds_split == split else figures.thresholds
    decisions = {name: decided(task, logits[name], labels, tuned.get(name)) for name in models}
    timed = {name: model for name, model in models.items() if model.device.type != "meta"}
    times: dict[str, report.Latency] = {}
    alike = {name: model for name, model in timed.items() if name not in views}
    for group in (alike, *({name: timed[name]} for name in views if name in timed)):  # who reads the same takes turns
        times |= report.latencies(group, _timed_inputs(*seen_by(next(iter(group)), rows), group))
    for name, model in models.items():
        found = {} if labels is None else quality(task, logits[name], labels, tuned.get(name))
        if labels is not None:
            found |= _further(more, task, decisions[name], labels)
        agreement = None
        if name != TEACHER and TEACHER in models:
            compared = metrics.Fidelity(str(task)).compute(predictions=decisions[name], references=decisions[TEACHER])
            agreement = compared.get("agreement")
        figures.facts.append(report.measure(name, model, times.get(name), found, agreement))
    return figures


def predict(
    model: PreTrainedModel, rows: Dataset, tokenizer: Any, batch_size: int = 64, description: str = "predicting"
) -> np.ndarray:
    """Logits of a model on encoded rows, in their order: (examples, classes), float32. The model's mode is kept.

    Args:
        model: a classifier or regressor.
        rows: with `input_ids`; labels and columns that the model does not know are not looked at.
        tokenizer: pads the rows.
        batch_size: rows in one forward pass.
        description: of the progress bar, which only a terminal sees.
    """
    order = np.argsort([len(ids) for ids in rows["input_ids"]], kind="stable")  # little padding
    names = anatomy.forward_names(model)
    unread = [name for name in rows.column_names if name == "labels" or name not in names]
    sorted_rows = rows.select(order).remove_columns(unread)
    loader = DataLoader(sorted_rows, batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
    console = Console(stderr=True)
    found, training = [], model.training
    model.eval()
    with torch.inference_mode():
        for inputs in track(loader, description, console=console, transient=True, disable=not console.is_terminal):
            known = anatomy.accepted(model, inputs)
            outputs = model(**{name: value.to(model.device) for name, value in known.items()})
            found.append(outputs.logits.float().cpu().numpy())
    model.train(training)
    logits = np.concatenate(found)
    back = np.empty_like(logits)
    back[order] = logits
    return back


def quality(
    task: Task, logits: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None
) -> dict[str, float]:
    """The task's metrics. Of multi-label ones, those that rank are of the logits, and F1 is of what `decided` gives.

    Args:
        task: multi-label, single label or regression.
        logits: (examples, classes).
        labels: as the task has them.
        thresholds: see `decided`.
    """
    module = metrics.for_task(task)
    found: dict[str, float] = module.compute(predictions=logits, references=labels)
    if task is Task.MULTI_LABEL:
        at_thresholds = module.compute(predictions=decided(task, logits, labels, thresholds), references=labels)
        found |= {name: value for name, value in at_thresholds.items() if name.endswith("_f1")}
    return found


def decided(
    task: Task, logits: np.ndarray, labels: np.ndarray | None, thresholds: np.ndarray | None = None
) -> np.ndarray:
    """Logits whose sign is the decision: multi-label ones moved so that the threshold of each label lies at 0.

    Without thresholds they are cross-fitted, so that no row is decided by a threshold that it helped to choose: even
    rows by those tuned on odd rows, and the reverse. Without labels either, the threshold is a probability of 0.5.

    Args:
        task: others than multi-label have no thresholds; their logits come back as they are.
        logits: (examples, labels).
        labels: (examples, labels), 0 or 1.
        thresholds: probabilities, (labels,), tuned on *other* rows.
    """
    if task is not Task.MULTI_LABEL:
        return logits
    if thresholds is not None:
        return logits - _logit(thresholds)
    if labels is None or len(logits) < 2:
        return logits
    moved = np.empty_like(logits)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for half, other in ((even, odd), (odd, even)):
        moved[half] = logits[half] - _logit(metrics.tune_thresholds(logits[other], labels[other]))
    return moved


def compute_metrics(task: str) -> Callable[[Any], dict[str, float]]:
    """The task's metrics as the Trainer wants them, for evaluations while it trains; every threshold is 0.5."""
    module = metrics.for_task(task)
    return lambda prediction: module.compute(predictions=prediction.predictions, references=prediction.label_ids)


def labels_of(rows: Dataset) -> np.ndarray | None:
    """The labels as one array; None where there are none."""
    return np.asarray(rows["labels"]) if "labels" in rows.column_names else None


def _logit(probabilities: np.ndarray) -> np.ndarray:
    clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
    return np.log(clipped) - np.log1p(-clipped)


def _further(more: Sequence[Any], task: Task, decisions: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    if task is Task.MULTI_LABEL:
        predictions = (decisions >= 0).astype(int)
    else:
        predictions = decisions.argmax(-1) if task is Task.SINGLE_LABEL else decisions.squeeze(-1)
    found: dict[str, float] = {}
    for module in more:
        found |= module.compute(predictions=predictions.tolist(), references=labels.tolist())
    return found


def _timed_inputs(rows: Dataset, tokenizer: Any, models: Mapping[str, PreTrainedModel]) -> dict[str, torch.Tensor]:
    """A few examples of middle length, as one padded batch of what any of the models reads."""
    lengths = [len(ids) for ids in rows["input_ids"]]
    first = max(0, (len(rows) - TIMED_EXAMPLES) // 2)
    chosen = np.argsort(lengths, kind="stable")[first : first + TIMED_EXAMPLES]
    read = set().union(*map(anatomy.forward_names, models.values())) - {"labels"}
    batch = rows.select(chosen).select_columns([name for name in rows.column_names if name in read])
    return dict(DataCollatorWithPadding(tokenizer)(list(batch)))
