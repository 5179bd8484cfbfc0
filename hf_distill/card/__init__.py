"""The model card of a distilled student, from what its run knows and measured.

    card = card.render(CardFacts(task="multi_label", teacher="org/teacher", models=facts, ...))
    card.save("out/README.md")

Every fact is optional and a fact that is not known is not mentioned. A card is public, so no string gets in as it is:
absolute paths are cut to their last name, tokens and the values of secret environment variables are removed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from hf_distill import privacy
from hf_distill.card.check import check
from hf_distill.card.hub_id import is_hub_id, is_repository_name
from hf_distill.report import ModelFacts, markdown_table, stages
from hf_distill.report.markdown import cell, fenced
from hf_distill.report.stages import StageFacts

FEW_POSITIVES = 20  # below this, one example more or less moves a label's F1 by several points

_TASKS = {
    # task: (pipeline_tag, words, tag)
    "multi_label": ("text-classification", "multi-label text classification", "multi-label"),
    "single_label": ("text-classification", "text classification", None),
    "regression": ("text-classification", "predicting numbers from text (regression)", "regression"),
    "tokens": ("token-classification", "token classification", None),
    "span": ("question-answering", "extractive question answering", None),
    "masked_lm": ("fill-mask", "masked language modelling", None),
    "causal_lm": ("text-generation", "text generation", None),
    "embedding": ("feature-extraction", "text embeddings", None),
}
_HUB_METRICS = {"macro_f1": "f1", "micro_f1": "f1", "pearson": "pearsonr", "spearman": "spearmanr"}


@dataclasses.dataclass
class CardFacts:
    """What a card can say. Leave out what is not known.

    Attributes:
        name: title of the card; else the end of `repo_id`.
        repo_id: Hub id under which the model will be found; the snippet loads it, or else the folder it lies in.
        task: "multi_label", "single_label", "regression", or another of `hf_distill.tasks`.
        pipeline_tag: of the Hub; found from `task` when left out.
        license: identifier as on the Hub: "apache-2.0".
        language: code or codes: "en".
        tags: further tags.
        base_model: what the weights started from, if it is on the Hub; other values are dropped from the metadata.
        teacher: Hub id or path (only its last name is shown), or several.
        taught_by: who was no such model, in words: "models that learned beside it".
        student: what it is, in a few words: "DistilBERT, 3 layers, width 384".
        student_from: Hub id or path that the student was made from.
        copied, not_copied: weights that came over, and those that started anew.
        losses: one dict a loss: {"name": "SoftTargets", "weight": 0.5, "config": {"temperature": 2.0},
            "citation": "Hinton, Vinyals, Dean 2015, arXiv:1503.02531"}.
        dataset: Hub id or path of the data; only a Hub id gets into the metadata.
        dataset_name: its name in words.
        dataset_config, dataset_revision: of a Hub dataset.
        train_split, train_rows: what was trained on.
        evaluation_split, evaluation_rows: what the figures were measured on.
        selection_split: the split that the best checkpoint was chosen on, if one was chosen.
        labels: names, in the order of the logits.
        label_support: positives of each label among the evaluated rows.
        thresholds: probability per label, as in `config.thresholds`.
        thresholds_split: the split that they were tuned on.
        thresholds_cross_fitted: the figures use other thresholds than those that are stored: each half of the
            evaluated rows was decided by thresholds tuned on the other half.
        models: the rows of the table.
        model: name of the row that this card belongs to.
        steps, epochs, batch_size, learning_rate, max_length, precision, seed, device: of the training. `batch_size` is
            examples per optimizer step.
        versions: of libraries, by name.
        recipe: text of the YAML recipe.
        command: what runs it.
        scheme: the scheme as it was called: "born_again(generations=3)".
        stages: what it trained and measured one after another.
        result: the stage that made the model of this card.
    """

    name: str | None = None
    repo_id: str | None = None
    task: str | None = None
    pipeline_tag: str | None = None
    license: str | None = None
    language: str | list[str] | None = None
    tags: list[str] = dataclasses.field(default_factory=list)
    base_model: str | None = None
    teacher: str | Sequence[str] | None = None
    taught_by: str | None = None
    student: str | None = None
    student_from: str | None = None
    copied: list[str] = dataclasses.field(default_factory=list)
    not_copied: list[str] = dataclasses.field(default_factory=list)
    losses: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    dataset: str | None = None
    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_revision: str | None = None
    train_split: str | None = None
    train_rows: int | None = None
    evaluation_split: str | None = None
    evaluation_rows: int | None = None
    selection_split: str | None = None
    labels: list[str] = dataclasses.field(default_factory=list)
    label_support: dict[str, int] = dataclasses.field(default_factory=dict)
    thresholds: list[float] | None = None
    thresholds_split: str | None = None
    thresholds_cross_fitted: bool = False
    models: list[ModelFacts] = dataclasses.field(default_factory=list)
    model: str = "distilled student"
    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    max_length: int | None = None
    precision: str | None = None
    seed: int | None = None
    device: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    recipe: str | None = None
    command: str | None = None
    scheme: str | None = None
    stages: list[StageFacts] = dataclasses.field(default_factory=list)
    result: str | None = None


def render(facts: CardFacts) -> ModelCard:
    """The card of these facts, checked.

    Args:
        facts: left as they are.

    Returns:
        A card whose `save(path)` writes a README.md.

    Raises:
        ValueError: the card would not pass `check`.
    """
    data = _metadata(facts)
    public = _public_facts(facts)
    text = _environment().get_template("model_card.md.j2").render(
        facts=public,
        title=public.name or (public.repo_id or "").split("/")[-1] or "Distilled model",
        purpose=_TASKS.get(str(facts.task), (None, None, None))[1],
        snippet_model=public.repo_id or ".",
        pipeline_tag=data.pipeline_tag,
        table=markdown_table(public.models) if public.models else None,
        lineage=stages.markdown(public.stages) if public.stages else None,
        settings=_settings(public),
        citations=list(dict.fromkeys(loss["citation"] for loss in public.losses if loss.get("citation"))),
        limits=_limits(public),
    )  # fmt: skip
    text = re.sub(r"\n{3,}", "\n\n", text.strip())
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")
    check(card)
    return card


# ---- metadata -----------------------------------------------------------------------------------------------------


def _metadata(facts: CardFacts) -> ModelCardData:
    default_tag, _, task_tag = _TASKS.get(str(facts.task), (None, None, None))
    base_model = facts.base_model if is_hub_id(facts.base_model) else None
    data: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": _matching(r"[a-z0-9-]+", facts.pipeline_tag) or default_tag,
        "license": _matching(r"[a-z0-9][a-z0-9.-]*", facts.license),
        "language": _languages(facts.language),
        "tags": ["knowledge-distillation", "hf-distill", *([task_tag] if task_tag else []), *_tags(facts.tags)],
        "base_model": base_model,
        # Without it the Hub guesses, and takes a list of base models for a merge.
        "base_model_relation": "finetune" if base_model else None,
        "datasets": [facts.dataset] if is_hub_id(facts.dataset) else None,
        "metrics": list(dict.fromkeys(_HUB_METRICS.get(key, key) for key in _own_metrics(facts))) or None,
    }
    data = {key: value for key, value in data.items() if value is not None}
    results = _results(facts, data.get("pipeline_tag"))
    if results:
        name = facts.repo_id if is_repository_name(facts.repo_id) else facts.name
        data |= {"eval_results": results, "model_name": privacy.public(name or "distilled-model").split("/")[-1]}
    return ModelCardData(**data)


def _own_metrics(facts: CardFacts) -> dict[str, float]:
    own = next((model for model in facts.models if model.name == facts.model), None)
    return {privacy.public(key): value for key, value in own.metrics.items() if math.isfinite(value)} if own else {}


def _results(facts: CardFacts, pipeline_tag: str | None) -> list[EvalResult]:
    """Entries of the model-index. It wants a task and a dataset on the Hub, so there are none without."""
    if not pipeline_tag or not facts.dataset or not is_hub_id(facts.dataset):
        return []
    return [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=facts.dataset,
            dataset_name=privacy.public(facts.dataset_name or facts.dataset),
            dataset_config=privacy.public(facts.dataset_config) if facts.dataset_config else None,
            dataset_split=privacy.public(facts.evaluation_split) if facts.evaluation_split else None,
            dataset_revision=privacy.public(facts.dataset_revision) if facts.dataset_revision else None,
            metric_type=_HUB_METRICS.get(key, key),
            metric_name=key.replace("_", " "),
            metric_value=round(float(value), 6),
        )
        for key, value in _own_metrics(facts).items()
    ]


def _matching(pattern: str, value: str | None) -> str | None:
    return value if value and re.fullmatch(pattern, value) else None


def _languages(language: str | list[str] | None) -> str | list[str] | None:
    every = [language] if isinstance(language, str) else language or []
    known = [code for code in every if re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]{2,4})?|code|multilingual", code)]
    return known[0] if len(known) == 1 else known or None


def _tags(tags: Sequence[str]) -> list[str]:
    return [tag for tag in map(privacy.public, tags) if tag and privacy.REMOVED not in tag]


# ---- text ---------------------------------------------------------------------------------------------------------


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("hf_distill"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters.update(cell=cell, fenced=fenced, setting=_setting, quoted=json.dumps, count=_count, ids=_ids)
    return environment


def _settings(facts: CardFacts) -> dict[str, str]:
    """Rows of the table of training settings, those that are known."""
    rows = {
        "optimizer steps": facts.steps and _count(facts.steps),
        "epochs": facts.epochs and f"{facts.epochs:g}",
        "examples a step": facts.batch_size,
        "learning rate": facts.learning_rate and f"{facts.learning_rate:g}",
        "longest input, tokens": facts.max_length,
        "precision": facts.precision,
        "seed": facts.seed,
        "device": facts.device,
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    return {name: str(value) for name, value in rows.items() if value is not None and value != ""}


def _limits(facts: CardFacts) -> list[str]:
    whose = "teachers'" if not isinstance(facts.teacher, str | None) and len(facts.teacher) > 1 else "teacher's"
    said = [f"It learned from the {whose} outputs, so the {whose} errors and biases are inherited."]
    if facts.taught_by or (facts.scheme and not facts.teacher):
        who = facts.taught_by or "itself, or by models that learned beside or before it"
        said = [f"It was taught by {who}. What is wrong there, or in the labels, is inherited."]
    split = facts.evaluation_split
    if facts.thresholds and facts.thresholds_split:
        if facts.thresholds_split == split and facts.thresholds_cross_fitted:
            said.append(
                f"The stored thresholds were tuned on the whole {split} split. The F1 in the table is cross-fitted: "
                "each half of the rows was decided by thresholds tuned on the other half."
            )
        elif facts.thresholds_split == split:
            said.append(
                f"The thresholds were tuned on the {split} split, the same split that the table reports: F1 is "
                "optimistic there. Measures that use no threshold, such as mean average precision, are not touched."
            )
        else:
            said.append(
                f"The thresholds were tuned on the {facts.thresholds_split} split; tune them on your own data."
            )
    if split and facts.selection_split == split:
        said.append(f"The checkpoint was chosen by its figures on the {split} split, the one that the table reports.")
    few = {label: count for label, count in facts.label_support.items() if count < FEW_POSITIVES}
    if few:
        listed = ", ".join(f"{label} ({count})" for label, count in sorted(few.items(), key=lambda item: item[1]))
        said.append(
            f"Labels with fewer than {FEW_POSITIVES} positives among the evaluated rows, whose own figures say "
            f"little: {listed}."
        )
    if facts.seed is not None:
        said.append(f"One run with one seed ({facts.seed}); how much the figures vary between seeds is not in them.")
    return said


def _ids(names: str | Sequence[str]) -> str:
    quoted = [f"`{cell(name)}`" for name in ([names] if isinstance(names, str) else names)]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if quoted[1:] else quoted)


def _count(number: int) -> str:
    return f"{number:,}"


def _setting(config: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name}={_value(value)}" for name, value in (config or {}).items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_value(key)}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        shown = [_value(item) for item in value[:12]]
        return "[" + ", ".join([*shown, *(["..."] if len(value) > 12 else [])]) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- what may be public -------------------------------------------------------------------------------------------

_IDS = ("teacher", "student_from", "dataset")
_PROSE = frozenset({"name", "student", "copied", "not_copied", "versions", "recipe", "command", "device"})


def _public_facts(facts: CardFacts) -> CardFacts:
    """The facts with every string cleaned: whatever a template prints of them may be seen by all."""
    clean: dict[str, Any] = {}
    for field in dataclasses.fields(facts):
        value = getattr(facts, field.name)
        if field.name in _IDS:
            several = value is not None and not isinstance(value, str)
            clean[field.name] = [*map(_public_id, value)] if several else _public_id(value)
        else:
            clean[field.name] = _cleaned(value, prose=field.name in _PROSE)
    # Where the model will be: a folder of that name on this disk says nothing against it.
    clean["repo_id"] = facts.repo_id if is_repository_name(facts.repo_id) else None
    return CardFacts(**clean)


def _public_id(value: str | None) -> str | None:
    return value if is_hub_id(value) else privacy.last_name(privacy.public(value)) if value else None


def _cleaned(value: Any, prose: bool) -> Any:
    if isinstance(value, str):
        return privacy.without_identity(privacy.public(value)) if prose else privacy.public(value)
    if isinstance(value, ModelFacts):
        return ModelFacts(**{key: _cleaned(item, prose=False) for key, item in vars(value).items()})
    if isinstance(value, StageFacts):
        return StageFacts(**{key: _cleaned(item, prose=False) for key, item in vars(value).items()})
    if isinstance(value, Mapping):
        return {_cleaned(key, prose): _cleaned(item, prose) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(item, prose) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    # A repr can hold anything, paths and addresses included; the type's name cannot.
    return type(value).__name__
