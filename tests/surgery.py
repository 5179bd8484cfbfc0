"""Teachers to cut up, and the same surgery done by hand, for tests of students."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models import inputs_of, tiny
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import anatomy

NAMES = {0: "joy", 1: "anger", 2: "fear"}


def labelled(head: str = "ForSequenceClassification", **fields: Any) -> PreTrainedModel:
    settings = {"id2label": NAMES, "label2id": {name: i for i, name in NAMES.items()}} | fields
    return tiny("bert", head, **settings)


def inputs_for(model: PreTrainedModel) -> dict[str, Any]:
    inputs = inputs_of(model)
    if model.config.is_encoder_decoder:
        return inputs | {"decoder_input_ids": inputs["input_ids"], "use_cache": False}
    # caches go by the number that a block was made with, and blocks cut by hand keep theirs
    return inputs | {"use_cache": False} if "use_cache" in anatomy.forward_names(model) else inputs


@torch.no_grad()
def logits(model: PreTrainedModel) -> Tensor:
    return model(**inputs_for(model)).logits


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Through the disk, by a transformers class, with nothing missing or left over."""
    model.save_pretrained(folder)
    again, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return again


def cut_by_hand(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """The same surgery on a copy of the teacher, with no config and no rebuilding."""
    model = copy.deepcopy(teacher)
    stack = anatomy.find_stack(model)
    assert stack is not None
    parent, _, name = stack[0].rpartition(".")
    blocks = [stack[1][layer] for layer in layers]
    setattr(model.get_submodule(parent), name, nn.ModuleList(blocks))
    if hasattr(model.config, "layer_types"):
        model.config.layer_types = [model.config.layer_types[layer] for layer in layers]
    model.config.num_hidden_layers = len(layers)
    return model
