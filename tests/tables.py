"""Tables as a user has them, in files and in memory, and a tokenizer whose words are letters."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Value
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_distill.data import DataError, encode, load
from hf_distill.recipe import DatasetSpec

NAMES = ["anger", "joy", "love"]


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the letters a to j, from 4 on."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def write(**files: str) -> None:
    """`train__tsv="..."` becomes train.tsv."""
    for name, text in files.items():
        Path(name.replace("__", ".")).write_bytes(text.encode("utf-8"))


def read(path: str, **fields: Any) -> DatasetDict:
    return load(DatasetSpec(path=path, **fields))


def refusal(path: str, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **fields)
    return str(caught.value)


def table(labels: list[Any], texts: list[str] | None = None, feature: Any = None) -> DatasetDict:
    columns = {"text": texts or [f"a {'b ' * index}".strip() for index in range(len(labels))], "labels": labels}
    features = None if feature is None else Features({"text": Value("string"), "labels": feature})
    return DatasetDict(train=Dataset.from_dict(columns, features=features))


def targets(dataset: DatasetDict, tokenizer: Any, task: str, **options: Any) -> list[Any]:
    return list(encode(dataset, tokenizer, task=task, **options)["train"]["labels"][:])
