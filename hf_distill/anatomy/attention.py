"""How the attention of a model is looked at while it runs."""

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_distill.anatomy.unwrapped import unwrap
from hf_distill.recorded import AttentionRecord

RECORDED = "_recorded"  # what a recording attention is called after the one that it runs
SINK = "_hf_distill_sink"
# they compute attention in code of their own, and their blocks hand out the map when asked
_HAND_OUT_MAPS = ("bloom", "deberta", "deberta-v2", "mpnet", "roformer")


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
                    kwargs.get("softcap"),
                )
            )
        return attend(module, query, key, value, attention_mask, **kwargs)

    return recorded


def _eager(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The eager attention of a module's own family."""
    return vars(sys.modules[type(module).__module__])["eager_attention_forward"](module, *args, **kwargs)


def recording_name(implementation: str | None, sdpa: bool = True) -> str:
    """The attention that records and otherwise does what `implementation` does: flash attention, else sdpa.

    Args:
        implementation: what runs now.
        sdpa: whether the family has it; those that cap their scores are eager.
    """
    flash = implementation is not None and "flash" in implementation
    inner = str(implementation) if flash else "sdpa" if sdpa else "eager"
    name = inner + RECORDED
    if name not in ALL_ATTENTION_FUNCTIONS:
        attend = _eager if inner == "eager" else ALL_ATTENTION_FUNCTIONS[inner]
        AttentionInterface.register(name, _recording(attend, windowed=flash))
        # without a mask function padding is ignored in silence
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[inner])
    return name


def attention_configs(model: nn.Module) -> list[PreTrainedConfig]:
    """The config objects that say which attention a model runs; they are switched to recording for one forward.

    Raises:
        ValueError: the family's attention cannot be recorded.
    """
    base = unwrap(model)
    reason = why_not_recorded(base)
    if reason is not None:
        raise ValueError(
            f"{type(base).__name__} {reason}, so its attention cannot be recorded while sdpa runs. Use a loss on "
            "hidden states (HiddenMSE, HiddenCosine) instead."
        )
    configs = [getattr(module, "config", None) for module in base.modules()]
    return list({id(each): each for each in configs if isinstance(each, PreTrainedConfig)}.values())


def why_not_recorded(model: PreTrainedModel) -> str | None:
    """What stands against recording a model's attention while it runs, in words; None if nothing does."""
    if not model._can_set_attn_implementation():
        return "does not run its attention through transformers' attention interface"
    return None if has_sdpa(model) or is_capped(model) else "has no sdpa attention"


def is_capped(model: PreTrainedModel) -> bool:
    """Whether a model caps its attention scores, which no sdpa does."""
    return getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None


def has_sdpa(model: PreTrainedModel) -> bool:
    """Whether what sdpa computes is the model's attention."""
    return bool(model._supports_sdpa) and not is_capped(model)


def hands_out_maps(model: nn.Module) -> bool:
    """Whether attention is not recorded, but taken as maps that each block hands out when it is asked."""
    return unwrap(model).config.model_type in _HAND_OUT_MAPS


def attention_dropout(model: nn.Module) -> tuple[str, float]:
    """The field of a model's config that says what share of its attention is dropped in training, and that share."""
    config = unwrap(model).config.get_text_config()
    names = ("attention_probs_dropout_prob", "attention_dropout")
    return next(((name, getattr(config, name)) for name in names if hasattr(config, name)), ("attention_dropout", 0.0))


def ask_for_map(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """The arguments of a block's forward, with its attention map asked for."""
    place = list(inspect.signature(type(block).forward).parameters).index("output_attentions") - 1
    if len(args) > place:
        return (*args[:place], True, *args[place + 1 :]), kwargs
    return args, kwargs | {"output_attentions": True}


@dataclass(frozen=True)
class HandedOut:
    """A map as its block hands it out."""

    map: Tensor

    def signal(self, kind: str) -> Tensor:
        """The map; `Capture` asks for nothing else."""
        return self.map.float()
