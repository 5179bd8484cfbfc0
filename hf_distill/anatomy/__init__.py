"""Where things are inside a transformers model. The only room that knows architectures.

Everything is asked of the unwrapped model: a PEFT model answers for its base.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_distill.anatomy.attention import (
    RECORDED,
    SINK,
    AttentionRecord,
    HandedOut,
    ask_for_map,
    attention_configs,
    attention_dropout,
    hands_out_maps,
    has_sdpa,
    recording_name,
    why_not_recorded,
)
from hf_distill.anatomy.unwrapped import unwrap
from hf_distill.signals import ModelShape
from hf_distill.tasks import Task, find_task

__all__ = [
    "RECORDED",
    "SINK",
    "AttentionRecord",
    "HandedOut",
    "accepted",
    "ask_for_map",
    "attention_configs",
    "attention_dropout",
    "describe",
    "embedding_width",
    "find_blocks",
    "find_embeddings",
    "find_head",
    "find_stack",
    "forward_names",
    "hands_out_maps",
    "has_sdpa",
    "is_checkpointed",
    "logits_of",
    "loses_gradients",
    "max_positions",
    "named_labels",
    "recording_name",
    "shortened_config",
    "trainable_layers",
    "unwrap",
    "vocabulary",
]

_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions", "position_embedding", "positions_embed")
# in configs: lists of block numbers, lists of one value a block that do not say "layer", names derived from the depth
_BLOCK_NUMBERS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "local_layer_ids", "ple_layer_ids")
_BLOCK_VALUES = ("intermediate_size", "activation_sparsity_pattern", "num_key_value_heads")
_STAGES = ("stage_names", "out_features", "out_indices")


def find_stack(model: nn.Module) -> tuple[str, nn.ModuleList] | None:
    """The list that holds the blocks of a model, and its path; every block in it runs once.

    Looked for in this order: a list whose members are all `GradientCheckpointingLayer`; a list of the classes that
    the model itself declares in `_can_record_outputs`; a list of one class. Of several, outermost ones go first, then
    those that the model declares (wav2vec2 lists its convolutions before its blocks), then the longest. Of an
    encoder-decoder model these are the encoder's.

    Args:
        model: any transformers model or PEFT wrapper.

    Returns:
        (path in the unwrapped model, list); None where there is no such list, and for ALBERT, whose blocks are shared.
    """
    base = unwrap(model)
    if base.config.model_type == "albert":
        return None
    root = base.get_encoder() if getattr(base.config, "is_encoder_decoder", False) else base
    prefix = next(name for name, module in base.named_modules() if module is root)
    lists = [
        (f"{prefix}.{name}".lstrip("."), module)
        for name, module in root.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(block) for block in module}) == 1
    ]
    declared = _declared_blocks(root)
    for accepted_class in (GradientCheckpointingLayer, declared, nn.Module):
        found = _outermost([(name, m) for name, m in lists if isinstance(m[0], accepted_class)])
        found = [(name, m) for name, m in found if isinstance(m[0], declared)] or found
        if found:
            return max(found, key=lambda each: len(each[1]))
    return None


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a model, first to last; a block that runs several times (ALBERT) stands there several times.

    Args:
        model: any transformers model or PEFT wrapper; of an encoder-decoder model these are the encoder's.

    Returns:
        The blocks, as `find_stack` finds them; empty where none is found.
    """
    base = unwrap(model)
    if base.config.model_type == "albert":
        groups = next(m for name, m in base.named_modules() if name.endswith("albert_layer_groups"))
        total = base.config.num_hidden_layers
        return [groups[int(i / (total / len(groups)))] for i in range(total)]
    stack = find_stack(base)
    return list(stack[1]) if stack is not None else []


def _outermost(lists: list[tuple[str, nn.ModuleList]]) -> list[tuple[str, nn.ModuleList]]:
    return [(name, m) for name, m in lists if not any(name.startswith(other + ".") for other, _ in lists)]


def _declared_blocks(model: nn.Module) -> tuple[type, ...]:
    inside = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    declared = [(getattr(m, "_can_record_outputs", None) or {}).get("hidden_states", ()) for m in inside]
    flat = [each for some in declared for each in (some if isinstance(some, (list, tuple)) else (some,))]
    classes = [getattr(each, "target_class", each) for each in flat]
    return tuple(each for each in classes if isinstance(each, type))


def shortened_config(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedConfig:
    """The config of a model that keeps some blocks: depth, and everything that is said block by block.

    It has been through its JSON form, so that what it builds is what a saved model is reloaded as.

    Args:
        model: a transformers model whose blocks are in one list (`find_stack`).
        layers: the blocks kept, in their new order, counted from 0.

    Returns:
        A new config; the model's own is as it was.

    Raises:
        ValueError: the config does not say how many blocks there are in a place that is known here.
    """
    config = copy.deepcopy(model.config)
    total = len(find_blocks(model))
    places = (each for each in (config, config.get_text_config()) if getattr(each, "num_hidden_layers", None) == total)
    place = next(places, None)
    if place is None:
        raise ValueError(
            f"{type(model).__name__} has {total} blocks, and its config does not say so in num_hidden_layers: it "
            "cannot be shortened in a way that reloads. Build the student from a config of your own."
        )
    for name, value in list(vars(place).items()):
        if isinstance(value, (list, tuple)) and value:
            if name in _BLOCK_NUMBERS:
                setattr(place, name, [new for new, old in enumerate(layers) if old in value])
            elif len(value) == total and ("layer" in name or name in _BLOCK_VALUES) and "conv" not in name:
                setattr(place, name, [value[layer] for layer in layers])
    place.num_hidden_layers = len(layers)
    fields = config.to_dict()
    if "stage_names" in fields:  # of backbones: one name a block, made again from the depth
        fields = {name: value for name, value in fields.items() if name not in _STAGES}
    return type(config).from_dict(fields)


def describe(model: nn.Module) -> ModelShape:
    """What a loss must know about a model before step 1."""
    base = unwrap(model)
    config = base.config.get_text_config()
    task, blocks = find_task(base), find_blocks(base)
    width = getattr(config, "hidden_size", 0) or 0
    shown = hands_out_maps(base) or why_not_recorded(base) is None
    heads = getattr(config, "num_attention_heads", 0) if shown else 0
    heads = heads if isinstance(heads, int) else 0  # a list says one a stage, as widths do
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    if task.per_example or task is Task.TOKENS:
        classes = base.config.num_labels
    elif task is Task.SPAN:
        classes = 2
    else:
        classes = 0 if task is Task.EMBEDDING else config.vocab_size
    return ModelShape(
        name=type(base).__name__,
        layers=len(blocks),
        width=width,
        heads=heads,
        classes=classes,
        causal=any(getattr(module, "is_causal", False) for block in blocks for module in block.modules()),
        key_heads=key_heads if heads and isinstance(key_heads, int) else 0,  # a list says one a block
        head_width=(getattr(config, "head_dim", None) or width // heads) if heads else 0,
    )


def trainable_layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The trainable parameters of a model by layer: embeddings, then block by block."""
    base = unwrap(model)
    layers = [*([base.get_input_embeddings()] if vocabulary(base) is not None else []), *find_blocks(base)]
    return [[weight for weight in layer.parameters() if weight.requires_grad] for layer in layers]


def find_head(model: nn.Module) -> nn.Linear:
    """The linear layer that gives a classifier's logits.

    Raises:
        ValueError: there is none with one output a label.
    """
    base = unwrap(model)
    labels = base.config.num_labels
    found = [
        module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == labels and "original_module" not in name
    ]
    if not found:
        raise ValueError(f"no linear layer of {type(base).__name__} has {labels} outputs: it has no head to look at.")
    return found[-1]


def find_embeddings(model: nn.Module) -> nn.Module:
    """The table of token embeddings.

    Raises:
        ValueError: the model reads no tokens.
    """
    base = unwrap(model)
    if vocabulary(base) is None:
        raise ValueError(f"{type(base).__name__} embeds no tokens, so nothing can be differentiated by them.")
    return base.get_input_embeddings()


def accepted(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Those inputs that the model's forward names, so that one batch serves two models."""
    names = forward_names(model)
    return {name: value for name, value in inputs.items() if name in names}


def forward_names(model: nn.Module) -> list[str]:
    """The arguments that a model's forward names."""
    return list(inspect.signature(type(unwrap(model)).forward).parameters)[1:]


def max_positions(model: nn.Module) -> int | None:
    """The longest sequence that a table of positions takes; None where there is no table, or no tokens."""
    base = unwrap(model)
    if vocabulary(base) is None:
        return None
    for name, module in base.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _POSITION_TABLES:
            offset = getattr(module, "offset", 0) or (module.padding_idx + 1 if module.padding_idx is not None else 0)
            return module.num_embeddings - offset
    return None


def embedding_width(model: nn.Module) -> int | None:
    """How wide the embeddings are that a model's forward takes instead of token ids; None where it takes none."""
    if vocabulary(model) is None or "inputs_embeds" not in forward_names(model):
        return None
    return int(unwrap(model).get_input_embeddings().embedding_dim)


def vocabulary(model: nn.Module) -> int | None:
    """How many token ids a model knows; None where it reads no tokens."""
    try:
        embeddings = unwrap(model).get_input_embeddings()
    except NotImplementedError:  # speech
        return None
    return embeddings.num_embeddings if isinstance(embeddings, nn.Embedding) else None


def logits_of(outputs: Any, task: Task) -> Tensor:
    """The logits in a model's output: (batch, classes), (batch, tokens, classes), or (batch, 2, tokens) for spans."""
    if isinstance(outputs, tuple):
        raise ValueError("the model returns a tuple, without names. Load it with return_dict=True, the default.")
    if task is Task.SPAN:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=1)
    for name in ("logits", "prediction_logits"):
        found = outputs.get(name)
        if found is not None:
            return found
    raise ValueError(f"the model's output has no logits, only {', '.join(outputs)}.")


def named_labels(model: nn.Module) -> dict[int, str] | None:
    """`id2label` where somebody wrote it, None where transformers filled in LABEL_0, LABEL_1, ..."""
    labels = unwrap(model).config.id2label
    if not labels or all(name == f"LABEL_{index}" for index, name in labels.items()):
        return None
    return dict(labels)


def is_checkpointed(block: nn.Module) -> bool:
    """Whether a block's forward will run again in backward."""
    return block.training and bool(getattr(block, "gradient_checkpointing", False))


def loses_gradients(block: nn.Module) -> bool:
    """Whether a block is checkpointed in the way that cuts what is caught inside of it from the gradient."""
    if not is_checkpointed(block):
        return False
    arguments = getattr(getattr(block, "_gradient_checkpointing_func", None), "keywords", {})
    return bool(arguments.get("use_reentrant", False))
