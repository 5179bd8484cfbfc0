"""A training step reads no number back from the device: it would wait for all that is queued there."""

import traceback
from pathlib import Path

import pytest
import torch
from runs import classifier, distillation, rows, words
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

import hf_distill
from hf_distill.losses import CATALOGUE, LabelEmbeddings, SoftTargets
from hf_distill.losses.relation import LOOKED_AT

PACKAGE = str(Path(hf_distill.__file__).parent)
TORCH = str(Path(torch.__file__).parent)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "aten.equal")
# groups of labels of any size are taken out of a batch one by one
LOSSES = [kind for kinds in CATALOGUE.values() for kind in kinds if kind is not LabelEmbeddings]


class Reads(TorchDispatchMode):
    """Notes each operation of our own that a device would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in READS):
            caller = [f for f in traceback.extract_stack()[:-1] if not f.filename.startswith(TORCH)][-1]
            if caller.filename.startswith(PACKAGE):
                self.found.append(f"{caller.filename.removeprefix(PACKAGE)}:{caller.lineno} {function}")
        return function(*args, **(kwargs or {}))


class Watch(TrainerCallback):
    """Looks from the beginning of each later step to its end, when an accelerator would go on."""

    def __init__(self) -> None:
        self.reads = Reads()

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step > LOOKED_AT:
            self.reads.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > LOOKED_AT + 1:
            self.reads.__exit__(None, None, None)


def shorter(row, index):
    return {"input_ids": row["input_ids"][: 3 + index % 4]}


@pytest.mark.parametrize("loss", LOSSES, ids=lambda kind: kind.__name__)
def test_a_step_reads_nothing_back(tmp_path, loss):
    trainer = distillation(
        tmp_path,
        classifier(),
        classifier(seed=1),
        [loss(), SoftTargets()],
        rows(64).remove_columns("attention_mask").map(shorter, with_indices=True),
        max_steps=LOOKED_AT + 4,
        processing_class=words(),
    )
    watch = Watch()
    trainer.add_callback(watch)
    count, counting = trainer.get_batch_samples, Reads()

    def watched(*args):
        with counting:
            return count(*args)

    trainer.get_batch_samples = watched
    trainer.train()
    assert watch.reads.found == []
    assert counting.found == []
