"""TinyBERT: what is inside of the teacher first, its predictions second, on rows with words replaced."""

from typing import Any, Literal

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel

from hf_distill import anatomy
from hf_distill.augment import MaskedWords, Neighbours, replace_words
from hf_distill.losses import AttentionKL, AttentionMSE, HiddenMSE, Loss, SoftTargets, match_layers
from hf_distill.losses.attention_maps import Heads
from hf_distill.schemes.chain import model_of
from hf_distill.schemes.given import one_alone
from hf_distill.schemes.idle import refuse_idle
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.selection import by_last
from hf_distill.signals import EMBEDDINGS, ModelShape
from hf_distill.tasks import Task, find_task


@scheme
def two_stage(
    plan: Plan,
    share: float = 0.75,
    attention: Literal["scores", "maps", "none"] = "scores",
    temperature: float | None = None,
    samples: int = 0,
    masked_lm: str | None = None,
    probability: float | None = None,
    candidates: int | None = None,
    keep_labels: bool | None = None,
) -> PreTrainedModel:
    """The student first learns the teacher's embeddings, hidden states and attention, then what it predicts.

    The task-specific distillation of TinyBERT (Jiao et al. 2020, arXiv:1909.10351): equations 7 and 8 on all layers,
    then soft cross entropy, both on the training rows and copies of them in which words are replaced
    (`augment.replace_words`). The copies are made once and kept in the plan's folder.

    Differs from the paper: widths that are equal get no projection, which would begin at random between a student and
    the teacher that it was cut out of; the losses are means over what is attended; there are no copies unless asked
    for, and a learning rate of its own for the second stage is the caller's. The general distillation before it is
    this scheme with a masked LM as teacher and without copies.

    Args:
        plan: its epochs or steps are shared out between the stages; an epoch with copies is so much longer. Its losses
            are those of the second stage; where it names none, `SoftTargets(temperature)` is the only one.
        share: of the steps, for the first stage. The authors' code gives it 10 epochs and the second 3.
        attention: what is compared of it: scores before the softmax, as the paper does, maps after it, which families
            with attention code of their own have too, or nothing. Where the numbers of heads differ, averages over
            groups of them are, or over all where they make no equal groups.
        temperature: of the soft targets of the second stage; None: 1.
        samples: copies of each row; the paper's number is 20. For tasks with one label an example. What follows is
            about the copies.
        masked_lm: folder or Hub id of the masked language model that proposes words of a single piece; None takes them
            from the teacher's own embeddings, as those of several pieces always are.
        probability: of each word to be replaced; None: 0.4.
        candidates: words among which one is drawn; None: 15.
        keep_labels: whether copies have the labels of their row; None: they have not. The paper's losses look at none.

    Returns:
        The student.

    Raises:
        ValueError: no teacher that is a model, knobs that do not fit or change nothing, or copies of rows that cannot
            be copied.
    """
    if not 0 < share < 1:
        raise ValueError(f"two_stage: share is {share}; it must be above 0 and below 1.")
    if samples < 0:
        raise ValueError(f"two_stage: samples is {samples}; it must be 0, for no copies, or more.")
    if plan.losses:
        refuse_idle("two_stage", "the plan's losses are those of the second stage", temperature=temperature)
    knobs = {"masked_lm": masked_lm, "probability": probability, "candidates": candidates, "keep_labels": keep_labels}
    if not samples:
        refuse_idle("two_stage", "samples=0 makes no copies", **knobs)
    student, teacher, whole = plan.fresh(), one_alone(plan.need_teacher(), "two_stage"), model_of(plan, "two_stage")
    inside = _inside(anatomy.describe(student), anatomy.describe(whole), attention)
    rows: Any = {}
    if samples:
        given = {name: value for name, value in knobs.items() if value is not None}
        rows = {"train_dataset": _with_copies(plan, whole, samples, **given)}
    # the head is not trained yet: its quality says nothing about which checkpoint is best
    student = plan.stage("inside", student, teacher, inside, share=(0.0, share), args=by_last(plan), **rows)
    predictions = plan.losses or [SoftTargets(1.0 if temperature is None else temperature)]
    return plan.stage("predictions", student, teacher, predictions, share=(share, 1.0), **rows)


def _inside(student: ModelShape, teacher: ModelShape, attention: str) -> list[Loss]:
    """The losses of the first stage."""
    if attention not in ("scores", "maps", "none"):
        raise ValueError(f'two_stage: attention={attention!r} is not known; use "scores", "maps" or "none".')
    layers = {EMBEDDINGS: EMBEDDINGS, **match_layers("uniform", student, teacher, "two_stage")}
    states = HiddenMSE(layers, "none" if student.width == teacher.width else "shared")
    if attention == "none":
        return [states]
    fewer, more = sorted((student.heads, teacher.heads))
    heads: Heads = "matched" if fewer == more else "grouped" if fewer and more % fewer == 0 else "mean"
    return [states, AttentionMSE("uniform", heads) if attention == "scores" else AttentionKL("uniform", heads)]


def _with_copies(
    plan: Plan,
    teacher: PreTrainedModel,
    samples: int,
    masked_lm: str | None = None,
    candidates: int = 15,
    **knobs: Any,
) -> Dataset:
    """The plan's rows and their copies."""
    rows, tokenizer, task = plan.train_dataset, plan.trainer_kwargs.get("processing_class"), find_task(teacher)
    if not isinstance(rows, Dataset) or tokenizer is None:
        raise ValueError(
            f"two_stage(samples={samples}) replaces words in a tokenised datasets.Dataset by its tokenizer, "
            f"and train_dataset is a {type(rows).__name__}, processing_class a {type(tokenizer).__name__}. Pass both."
        )
    if not (task.per_example or task is Task.EMBEDDING):
        raise ValueError(
            f"two_stage: words are replaced for tasks with one label an example, not {task}. Use samples=0."
        )

    def make() -> Dataset:
        few = rows.select(range(min(2, len(rows)))) if plan.rehearsing else rows
        near = Neighbours(teacher, tokenizer, candidates)
        masked = None if masked_lm is None else MaskedWords(masked_lm, tokenizer, candidates)
        return replace_words(few, tokenizer, near, masked, samples, seed=plan.args.seed, **knobs)

    copies = plan.once("copies", make)
    return concatenate_datasets([rows.cast(copies.features), copies])
