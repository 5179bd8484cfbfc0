"""Models that answer with a vocabulary: where their head is, and how they are run without a loss of their own."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.tasks import Task, find_task


@dataclass(frozen=True)
class VocabularyHead:
    """What comes after the blocks of a language model.

    Args:
        entry: the outermost module that holds the last layer and no block: what goes into it is one vector a position.
        last: the layer whose answer has one entry a word; `entry` itself where there is nothing before it.
    """

    entry: nn.Module
    last: nn.Module

    @property
    def is_linear(self) -> bool:
        """Whether the last layer is torch's own, with its weight at hand: not quantised, sharded, wrapped or moved."""
        weight = getattr(self.last, "weight", None)
        at_hand = type(weight) in (nn.Parameter, Tensor) and weight.numel() > 0
        return type(self.last) is nn.Linear and "forward" not in vars(self.last) and at_hand


def find_vocabulary_head(model: nn.Module) -> VocabularyHead | None:
    """The head of a language model; None for others, and where the model cannot be run without labels."""
    base = anatomy.unwrap(model)
    task = find_task(base)
    if not task.of_vocabulary or (task is Task.SEQ2SEQ and not hasattr(base, "prepare_decoder_input_ids_from_labels")):
        return None
    try:
        last = base.get_output_embeddings()
    except NotImplementedError:
        return None
    path = next((name for name, module in base.named_modules() if module is last), None)
    if last is None or not path:
        return None
    inner = {base.get_input_embeddings(), *anatomy.find_blocks(base)}
    parts = path.split(".")
    outer = (base.get_submodule(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
    return VocabularyHead(next(each for each in outer if inner.isdisjoint(each.modules())), last)


def inputs_for(model: nn.Module, batch: Batch, head: VocabularyHead | None) -> dict[str, Any]:
    """What a model's forward is given of a batch: no labels, since the losses are computed outside of it.

    A decoder's inputs are made from the labels: by the model, or here where it shall not compute the logits of every
    position for a loss that nobody looks at.

    Args:
        model: a transformers model or PEFT wrapper.
        batch: labels included.
        head: of the model, from `find_vocabulary_head`, which goes through all of it: once, and not in every step.
    """
    inputs = anatomy.accepted(model, batch.inputs)
    if "inputs_embeds" in inputs:  # as the model's own table would give them
        inputs["inputs_embeds"] = inputs["inputs_embeds"].to(anatomy.unwrap(model).dtype)
    if batch.task is not Task.SEQ2SEQ:
        inputs.pop("labels", None)
    elif batch.counted_only and "labels" in inputs and head is not None:
        labels = inputs.pop("labels")
        if inputs.get("decoder_input_ids") is None and inputs.get("decoder_inputs_embeds") is None:
            made: Any = anatomy.unwrap(model).prepare_decoder_input_ids_from_labels
            inputs["decoder_input_ids"] = made(labels)
        inputs["use_cache"] = False  # as every model does that is given labels
    return inputs
