"""Make a student from a teacher: keep some of its blocks, or move them into another architecture.

A student made here is a plain transformers model. `student.copied` says what came over; it is no part of the config
and is not saved.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hf_distill import anatomy
from hf_distill.students import distilbert
from hf_distill.students.copied import copy_weights
from hf_distill.tasks import PROBLEM_TYPES, Task, find_task

ARCHITECTURES = ("distilbert",)


def keep_layers(
    teacher: nn.Module, layers: Iterable[int], dtype: torch.dtype | None = torch.float32
) -> PreTrainedModel:
    """A student of the teacher's own family that keeps some of its blocks, and everything outside of them.

    The teacher is not touched and shares no memory with the student. The student is in eval mode, as after
    `from_pretrained`, with every weight trainable, on the teacher's device.

    Args:
        teacher: a transformers model of any family whose blocks `anatomy.find_stack` finds in one list. Of an
            encoder-decoder model the encoder's blocks are chosen and the decoder is kept whole.
        layers: blocks of the teacher in the student's order, counted from 0, negative from the end.
        dtype: of the student's weights. float32 whatever the teacher has, because weights of half precision hardly
            move in training; None keeps the teacher's.

    Returns:
        The student, with `student.copied`.

    Raises:
        ValueError: a layer does not exist or stands twice; the model is a PEFT wrapper, quantised or on `meta`; its
            blocks are shared (ALBERT), are not in one list, or would not be the same under their new numbers.
    """
    teacher = _check_teacher(teacher)
    stack = anatomy.find_stack(teacher)
    if stack is None:
        raise ValueError(_why_no_stack(teacher))
    path, blocks = stack
    chosen = _check_layers(layers, len(blocks), type(teacher).__name__)
    config = _shortened_config(teacher, chosen)
    attention = teacher.config._attn_implementation
    student = type(teacher)._from_config(config, dtype=dtype or teacher.dtype, attn_implementation=attention)
    found = anatomy.find_stack(student)
    if found is None or len(found[1]) != len(chosen):
        raise ValueError(f"{type(teacher).__name__} is not rebuilt with {len(chosen)} blocks from its config alone.")
    _check_blocks(teacher, blocks, found[1], chosen)
    notes = ["the decoder is kept whole: only blocks of the encoder are chosen"] if _has_decoder(teacher) else []
    sources = _same_family_sources(student, teacher, path, chosen)
    return copy_weights(student, teacher, sources, chosen, len(blocks), notes)


def from_teacher(
    teacher: nn.Module,
    architecture: str | None = None,
    layers: Iterable[int] | None = None,
    dtype: torch.dtype | None = torch.float32,
) -> PreTrainedModel:
    """A student made from the teacher's weights, in the same or another architecture.

    ``"distilbert"`` takes a BERT teacher and gives the DistilBERT class of the same task. Its encoder is BERT's
    without pooler and token types: with all blocks kept it computes what BERT computes on a single text, and so do the
    heads for tokens, spans and masked tokens. The sequence classifier has a ReLU where BERT has a tanh. Its weights
    are copied all the same, because they start close to the teacher where fresh ones start at chance (a GoEmotions
    teacher with 28 labels, all blocks kept, untrained: mean average precision 0.62, as the teacher's, against 0.05).

    Args:
        teacher: a transformers model.
        architecture: None or the teacher's own `model_type` for the same family (`keep_layers`), or ``"distilbert"``.
        layers: blocks of the teacher in the student's order, counted from 0, negative from the end; None keeps all.
        dtype: of the student's weights, as in `keep_layers`.

    Returns:
        The student, in eval mode, with `student.copied`.

    Raises:
        ValueError: the architecture is not known; the teacher cannot be mapped into it; and all that `keep_layers`
            refuses.
    """
    teacher = _check_teacher(teacher)
    if architecture in (None, teacher.config.model_type):
        return keep_layers(teacher, range(len(anatomy.find_blocks(teacher))) if layers is None else layers, dtype)
    if architecture not in ARCHITECTURES:
        known = (*ARCHITECTURES, teacher.config.model_type)
        close = difflib.get_close_matches(str(architecture), known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]!r}?" if close else "None keeps the teacher's own."
        raise ValueError(f"architecture {architecture!r} is not known, only {', '.join(map(repr, known))}. {hint}")
    distilbert.check(teacher)
    total = teacher.config.num_hidden_layers
    chosen = _check_layers(range(total) if layers is None else layers, total, type(teacher).__name__)
    return distilbert.from_bert(teacher, chosen, dtype)


def spread(teacher: nn.Module, count: int) -> list[int]:
    """`count` blocks of the teacher at equal distances, the last one among them.

    Raises:
        ValueError: the teacher has fewer.
    """
    total = len(anatomy.find_blocks(teacher))
    if not 0 < count <= total:
        raise ValueError(f"{count} blocks cannot be kept of a teacher that has {total}.")
    return [round((i + 1) * total / count) - 1 for i in range(count)]


def load(model: str, like: nn.Module, **kwargs: Any) -> PreTrainedModel:
    """A student by path or Hub id, with the head of the teacher's task and the teacher's labels.

    Labels that the checkpoint itself names are kept, so that another order is seen and not written over.

    Args:
        model: path or Hub id, as for `from_pretrained`.
        like: the teacher: its task chooses the Auto class, and `num_labels`, `id2label`, `label2id` and `problem_type`
            are its own where it has a classification head.
        **kwargs: for `from_pretrained`; they win. `dtype` is float32 unless it is given.

    Returns:
        The student.

    Raises:
        ValueError: the checkpoint has a trained head for another number of labels.
    """
    teacher = anatomy.unwrap(like)
    task = find_task(teacher)
    settings: dict[str, Any] = {"dtype": torch.float32}
    if task.per_example or task is Task.TOKENS:
        hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if name in kwargs}
        own = AutoConfig.from_pretrained(model, **hub)
        settings |= _label_settings(model, own, teacher, bool(kwargs.get("ignore_mismatched_sizes")))
    return _auto_class(teacher).from_pretrained(model, **(settings | kwargs))


def adopt_labels(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """A student whose labels nobody named gets the teacher's names and problem type; they are the same head."""
    if student.config.num_labels != teacher.config.num_labels:
        return
    if anatomy.named_labels(student) is None and anatomy.named_labels(teacher) is not None:
        student.config.id2label = dict(teacher.config.id2label)
        student.config.label2id = dict(teacher.config.label2id)
    task = find_task(teacher)
    if student.config.problem_type is None and find_task(student).per_example and task in PROBLEM_TYPES:
        student.config.problem_type = PROBLEM_TYPES[task]


# Checks


_HUB_ARGUMENTS = (
    "revision",
    "token",
    "cache_dir",
    "subfolder",
    "local_files_only",
    "trust_remote_code",
    "force_download",
)


def _check_teacher(teacher: nn.Module) -> PreTrainedModel:
    name = type(teacher).__name__
    if hasattr(teacher, "get_base_model"):
        raise ValueError(f"{name} is a PEFT wrapper. Pass teacher.merge_and_unload() instead.")
    if any(each.endswith(".base_layer") for each, _ in teacher.named_modules()):
        raise ValueError(f"{name} holds PEFT's adapters. Pass what merge_and_unload() of its PeftModel gives.")
    if not isinstance(teacher, PreTrainedModel):
        raise ValueError(f"{name} is no transformers model, so its blocks cannot be found.")
    if getattr(teacher, "is_quantized", False) or getattr(teacher.config, "quantization_config", None) is not None:
        raise ValueError(
            f"{name} is quantised: its weights cannot be copied. Load it with dtype=torch.float32 instead."
        )
    if any(parameter.is_meta for parameter in teacher.parameters()):
        raise ValueError(f"{name} is on the meta device: there are no weights to copy. Load it with from_pretrained.")
    return teacher


def _check_layers(layers: Iterable[int], total: int, name: str) -> list[int]:
    given = list(layers)
    if not given:
        raise ValueError(f"layers is empty: choose at least one of the {total} blocks of {name}.")
    for layer in given:
        if isinstance(layer, bool) or not isinstance(layer, int):
            raise ValueError(f"layers={given}: {layer!r} is not a layer number.")
        if not -total <= layer < total:
            raise ValueError(f"layers={given}: layer {layer} does not exist: {name} has {total}, 0 to {total - 1}.")
    chosen = [layer % total for layer in given]
    repeated = [layer for layer, count in Counter(chosen).items() if count > 1]
    if repeated:
        raise ValueError(f"layers={given}: layer {repeated[0]} of {name} stands there more than once. Name it once.")
    return chosen


def _why_no_stack(teacher: PreTrainedModel) -> str:
    name = type(teacher).__name__
    if teacher.config.model_type == "albert":
        depth = teacher.config.num_hidden_layers
        return (
            f"{name} runs one shared block {depth} times: there is nothing to choose from. Run it less often instead: "
            f"{name}.from_pretrained(path, num_hidden_layers={max(depth // 2, 1)})."
        )
    return f"no list of equal blocks was found in {name}. Build the student from a config of your own instead."


def _shortened_config(teacher: PreTrainedModel, chosen: Sequence[int]) -> Any:
    try:
        return anatomy.shortened_config(teacher, chosen)
    except (TypeError, IndexError, KeyError) as error:
        raise ValueError(
            f"the config of {type(teacher).__name__} cannot be made for {len(chosen)} blocks: {error}. Build the "
            "student from a config of your own instead."
        ) from error


# what may differ: the number itself, T5's shared table, and dropout that grows with depth
_NUMBERS = (
    "layer_idx",
    "layer_id",
    "layer_number",
    "block_idx",
    "has_relative_attention_bias",
    "training",
    "drop_prob",
)


def _check_blocks(teacher: nn.Module, blocks: nn.ModuleList, rebuilt: nn.ModuleList, chosen: Sequence[int]) -> None:
    """Families decide some things by a block's number; a copy that would compute something else is refused."""
    for new, old in enumerate(chosen):
        mine, theirs = dict(rebuilt[new].named_modules()), dict(blocks[old].named_modules())
        for name in mine.keys() & theirs.keys():
            ours, others = _plain_attributes(mine[name]), _plain_attributes(theirs[name])
            for attribute in ours.keys() & others.keys():
                if ours[attribute] != others[attribute]:
                    raise ValueError(
                        f"block {old} of {type(teacher).__name__} would not be the same as the student's block {new}: "
                        f"{f'{name}.{attribute}'.lstrip('.')} is {others[attribute]!r} there and {ours[attribute]!r} "
                        "here, because the family decides it by number. Choose blocks that keep it."
                    )


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, (int, float, str, type(None))) and not name.startswith("_") and name not in _NUMBERS
    }


def _has_decoder(teacher: PreTrainedModel) -> bool:
    return bool(getattr(teacher.config, "is_encoder_decoder", False))


# Copying


def _same_family_sources(
    student: PreTrainedModel, teacher: PreTrainedModel, path: str, chosen: Sequence[int]
) -> dict[str, str]:
    known = teacher.state_dict().keys()
    block = re.compile(re.escape(path) + r"\.(\d+)\.(.*)")
    sources = {}
    for name in student.state_dict():
        inside = block.fullmatch(name)
        source = name if inside is None else f"{path}.{chosen[int(inside[1])]}.{inside[2]}"
        if inside is not None and source not in known and "relative_attention_bias" in name:
            source = name  # T5: one table for all blocks, held by the first
        if source in known:
            sources[name] = source
    return sources


# Loading


def _auto_class(teacher: PreTrainedModel) -> Any:
    """The Auto class that makes the teacher's kind of head."""
    name = type(teacher).__name__
    speech = teacher.main_input_name in ("input_values", "input_features")
    if name.endswith("LMHeadModel"):
        return transformers.AutoModelForCausalLM
    if name.endswith("ForConditionalGeneration"):
        return transformers.AutoModelForSpeechSeq2Seq if speech else transformers.AutoModelForSeq2SeqLM
    if speech and name.endswith("ForSequenceClassification"):
        return transformers.AutoModelForAudioClassification
    head = re.search(r"For[A-Z]\w*$", name)
    return getattr(transformers, f"AutoModel{head[0]}", transformers.AutoModel) if head else transformers.AutoModel


def _label_settings(model: str, own: Any, teacher: PreTrainedModel, replace: bool) -> dict[str, Any]:
    """What `from_pretrained` is told about labels; nothing where the checkpoint has a trained head with names."""
    config = teacher.config
    named = any(name != f"LABEL_{index}" for index, name in own.id2label.items())
    if named and own.num_labels == config.num_labels:
        return {"problem_type": config.problem_type}
    if named and not replace:
        raise ValueError(
            f"{model} has a head for {own.num_labels} labels ({', '.join(list(own.id2label.values())[:3])}, ...), the "
            f"teacher has {config.num_labels}. Pass ignore_mismatched_sizes=True for a fresh head with the teacher's."
        )
    return {"id2label": config.id2label, "label2id": config.label2id, "problem_type": config.problem_type}
