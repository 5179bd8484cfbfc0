"""Small data and short runs for tests that train."""

import re
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from models import LABELS, VOCABULARY, tiny
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from hf_distill import DistillationConfig, DistillationTrainer

QUICK: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}


def classifier(family: str = "bert", seed: int = 0, **fields: Any) -> Any:
    """A tiny text classifier without dropout, so that two runs are equal."""
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if family == "distilbert":
        dropout = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    settings = {"num_hidden_layers": 2} if family == "bert" else {"n_layers": 2}
    if "id2label" not in fields:
        settings["num_labels"] = LABELS
    return tiny(family, "ForSequenceClassification", seed, **(dropout | settings | fields))


def rows(count: int = 16, length: int = 6, labels: bool = True, **columns: Any) -> Dataset:
    """Token ids of one length, and class ids as labels."""
    generator = torch.Generator().manual_seed(count)
    ids = torch.randint(3, VOCABULARY, (count, length), generator=generator)
    found = {"input_ids": ids.tolist(), "attention_mask": torch.ones_like(ids).tolist()}
    if labels:
        found["labels"] = (ids.sum(1) % LABELS).tolist()
    return Dataset.from_dict(found | columns)


def words(count: int = VOCABULARY, shift: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of `count` words; `shift` gives each word another id."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    rest = [f"word{(index + shift) % (count - 4)}" for index in range(count - 4)]
    vocabulary = {word: index for index, word in enumerate(special + rest)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )


def distillation(
    folder: Path, student: Any, teacher: Any, losses: Any = None, data: Any = None, **settings: Any
) -> DistillationTrainer:
    """A trainer of three quick steps; `settings` go to the config, or to the trainer if it knows them."""
    known = ("eval_dataset", "processing_class", "data_collator", "peft_config", "model_init", "compute_loss_func")
    own = {name: settings.pop(name) for name in known if name in settings}
    args = DistillationConfig(str(folder), **(QUICK | settings))
    return DistillationTrainer(student, teacher, losses, args, train_dataset=rows() if data is None else data, **own)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights of a student, without what is attached to it while it trains."""
    return {name: w.detach().clone() for name, w in model.state_dict().items() if not name.startswith("objective.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are bit for bit the same."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def exactly(message: str) -> str:
    """A pattern for `pytest.raises(match=...)` that is this one line and no more."""
    return rf"\A{re.escape(message)}\Z"
