"""Tiny models with random weights, made from configs, and inputs for them. No network."""

from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

VOCABULARY, WIDTH, HEADS, LAYERS, LABELS = 50, 32, 4, 4, 3
_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ROTARY = _COMMON | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
_GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "pad_token_id": 0}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS + 1,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS + 1,
    "num_heads": HEADS,
    "relative_attention_num_buckets": 8,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_VISION = {"image_size": 16, "patch_size": 4, "num_channels": 3}
_SPEECH = {
    "conv_dim": (16,) * 7,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "num_feat_extract_layers": 7,
    "feat_extract_norm": "layer",  # all seven convolutions of one class: more of them than blocks
    "do_stable_layer_norm": True,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}
# family: (prefix of its classes, fields of its config)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", _COMMON),
    "distilbert": (
        "DistilBert",
        {"vocab_size": VOCABULARY, "dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 48},
    ),
    "roberta": ("Roberta", _COMMON | {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0}),
    "electra": ("Electra", _COMMON | {"embedding_size": 16}),
    "albert": ("Albert", _COMMON | {"embedding_size": 16, "num_hidden_groups": 2}),
    "deberta_v2": ("DebertaV2", _COMMON | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "modernbert": ("ModernBert", _COMMON | {"local_attention": 4, "cls_token_id": 1, "sep_token_id": 2}),
    "gpt2": ("GPT2", _GPT2),
    "llama": ("Llama", _ROTARY),
    "qwen3": ("Qwen3", _ROTARY | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "t5": ("T5", _T5),
    "bart": ("Bart", _BART),
    "vit": ("ViT", _COMMON | _VISION),
    "dinov2": ("Dinov2", _COMMON | _VISION | {"mlp_ratio": 2}),
    "wav2vec2": ("Wav2Vec2", _COMMON | _SPEECH),
}

# families whose attention no sdpa computes: in code of their own, or with capped scores
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "deberta": ("Deberta", _COMMON | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "mpnet": ("MPNet", _COMMON | {"max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0}),
    "roformer": ("RoFormer", _COMMON | {"embedding_size": WIDTH, "max_position_embeddings": 64}),
    "gemma2": ("Gemma2", _ROTARY | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8, "sliding_window": 4}),
    "bloom": (
        "Bloom",
        {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "pad_token_id": 0},
    ),
}


def tiny(family: str, head: str = "Model", seed: int = 0, **fields: Any) -> PreTrainedModel:
    """A random model in eval mode: `tiny("bert", "ForSequenceClassification", num_labels=3)`.

    Biases and norms are random too, so that a tensor put in the wrong place is seen.
    """
    prefix, settings = (FAMILIES | OTHERS)[family]
    config = getattr(transformers, f"{prefix}Config")(**(settings | fields))
    torch.manual_seed(seed)
    model = getattr(transformers, prefix + head)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def inputs_of(model: nn.Module, rows: int = 3, length: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """Inputs for a model; of tokens, ragged: each row is one token shorter than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    kind = model.main_input_name
    if kind == "pixel_values":
        return {kind: torch.randn(rows, 3, 16, 16, generator=generator)}
    lengths = torch.arange(rows)
    if kind == "input_values":
        mask = torch.arange(1600) < (1600 - 320 * lengths)[:, None]
        return {kind: torch.randn(rows, 1600, generator=generator) * mask, "attention_mask": mask.long()}
    mask = torch.arange(length) < (length - lengths)[:, None]
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    padding = model.config.pad_token_id or 0
    return {"input_ids": ids.where(mask, torch.tensor(padding)), "attention_mask": mask.long()}
