"""Where things are inside a transformers model. The only room that knows architectures.

Everything is asked of the unwrapped model: a PEFT model answers for its base.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_distill.signals import ModelShape
from hf_distill.tasks import Task, find_task

RECORDED = "_recorded"  # what a recording attention is called after the one that it runs
SINK = "_hf_distill_sink"
_POSITION_TABLES = ("position_embeddings", "wpe", "embed_positions", "position_embedding", "positions_embed")
# in configs: lists of block numbers, lists of one value a block that do not say "layer", names derived from the depth
_BLOCK_NUMBERS = ("mlp_only_layers", "moe_layers", "attn_layer_indices", "local_layer_ids", "ple_layer_ids")
_BLOCK_VALUES = ("intermediate_size", "activation_sparsity_pattern", "num_key_value_heads")
_STAGES = ("stage_names", "out_features", "out_indices")


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside a PEFT wrapper, or the model itself."""
    inner = getattr(model, "get_base_model", None)
    return inner() if inner is not None else model  # type: ignore[return-value]


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
    heads = getattr(config, "num_attention_heads", 0) if _why_not_recorded(base) is None else 0
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


@dataclass(frozen=True)
class AttentionRecord:
    """What one attention call was given, by reference: nothing is computed until it is asked for."""

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    scaling: float | None
    causal: bool
    bias: Tensor | None
    window: int | None = None

    def signal(self, kind: str) -> Tensor:
        """What a signal of that kind is: `attention`, `attention_scores`, `query`, `key` or `value`."""
        found = {"attention": self.probabilities, "attention_scores": self.scores}.get(kind)
        if found is not None:
            return found()
        part: Tensor = getattr(self, kind)
        return part

    def scores(self) -> Tensor:
        """Scaled products with position bias, before mask and softmax, float32: (batch, heads, query, key)."""
        key = self.key.repeat_interleave(self.query.shape[1] // self.key.shape[1], dim=1)
        scaling = self.scaling if self.scaling is not None else self.query.shape[-1] ** -0.5
        with torch.autocast(self.query.device.type, enabled=False):
            scores = self.query.float() @ key.float().transpose(-1, -2) * scaling
        return scores if self.bias is None else scores + self.bias.float()

    def probabilities(self) -> Tensor:
        """Softmax over the keys that the mask leaves, exactly 0 on the others, float32: (batch, heads, query, key)."""
        scores = self.scores()
        mask = self.mask
        if mask is None or mask.dim() == 2:  # flash attention is told which keys are padding, and nothing else
            mask = self._kernel_mask(scores, mask)
        if mask is None:
            return scores.softmax(-1)
        if mask.dtype is not torch.bool:
            seen = mask > torch.finfo(mask.dtype).min / 2
            scores, mask = scores + mask.float().masked_fill(~seen, 0.0), seen
        return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1) * mask

    def _kernel_mask(self, scores: Tensor, keys: Tensor | None) -> Tensor | None:
        """What a kernel masks by itself: later keys, those outside of its window, and padding."""
        mask = None if keys is None else keys[:, None, None, :].bool()
        if self.causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
            seen = seen if self.window is None else seen & seen.triu(1 - self.window)
            mask = seen if mask is None else mask & seen
        elif self.window is not None:
            place = torch.arange(scores.shape[-1], device=scores.device)
            seen = (place[:, None] - place).abs() < self.window
            mask = seen if mask is None else mask & seen
        return mask


def _recording(attend: Callable[..., Any], windowed: bool) -> Callable[..., Any]:
    """An attention function that keeps what it was given where somebody looks, and runs another."""

    def recorded(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> Any:
        sink = getattr(module, SINK, None)  # an attribute, so that a compiled block can read it
        if sink is not None:
            stated = kwargs.get("is_causal")
            causal = stated if stated is not None else getattr(module, "is_causal", True)
            sink.append(
                AttentionRecord(
                    query,
                    key,
                    value,
                    attention_mask,
                    kwargs.get("scaling"),
                    bool(causal) and query.shape[2] > 1,
                    kwargs.get("position_bias"),
                    kwargs.get("sliding_window") if windowed else None,
                )
            )
        return attend(module, query, key, value, attention_mask, **kwargs)

    return recorded


def recording_name(implementation: str | None) -> str:
    """The attention that records and otherwise does what `implementation` does: flash attention, else sdpa."""
    inner = implementation if implementation is not None and "flash" in implementation else "sdpa"
    name = inner + RECORDED
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _recording(ALL_ATTENTION_FUNCTIONS[inner], windowed=inner != "sdpa"))
        # without a mask function padding is ignored in silence
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])
    return name


def attention_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """The config objects that say which attention a model runs; they are switched to recording for one forward.

    Raises:
        ValueError: the family's attention cannot be recorded.
    """
    base = unwrap(model)
    reason = _why_not_recorded(base)
    if reason is not None:
        raise ValueError(
            f"{type(base).__name__} {reason}, so its attention cannot be recorded while sdpa runs. Use a loss on "
            "hidden states (HiddenMSE, HiddenCosine) instead."
        )
    configs = [getattr(module, "config", None) for module in base.modules()]
    return list({id(each): each for each in configs if isinstance(each, PreTrainedConfig)}.values())


def _why_not_recorded(model: PreTrainedModel) -> str | None:
    if not model._can_set_attn_implementation():
        return "does not run its attention through transformers' attention interface"
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "has no sdpa attention" if capped or not model._supports_sdpa else None


def is_checkpointed(block: nn.Module) -> bool:
    """Whether a block's forward will run again in backward."""
    return block.training and bool(getattr(block, "gradient_checkpointing", False))


def loses_gradients(block: nn.Module) -> bool:
    """Whether a block is checkpointed in the way that cuts what is caught inside of it from the gradient."""
    if not is_checkpointed(block):
        return False
    arguments = getattr(getattr(block, "_gradient_checkpointing_func", None), "keywords", {})
    return bool(arguments.get("use_reentrant", False))
