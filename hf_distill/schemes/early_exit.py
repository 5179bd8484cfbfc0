"""A model that may answer before its last block, from heads that were trained at some of its blocks."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from hf_distill import anatomy
from hf_distill.attachment import redirected
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.losses import SelfExits
from hf_distill.signals import hidden
from hf_distill.tasks import Task, find_task
from hf_distill.teachers import load

CONFIG_FILE, WEIGHTS_FILE = "exits.json", "exits.safetensors"


class EarlyExit(nn.Module):
    """Answers after any block that has an exit, or as soon as it is sure enough.

        model = schemes.EarlyExit.from_pretrained("out/student")
        logits = model(batch, layer=1)                  # the blocks above 1 do not run
        logits, layers = model.sure(batch, 0.9)         # each example leaves where its confidence is 0.9

    Args:
        model: a transformers model.
        exits: heads that were trained with it.

    Attributes:
        layers: where it can answer, upwards; the last is the model's own end.
    """

    def __init__(self, model: PreTrainedModel, exits: SelfExits) -> None:
        super().__init__()
        self.model, self.exits = model.eval(), exits.to(model.device).eval()
        self.layers = (*exits.depths, exits.last)
        self.task = find_task(model)
        self._captures = {layer: Capture(model, {hidden(layer)}, ends=True) for layer in exits.depths}

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "EarlyExit":
        """What `save_pretrained` wrote.

        Args:
            folder: with the model and its exits; or a Hub id.

        Raises:
            ValueError: there are no exits.
        """
        config, weights = (
            cached_file(str(folder), name, _raise_exceptions_for_missing_entries=False)
            for name in (CONFIG_FILE, WEIGHTS_FILE)
        )
        if config is None or weights is None:
            raise ValueError(f"{folder} has no {CONFIG_FILE} and {WEIGHTS_FILE}. Train it with keep_exits=True.")
        model = load(str(folder))
        exits = SelfExits(**json.loads(Path(config).read_text(encoding="utf-8")))
        exits.setup(anatomy.describe(model), None, find_task(model))
        exits.load_state_dict(load_file(weights))
        return cls(model, exits)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model, and beside it its exits.

        Args:
            folder: is made.
        """
        self.model.save_pretrained(folder)
        save_file({name: tensor.contiguous() for name, tensor in self.exits.state_dict().items()},
                  Path(folder) / WEIGHTS_FILE)  # fmt: skip
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(self.exits.config, indent=2) + "\n", encoding="utf-8")

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Any], layer: int | None = None) -> Tensor:
        """The answer after one block; those above it do not run.

        Args:
            inputs: what the model reads, as tensors; columns that it does not know are left out.
            layer: one of `layers`, or counted from the end as there; None: the last.

        Returns:
            Logits, (batch, classes), or (batch, tokens, classes).

        Raises:
            ValueError: the block has no exit.
        """
        layer = self.layers[-1] if layer is None else layer + self.layers[-1] + 1 if layer < 0 else layer
        if layer not in self.layers:
            raise ValueError(f"block {layer} has no exit: there are exits after {', '.join(map(str, self.layers))}.")
        known = anatomy.accepted(self.model, {name: value for name, value in inputs.items() if name != "labels"})
        if layer == self.layers[-1]:
            return anatomy.logits_of(self.model(**known), self.task)
        capture, batch, outputs = self._captures[layer], Batch(known, self.task), None
        with capture:
            outputs = self.model(**known)
        seen = batch.clean(hidden(layer), capture.take(outputs, batch)[hidden(layer)])
        return self.exits.answer(self.layers.index(layer), seen, batch)[1]

    @torch.no_grad()
    def sure(self, inputs: Mapping[str, Any], threshold: float) -> tuple[Tensor, Tensor]:
        """Each example's answer from the first exit that is sure enough of it; only the others run on.

        A block runs once for an example, and the embeddings once more after each exit.

        Args:
            inputs: as for `forward`.
            threshold: the smallest `confidence` that is enough, above 0; above 1 all run to the end.

        Returns:
            Logits, (batch, classes), and the block after which each example left, (batch,).

        Raises:
            ValueError: a task without one answer an example, or a model whose blocks are one and the same.
        """
        blocks = anatomy.find_blocks(self.model)
        if self.task not in (Task.SINGLE_LABEL, Task.MULTI_LABEL):
            raise ValueError(f"no confidence is known of the task {self.task}: call the model with layer=.")
        if len({id(block) for block in blocks}) < len(blocks):
            raise ValueError(f"the blocks of {type(self.model).__name__} share weights: call the model with layer=.")
        left = torch.arange(Batch(inputs, self.task).rows, device=self.model.device)
        answers, left_after, carried = None, torch.empty_like(left), None
        for number, layer in enumerate(self.layers):
            done = -1 if number == 0 else self.layers[number - 1]
            logits, carried = self._go_on(_rows(dict(inputs), left, len(left_after)), layer, blocks, done, carried)
            answers = logits.new_empty(len(left_after), logits.shape[-1]) if answers is None else answers
            sure = confidence(logits, self.task) >= (threshold if layer != self.layers[-1] else -1)
            answers[left[sure]], left_after[left[sure]] = logits[sure], layer
            carried, left = _rows(carried, (~sure).nonzero().squeeze(1), len(left)), left[~sure]
            if not len(left):
                break
        assert answers is not None
        return answers, left_after

    def _go_on(
        self, inputs: dict[str, Any], layer: int, blocks: list[nn.Module], done: int, carried: Any
    ) -> tuple[Tensor, Any]:
        """The answer after a block where others have run already, and what the block gave.

        Args:
            inputs: of the examples that are left.
            layer: where they answer.
            blocks: of the model.
            done: the last block that has run.
            carried: what it gave.
        """
        given: list[Any] = []

        def noted(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given.append(block.forward(*args, **kwargs))
            return given[0]

        with ExitStack() as stack:
            for block in blocks[: done + 1]:  # all give the same: what goes into the next is the last one's
                stack.enter_context(redirected(block, lambda *args, **kwargs: carried))
            stack.enter_context(redirected(blocks[layer], noted))
            return self(inputs, layer), given[0]


def confidence(logits: Tensor, task: Task) -> Tensor:
    """How sure an answer is, 0 to 1: the largest probability; of several labels that of the least sure decision.

    Args:
        logits: (batch, classes).
        task: single label or multi-label.

    Returns:
        (batch,).
    """
    if task is Task.MULTI_LABEL:
        return logits.float().abs().sigmoid().amin(-1)
    return logits.float().softmax(-1).amax(-1)


def _rows(values: Any, kept: Tensor, rows: int) -> Any:
    """Some rows of everything in it that has so many."""
    if isinstance(values, Tensor):
        return values[kept] if values.dim() and len(values) == rows else values
    if isinstance(values, Mapping):
        return {name: _rows(value, kept, rows) for name, value in values.items()}
    return type(values)(_rows(value, kept, rows) for value in values) if isinstance(values, list | tuple) else values
