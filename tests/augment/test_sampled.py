"""Texts that nobody wrote: their form, that they follow the model that makes them, and that they can be made again."""

from collections import Counter

import pytest
import torch
from models import VOCABULARY, tiny
from runs import exactly
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_distill.augment.sampled import from_causal_lm, from_masked_lm, random_tokens


def tokenizer(mask: bool = True) -> PreTrainedTokenizerFast:
    """Words, with [CLS] before and [SEP] after a text."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *(f"w{i}" for i in range(VOCABULARY - 5))])}
    raw = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    names |= {"bos_token": "[CLS]"} | ({"mask_token": "[MASK]"} if mask else {})
    return PreTrainedTokenizerFast(tokenizer_object=raw, **names)


def test_random_tokens_stand_between_the_special_ones_and_are_drawn_alike():
    found = random_tokens(tokenizer(), 3000, 10)
    assert all(row[0] == 1 and row[-1] == 2 for row in found)
    assert {len(row) for row in found} == set(range(3, 11))
    counts = Counter(each for row in found for each in row[1:-1])
    assert set(counts) == set(range(5, VOCABULARY))
    assert max(counts.values()) < 1.5 * min(counts.values())
    assert found == random_tokens(tokenizer(), 3000, 10)
    assert found != random_tokens(tokenizer(), 3000, 10, seed=1)
    message = "length is 2, and special tokens alone are 2. Make it longer."
    with pytest.raises(ValueError, match=exactly(message)):
        random_tokens(tokenizer(), 1, 2)


class Fixed(torch.nn.Module):
    """Says at every position which words may stand there: those of the position before it, plus one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[torch.Tensor] = []

    def forward(self, input_ids):
        self.seen.append(input_ids.clone())
        logits = torch.full((*input_ids.shape, VOCABULARY), -1e4)
        logits[:, :, :5] = 100.0  # special tokens are never drawn
        logits[:, :, 7], logits[:, :, 9] = torch.tensor(3.0).log(), 0.0
        return type("Answer", (), {"logits": logits})


def test_masks_are_filled_from_the_models_distribution():
    model = Fixed()
    found = from_masked_lm(model, tokenizer(), 400, 10, sweeps=1, at_once=3, batch_size=400)
    counts = Counter(word for text in found for word in text.split())
    assert sum(counts.values()) == 400 * 8
    assert set(counts) == {"w2", "w4"}  # ids 7 and 9
    assert counts["w2"] / counts["w4"] == pytest.approx(3, rel=0.15)
    cold = from_masked_lm(model, tokenizer(), 50, 10, temperature=0.1)
    assert set(" ".join(cold).split()) == {"w2"}


def test_the_first_sweep_fills_masks_and_a_later_one_draws_each_position_once_more():
    model = Fixed()
    from_masked_lm(model, tokenizer(), 5, 10, sweeps=2, at_once=3, batch_size=5)
    masks = [int((ids == 4).sum()) // 5 for ids in model.seen]
    assert masks == [8, 5, 2, 3, 3, 2]
    assert all((ids[:, 0] == 1).all() and (ids[:, -1] == 2).all() for ids in model.seen)


def test_a_masked_language_model_writes_the_same_again_with_the_same_seed():
    model = tiny("bert", "ForMaskedLM")
    found = from_masked_lm(model, tokenizer(), 5, 8, batch_size=2)
    assert len(found) == 5
    assert found == from_masked_lm(model, tokenizer(), 5, 8, batch_size=2)
    assert found != from_masked_lm(model, tokenizer(), 5, 8, batch_size=2, seed=1)
    with pytest.raises(ValueError, match="has no mask token, so there is nothing to fill"):
        from_masked_lm(model, tokenizer(mask=False), 5, 8)


def test_a_causal_language_model_writes_the_same_again_with_the_same_seed():
    model, words = tiny("gpt2", "LMHeadModel"), tokenizer()
    state = torch.random.get_rng_state()
    found = from_causal_lm(model, words, 5, 8, batch_size=2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(found) == 5
    assert all(len(text.split()) <= 8 for text in found)
    assert len(set(found)) > 1
    assert found == from_causal_lm(model, words, 5, 8, batch_size=2)
    assert found != from_causal_lm(model, words, 5, 8, batch_size=2, seed=1)
    words.bos_token = words.eos_token = None
    with pytest.raises(ValueError, match="neither bos_token nor eos_token"):
        from_causal_lm(model, words, 5, 8)
