"""No training text at all: the student learns from inputs that are made of the teacher, or of chance."""

from functools import partial
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from hf_distill import anatomy, checks
from hf_distill.augment import generator, sampled, statistics
from hf_distill.augment.soft_inputs import Wanted, soft_inputs, table_of
from hf_distill.data import embedded_rows
from hf_distill.losses import SoftTargets
from hf_distill.schemes.idle import refuse_idle
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.model import named

Source = Literal["embeddings", "generator", "masked_lm", "causal_lm", "random_tokens"]
OF_EMBEDDINGS = ("embeddings", "generator")
OF_A_MODEL = {"masked_lm": (AutoModelForMaskedLM, Task.MASKED_LM), "causal_lm": (AutoModelForCausalLM, Task.CAUSAL_LM)}
READ_BY: dict[str, tuple[str, ...]] = {  # knobs that not every source reads
    "lm": tuple(OF_A_MODEL),
    "temperature": tuple(OF_A_MODEL),
    "batch_size": (*OF_EMBEDDINGS, *OF_A_MODEL),
    "adversarial": ("generator",),
    **dict.fromkeys(("published", "steps", "learning_rate", "confidence", "diversity", "matching"), OF_EMBEDDINGS),
}
REHEARSED = 8  # rows


@scheme
def data_free(
    plan: Plan,
    source: Source = "embeddings",
    rows: int = 2000,
    length: int = 32,
    rounds: int = 1,
    lm: str | None = None,
    published: str | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    confidence: float | None = None,
    diversity: float | None = None,
    matching: float | None = None,
    adversarial: float | None = None,
    temperature: float | None = None,
) -> PreTrainedModel:
    """Makes inputs, and trains the student on the teacher's answers to them; round after round, if asked.

    - ``"embeddings"``: rows of embeddings, optimised until the teacher is sure of each and its answers differ.
    - ``"generator"``: rows of embeddings from a generator that is trained, in every round anew, for what the teacher
      is sure of and the student, as it is by then, answers otherwise.
    - ``"masked_lm"``, ``"causal_lm"``: texts that a language model makes.
    - ``"random_tokens"``: the baseline that the others must beat.

    Only the table of embeddings is not trained by rows of embeddings: the student must have the teacher's.

    Reference: Chen et al. 2019 (DAFL), arXiv:1904.01186; Fang et al. 2019 (DFAD), arXiv:1912.11006; Wang and Cho 2019,
    arXiv:1902.04094 (texts of a masked language model).
    Differs from them: generator and student take turns by rounds and not by steps, and every round's generator starts
    anew; what each term is, see `augment.soft_inputs.Wanted`. That inputs are embeddings is our own form: the papers
    make images.

    A knob that the source does not read is refused: None leaves it at the number that is named beside it.

    Args:
        plan: without train_dataset. Its teacher teaches; its losses, where it names some, must need no labels.
        source: of the inputs.
        rows: of each round.
        length: tokens of a row, at most.
        rounds: each has new inputs and an equal share of the epochs or steps.
        lm: folder or Hub id of the language model; None: the teacher is one.
        published: folder of the layer statistics that the teacher's owner made (`augment.statistics`), if any; for
            rows of embeddings, as all that follows up to `matching`.
        steps: of the optimizer of the embeddings (each batch of them) or of the generator (each round); 100.
        learning_rate: of that; 0.1 deviations of the table for embeddings, 0.001 for the generator.
        batch_size: rows that are made together, texts of a language model too; 64.
        confidence: weight of the teacher's certainty; 1.
        diversity: weight of the entropy of the mean answer; 5.
        matching: weight of the distance from the published statistics; 1.
        adversarial: weight of the disagreement of teacher and student (generator); 1.
        temperature: of sampling from a language model; 1.

    Returns:
        The student.

    Raises:
        ValueError: a source or number that is none; a knob that the source does not read; rows that are longer than a
            model takes; no teacher model; no tokenizer or language model where texts are made; models that do not
            take the same embeddings.
    """
    settings = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "temperature": temperature}
    weights = {"confidence": confidence, "diversity": diversity, "matching": matching}
    given = {"lm": lm, "published": published, "adversarial": adversarial, **settings, **weights}
    _check_knobs(source, {"rows": rows, "length": length, "rounds": rounds, **given})
    model, student = _model(plan, source), plan.fresh()
    for who, each in (("student", student), ("teacher", model)):
        _check_length(length, who, each)
    if source in OF_EMBEDDINGS:
        _check_table(student, model)
    if source in OF_A_MODEL:
        _check_writer(plan, source, lm)
    known = statistics.load(published, model) if published is not None else None
    wanted, settings = Wanted(**_known(weights), statistics=known), _known(settings)
    losses = plan.losses or [SoftTargets()]
    for number in range(1, rounds + 1):
        seed = plan.args.seed + number
        if source in OF_EMBEDDINGS:
            knobs = {**settings, **({"steps": 1} if plan.rehearsing else {}), **_known({"adversarial": adversarial})}
            make = partial(_embeddings, plan, student, source, rows, length, wanted, {**knobs, "seed": seed})
        else:
            make = partial(_texts, plan, source, lm, rows, length, {**settings, "seed": seed})
        made = plan.once(f"inputs_{number}", make).with_format("numpy" if source in OF_EMBEDDINGS else None)
        part = ((number - 1) / rounds, number / rounds)
        student = plan.stage(f"round_{number}", student, plan.need_teacher(), losses, share=part, train_dataset=made)
    return student


def _embeddings(
    plan: Plan,
    student: nn.Module,
    source: str,
    rows: int,
    length: int,
    wanted: Wanted,
    settings: dict[str, Any],
) -> Dataset:
    teacher, rows = _frozen(plan.need_teacher().model, plan), _rows(plan, rows)
    if source == "embeddings":
        return embedded_rows(soft_inputs(teacher, rows, length, wanted, **settings))
    order = checks.label_order(student, teacher, plan.args.label_map)
    index = None if order is None else torch.tensor(order, device=plan.args.device)
    student.to(plan.args.device)
    made, _ = generator.generated(teacher, student, rows, length, wanted, order=index, **settings)
    return embedded_rows(made)


def _rows(plan: Plan, rows: int) -> int:
    return min(rows, REHEARSED) if plan.rehearsing else rows


def _texts(plan: Plan, source: str, lm: str | None, rows: int, length: int, settings: dict[str, Any]) -> Dataset:
    tokenizer, rows = plan.trainer_kwargs["processing_class"], _rows(plan, rows)
    if source == "random_tokens":
        return Dataset.from_dict({"input_ids": sampled.random_tokens(tokenizer, rows, length, **settings)})
    writer, own = plan.need_teacher().model, tokenizer
    if lm is not None:
        with named("data_free: lm", lm):
            writer = OF_A_MODEL[source][0].from_pretrained(lm, dtype=torch.float32).eval()
            own = AutoTokenizer.from_pretrained(lm)
        _check_length(length, "language model", writer)
    write = sampled.from_masked_lm if source == "masked_lm" else sampled.from_causal_lm
    short = length if not plan.rehearsing else min(length, REHEARSED)
    texts = write(_frozen(writer, plan), own, rows, short, **settings)
    encoded = tokenizer(texts, truncation=True, max_length=length)
    return Dataset.from_dict({"text": texts, **encoded})


def _frozen(model: Any, plan: Plan) -> nn.Module:
    """On the device, where it is not placed by itself."""
    placed = getattr(model, "hf_device_map", None) or getattr(model, "is_quantized", False)
    found: nn.Module = model if placed else model.to(plan.args.device)
    return found.requires_grad_(False)


def _known(knobs: dict[str, Any]) -> dict[str, Any]:
    """Those that are given."""
    return {name: value for name, value in knobs.items() if value is not None}


def _check_knobs(source: str, knobs: dict[str, Any]) -> None:
    """Refuses a source that is none, numbers that cannot be, and what the source does not read."""
    if source not in (*OF_EMBEDDINGS, *OF_A_MODEL, "random_tokens"):
        known = ", ".join((*OF_EMBEDDINGS, *OF_A_MODEL, "random_tokens"))
        raise ValueError(f"data_free: source={source!r} is not known; use one of {known}.")
    for name in ("rows", "length", "rounds", "steps", "batch_size"):
        if knobs[name] is not None and knobs[name] < 1:
            raise ValueError(f"data_free: {name} is {knobs[name]}; it must be at least 1.")
    for name in ("learning_rate", "temperature"):
        if knobs[name] is not None and not knobs[name] > 0:
            raise ValueError(f"data_free: {name} is {knobs[name]}; it must be above 0.")
    unread = {name: knobs[name] for name, sources in READ_BY.items() if source not in sources}
    refuse_idle("data_free", f"source={source!r} does not read that", **unread)
    if knobs["published"] is None:
        refuse_idle("data_free", "no statistics are published", matching=knobs["matching"])


def _check_length(length: int, who: str, model: Any) -> None:
    longest = anatomy.max_positions(model)
    if longest is not None and length > longest:
        raise ValueError(f"data_free: length is {length}, and the {who} takes {longest} tokens. Make it shorter.")


def _model(plan: Plan, source: str) -> nn.Module:
    """The teacher's."""
    teacher = plan.need_teacher()
    if teacher.model is None:
        raise ValueError(
            f"data_free asks a model at new inputs, and {type(teacher).__name__} has none. Pass the model."
        )
    if source not in OF_EMBEDDINGS and plan.trainer_kwargs.get("processing_class") is None:
        raise ValueError(f"data_free: source={source!r} makes texts. Pass processing_class=tokenizer to the Plan.")
    return teacher.model


def _check_table(student: nn.Module, teacher: nn.Module) -> None:
    """Rows of embeddings train everything but the table: with another one the student would never read a text."""
    checks.check_takes_embeddings(student, teacher, "inputs of data_free")
    if not torch.equal(table_of(student).cpu(), table_of(teacher).cpu()):
        raise ValueError(
            "the student's table of token embeddings is not the teacher's, and rows of embeddings do not train it. "
            "Make the student from the teacher (students.keep_layers, students.from_teacher), or take "
            'source="random_tokens", "masked_lm" or "causal_lm".'
        )


def _check_writer(plan: Plan, source: str, lm: str | None) -> None:
    """Texts come from a language model: that of `lm`, or the teacher."""
    if lm is None and find_task(anatomy.unwrap(plan.need_teacher().model)) is not OF_A_MODEL[source][1]:
        raise ValueError(
            f"data_free: source={source!r} needs a language model, and the teacher is none. Pass lm=, a folder or id."
        )
