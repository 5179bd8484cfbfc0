"""A training step reads no number back from the device: it would wait for all that is queued there.

There is no device here: what the collator made is marked, what was moved is not, and only of that a look is a read.
"""

import traceback
from pathlib import Path

import pytest
import torch
from caches import padded, ragged
from models import LABELS, tiny
from runs import classifier, distillation, rows, words
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import TrainerCallback

import hf_distill
from hf_distill.batch import host
from hf_distill.losses import (
    CATALOGUE,
    BoundaryTargets,
    HiddenMSE,
    LabelEmbeddings,
    MiniLMv2,
    ReverseKL,
    SoftTargets,
    TaskLoss,
)
from hf_distill.losses.relation import LOOKED_AT
from hf_distill.teachers import CachedTeacher

PACKAGE = str(Path(hf_distill.__file__).parent)
TORCH = str(Path(torch.__file__).parent)
READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "aten.equal")
COPIES = (Tensor.cpu, Tensor.numpy, Tensor.tolist)  # to the host; here they do nothing that could be seen below
# boundary samples are made by a teacher of their own, which looks at what both models get right
LOSSES = [kind for kinds in CATALOGUE.values() for kind in kinds if kind is not BoundaryTargets]


HOST = torch.device("cpu", 0)  # so that what is made beside a marked tensor can be told from what is not


class OnHost(Tensor):
    """Made by the collator, or of nothing but that."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function == Tensor.device.__get__:
            return HOST
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **(kwargs or {}))
        kind = OnHost if all(isinstance(each, OnHost) for each in tensors((args, kwargs or {}))) else Tensor
        return tree_map_only(Tensor, lambda each: each.as_subclass(kind), found)


def tensors(nested) -> list[Tensor]:
    return [each for each in tree_leaves(nested) if isinstance(each, Tensor)]


class Reads(TorchDispatchMode):
    """Notes each operation of our own that a device would have to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def note(self, function, args) -> None:
        if all(isinstance(each, OnHost) for each in tensors(args)):
            return
        frames = [f for f in traceback.extract_stack()[:-2] if not f.filename.startswith((TORCH, __file__))]
        if frames[-1].filename.startswith(PACKAGE):
            self.found.append(f"{frames[-1].filename.removeprefix(PACKAGE)}:{frames[-1].lineno} {function}")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in READS):
            self.note(function, args)
        return function(*args, **(kwargs or {}))


class Copies(TorchFunctionMode):
    """Notes each copy to the host likewise; and marks what is made there."""

    def __init__(self, reads: Reads) -> None:
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in COPIES:
            self.reads.note(function, args)
        found = function(*args, **(kwargs or {}))
        return found.as_subclass(OnHost) if (kwargs or {}).get("device") == HOST else found


class Watch(TrainerCallback):
    """Looks from the beginning of each later step to its end, when an accelerator would go on."""

    def __init__(self) -> None:
        self.reads = Reads()
        self.modes = (Copies(self.reads), self.reads)

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step > LOOKED_AT:
            for mode in self.modes:
                mode.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step > LOOKED_AT + 1:
            for mode in reversed(self.modes):
                mode.__exit__(None, None, None)


def shorter(row, index):
    return {"input_ids": row["input_ids"][: 3 + index % 4]}


def several(row):
    return {"labels": [float((word + row["labels"]) % 2) for word in range(LABELS)]}


def marked(collate):
    def made(rows):
        return {name: each.as_subclass(OnHost) for name, each in collate(rows).items()}

    return made


@pytest.fixture(autouse=True)
def _moved_batches_are_no_longer_marked(monkeypatch):
    monkeypatch.setattr(host, "_to", lambda value, device: value.clone().as_subclass(Tensor))


def looked_at(trainer) -> list[str]:
    """What later steps read back, while they count and while they train."""
    watch = Watch()
    trainer.add_callback(watch)
    trainer.data_collator = marked(trainer.data_collator)
    count, counting = trainer.get_batch_samples, Reads()

    def watched(*args):
        with counting:
            samples, counts = count(*args)
        assert not any(isinstance(each, OnHost) for each in tensors(samples)), "they were moved"
        return samples, counts

    trainer.get_batch_samples = watched
    trainer.train()
    assert trainer.state.global_step > LOOKED_AT + 2
    return watch.reads.found + counting.found


@pytest.mark.parametrize("loss", LOSSES, ids=lambda kind: kind.__name__)
def test_a_step_reads_nothing_back(tmp_path, loss):
    data, fields = rows(64).remove_columns("attention_mask").map(shorter, with_indices=True), {}
    if loss is LabelEmbeddings:
        data, fields = data.map(several), {"problem_type": "multi_label_classification"}
    trainer = distillation(
        tmp_path,
        classifier(**fields),
        classifier(seed=1, **fields),
        [loss(), SoftTargets()],
        data,
        max_steps=LOOKED_AT + 4,
        processing_class=words(),
    )
    assert looked_at(trainer) == []


def some_labels(rows):
    """Of two of three words the label counts."""
    batch = padded([{"input_ids": row["input_ids"]} for row in rows])
    ignored = (batch["attention_mask"] == 0) | (batch["input_ids"] % 3 == 0)
    return batch | {"labels": batch["input_ids"].masked_fill(ignored, -100)}


LANGUAGE = {
    "masked": ("bert", "ForMaskedLM"),
    "causal": ("llama", "ForCausalLM"),
    "seq2seq": ("t5", "ForConditionalGeneration"),
}


@pytest.mark.parametrize("kind", LANGUAGE)
def test_a_step_of_a_language_model_reads_nothing_back(tmp_path, kind):
    student, teacher = (tiny(*LANGUAGE[kind], seed) for seed in (0, 1))
    losses = [TaskLoss(), SoftTargets(), ReverseKL(weight=0.1), HiddenMSE("last", weight=0.1)]
    settings = {"max_steps": LOOKED_AT + 4, "data_collator": some_labels, "gradient_accumulation_steps": 2}
    assert looked_at(distillation(tmp_path, student, teacher, losses, ragged(24), **settings)) == []


@pytest.mark.parametrize("kind", ["classifier", "masked"])
def test_a_step_with_a_cache_reads_nothing_back(tmp_path, kind):
    student, teacher = (
        classifier(seed=seed) if kind == "classifier" else tiny(*LANGUAGE[kind], seed) for seed in (0, 1)
    )
    collate = padded if kind == "classifier" else some_labels
    cached = CachedTeacher(tmp_path / "cache", teacher)
    settings = {"max_steps": LOOKED_AT + 4, "data_collator": collate}
    trainer = distillation(tmp_path, student, cached, [SoftTargets(), MiniLMv2()], ragged(24), **settings)
    trainer.teacher.fill([trainer.train_dataset], collate)
    assert looked_at(trainer) == []


def test_a_batch_is_moved_by_us_and_not_by_its_loader(tmp_path):
    trainer = distillation(tmp_path, classifier(), classifier(seed=1))
    seen = []
    count = trainer.get_batch_samples
    trainer.get_batch_samples = lambda *args: (
        seen.append(trainer.callback_handler.train_dataloader.device) or count(*args)
    )
    trainer.train()
    assert set(seen) == {None}
