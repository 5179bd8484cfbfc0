"""A live teacher whose blocks multiply in int8, for less time and memory."""

from typing import Literal

from torch import nn

from hf_distill import anatomy


def quantize(model: nn.Module, kind: Literal["int8"] = "int8") -> nn.Module:
    """Turns the linear layers of a teacher's blocks into int8, in place, through torchao.

    Weights are rounded once, with one scale an output; what enters is rounded row by row as it comes. Embeddings,
    norms and the head stay as they are, and so does what the losses see: hidden states and logits in the model's
    own dtype. Make the student of the teacher's blocks before this. A model that transformers itself loads quantised
    (`quantization_config=`, on GPUs also in 4 bits) is a teacher without this.

    Args:
        model: a transformers model or PEFT wrapper whose blocks hold `nn.Linear`, not quantised yet.
        kind: ``"int8"``, the only one.

    Returns:
        The same model.

    Raises:
        ValueError: torchao is missing, the kind is not known, or nothing in the model can be quantised.
    """
    name = type(anatomy.unwrap(model)).__name__
    if kind != "int8":
        raise ValueError(f"quantize={kind!r} is not known; use 'int8' or leave it out.")
    if getattr(anatomy.unwrap(model), "is_quantized", False):
        raise ValueError(f"{name} is quantised already. Leave quantize out.")
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ValueError(f"quantize needs torchao ({error}). pip install 'hf-distill[int8]'.") from None
    blocks = dict.fromkeys(anatomy.find_blocks(model))  # a shared block stands there several times
    linear = [layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError(f"{name} has no nn.Linear in its blocks, nothing to quantise. Leave quantize out.")
    for block in blocks:
        quantize_(block, Int8DynamicActivationInt8WeightConfig())
    anatomy.unwrap(model).is_quantized = True  # as transformers marks what it loads so
    return model
