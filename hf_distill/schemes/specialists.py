"""Specialists for the classes that a generalist confuses (Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 5)."""

import copy
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from sklearn.cluster import KMeans
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, PreTrainedModel, default_data_collator

from hf_distill import anatomy
from hf_distill.losses import TaskLoss
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.tasks import Task, find_task
from hf_distill.teachers import SpecialistTeacher
from hf_distill.teachers.specialist import OVERSAMPLING, SUBSET

DUSTBIN = "dustbin"


@scheme
def specialists(plan: Plan, count: int = 3, probable: int = 1, share: float = 1.0, seed: int = 0) -> PreTrainedModel:
    """Trains a specialist for each cluster of classes that the generalist confuses, and teaches the student by all.

    Classes that are predicted together are put into one cluster: K-means on the columns of the correlation of the
    generalist's predictions. A specialist starts as the generalist, with a head for its classes and a dustbin for all
    others. Half of its rows are of its classes, and the other half are drawn from the rest; how much too often that is
    is kept in its config, and put right in its dustbin's logit by the `SpecialistTeacher`.

    Args:
        plan: its teacher is the generalist, a classifier that is taught in the plan's `train_dataset` already. Rows
            whose label is ignored (-100) are for the student alone.
        count: of clusters, 2 or more; those of one class have nothing to tell apart, and get no specialist.
        probable: so many of the generalist's most probable classes say which specialists are asked.
        share: of the plan's epochs or steps, for each specialist.
        seed: of K-means and of the rows that are drawn.

    Returns:
        The student. The specialists are in the folders of their stages. Generalist and all together are measured where
        the plan has `eval_dataset` and `compute_metrics`: the rows `generalist` and `together`.

    Raises:
        ValueError: the generalist is no classifier with one label an example, a knob does not fit it, there are no
            labels, all clusters are of one class, or one is of no row or of all.

    Reference: Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 5.
    Differs from the paper: correlations, not covariances, whose columns are as long as a class varies, so that single
    classes were far from all others (`examples/benchmarks/schemes.py` has such a generalist: of its 150 classes 139
    were in one of 10 clusters, and 61 by correlation); K-means over all predictions at once, not online; specialists
    learn from labels alone; a student is taught by all of them, where the paper asks them all for every answer.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"specialists: seed is {seed}; it must be at least 0, and below 2**32.")
    generalist = plan.need_teacher()
    model = _generalist(generalist.model, count, plan)
    clusters = plan.once("clusters", lambda: _clusters(plan, model, count, seed))["classes"]
    labels = model.config.num_labels
    parts = [_rows(plan, classes, labels, seed + number) for number, classes in enumerate(clusters, 1)]
    made = []
    for number, (classes, (rows, oversampling)) in enumerate(zip(clusters, parts, strict=True), 1):
        special = _specialist(model, classes, oversampling)
        unmeasured: dict[str, Any] = {"eval_strategy": "no", "load_best_model_at_end": False}
        kwargs: dict[str, Any] = {"train_dataset": rows, "eval_dataset": None, "compute_metrics": None}
        made.append(
            plan.stage(f"specialist_{number}", special, None, [TaskLoss()], share=share, args=unmeasured, **kwargs)
        )
    together = SpecialistTeacher([generalist, *made], probable=probable)
    plan.judge("generalist", generalist, plan.fresh())
    plan.judge("together", together, plan.fresh())
    return plan.stage("student", plan.fresh(), together)


def confusable(probabilities: np.ndarray, count: int, seed: int = 0) -> list[list[int]]:
    """Clusters of classes that are predicted together, those of two classes or more: [[class, ...], ...].

    Args:
        probabilities: of a generalist, (examples, classes).
        count: of clusters, before those of one class are left out.
        seed: of K-means.
    """
    spread = probabilities.std(axis=0)
    varied = (probabilities - probabilities.mean(axis=0)) / np.where(spread > 0, spread, 1)
    columns = varied.T @ varied / len(probabilities)
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(columns)
    clusters = [np.flatnonzero(found == number).tolist() for number in range(count)]
    return sorted(cluster for cluster in clusters if len(cluster) > 1)


def _generalist(model: nn.Module | None, count: int, plan: Plan) -> PreTrainedModel:
    if not isinstance(model, PreTrainedModel) or any(weight.is_meta for weight in model.parameters()):
        raise ValueError(
            "specialists: they start from the generalist's weights. Name a transformers model as the teacher."
        )
    if find_task(model) is not Task.SINGLE_LABEL or find_task(anatomy.unwrap(plan.fresh())) is not Task.SINGLE_LABEL:
        raise ValueError(
            f"specialists: they are for one label an example, and the teacher's task is {find_task(model)}."
        )
    if not 2 <= count < model.config.num_labels:
        raise ValueError(
            f"specialists: count is {count}; it must be at least 2, and below the {model.config.num_labels} classes."
        )
    return model


def _clusters(plan: Plan, model: PreTrainedModel, count: int, seed: int) -> Dataset:
    labels = model.config.num_labels
    if plan.rehearsing:
        return Dataset.from_dict({"classes": [list(range(min(2, labels)))] * count})
    found = confusable(_probabilities(plan, model), count, seed)
    if not found:
        raise ValueError(f"specialists: all {count} clusters are of one class. Pass a smaller count.")
    return Dataset.from_dict({"classes": found})


@torch.no_grad()
def _probabilities(plan: Plan, model: PreTrainedModel) -> np.ndarray:
    """The generalist's predictions on all training rows, (rows, classes)."""
    tokenizer = plan.trainer_kwargs.get("processing_class")
    collate = plan.trainer_kwargs.get("data_collator")
    if collate is None:
        collate = default_data_collator if tokenizer is None else DataCollatorWithPadding(tokenizer)
    names = anatomy.forward_names(model)
    rows = plan.train_dataset.select_columns([name for name in plan.train_dataset.column_names if name in names])
    model.to(plan.args.device)
    found = []
    for inputs in DataLoader(rows, plan.args.per_device_eval_batch_size, collate_fn=collate):
        known = {name: each.to(model.device) for name, each in anatomy.accepted(model, inputs).items()}
        known.pop("labels", None)
        found.append(model(**known).logits.double().softmax(-1).cpu().numpy())
    return np.concatenate(found)


def _rows(plan: Plan, classes: list[int], labels: int, seed: int) -> tuple[Dataset, float]:
    """Half rows of these classes and half others, with labels of the specialist's, and how much too often that is."""
    rows = plan.train_dataset
    column = next((name for name in ("labels", "label") if name in getattr(rows, "column_names", ())), None)
    if column is None:
        raise ValueError("specialists: train_dataset must be a datasets.Dataset with a column labels.")
    given = np.asarray(rows[column])
    known = np.flatnonzero(given >= 0)  # others have no label: they are neither of these classes nor of others
    if not len(known):
        raise ValueError(
            f"specialists: all {len(rows)} rows of train_dataset have a negative label, which stands for none. "
            "Specialists learn from labels: pass some rows that have one."
        )
    if given.max() >= labels:
        raise ValueError(
            f"specialists: train_dataset has the label {given.max()}, and the generalist knows 0 to {labels - 1}."
        )
    if plan.rehearsing:  # there may be no row of these classes: the labels are invented
        invented = np.array([0, len(classes)])[: len(known)]
        return _relabelled(rows, known[:2], column, invented), 1.0
    new = np.full(labels, len(classes))
    new[classes] = np.arange(len(classes))
    mapped = new[given[known]]
    special, others = np.flatnonzero(mapped < len(classes)), np.flatnonzero(mapped == len(classes))
    if not len(special) or not len(others):
        raise ValueError(
            f"specialists: {len(special)} of {len(known)} rows with a label are of the classes {classes}, and a "
            "specialist needs some that are and some that are not. Pass another count."
        )
    draw = np.random.default_rng(seed)
    size = min(len(special), len(others))
    chosen = np.sort(np.concatenate([draw.choice(each, size, replace=False) for each in (special, others)]))
    return _relabelled(rows, known[chosen], column, mapped[chosen]), len(others) / len(special)


def _relabelled(rows: Dataset, chosen: np.ndarray, column: str, labels: np.ndarray) -> Dataset:
    return rows.select(chosen).remove_columns(column).add_column(column, labels)


def _specialist(model: PreTrainedModel, classes: list[int], oversampling: float) -> PreTrainedModel:
    """The generalist with a head for some classes and a dustbin, which starts as the mean of all other classes."""
    special = copy.deepcopy(model)
    special.requires_grad_(True)
    head = anatomy.find_head(special)
    others = [label for label in range(head.out_features) if label not in classes]
    with torch.no_grad():
        for name in ("weight", "bias"):
            old = getattr(head, name)
            if old is not None:
                rows = torch.cat([old[classes], old[others].mean(0, keepdim=True)])
                setattr(head, name, nn.Parameter(rows.clone()))
    head.out_features = special.num_labels = len(classes) + 1
    names = [model.config.id2label[label] for label in classes] + [DUSTBIN]
    special.config.id2label = dict(enumerate(names))
    special.config.label2id = {name: index for index, name in enumerate(names)}
    setattr(special.config, SUBSET, list(classes))
    setattr(special.config, OVERSAMPLING, oversampling)
    return special
