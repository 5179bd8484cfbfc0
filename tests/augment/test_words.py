"""Where words are, for tokenizers that mark what goes on and for those that mark what begins."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_distill.augment.words import Words

WORDPIECE = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "un",
    "##ta",
    "##ngle",
    "cat",
    ".",
    "##s",
    "2020",
    "[unused1]",
    "##2",
]
BYTE_LEVEL = ["<pad>", "<s>", "</s>", "<mask>", "Ġun", "ta", "ngle", "Ġcat", ".", "s", "Ġ2020", "cat", "Ġ"]


def tokenizer_of(tokens):
    backend = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=tokens[0]))
    pad, cls, sep, mask = tokens[:4]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, cls_token=cls, sep_token=sep, mask_token=mask
    )


@pytest.mark.parametrize(
    ("tokens", "words"),
    [(WORDPIECE, {"un", "cat"}), (BYTE_LEVEL, {"Ġun", "Ġcat"}), (["p", "c", "e", "m", "a", "1"], {"a"})],
)
def test_a_whole_word_begins_and_is_of_letters(tokens, words):
    assert {tokens[index] for index in Words(tokenizer_of(tokens)).whole} == words


ROWS = [
    (WORDPIECE, "[CLS] un ##ta ##ngle cat . [SEP] [PAD] [PAD]", [(1, 4), (4, 5)]),
    (WORDPIECE, "[CLS] 2020 cat ##2 cat ##s [unused1] [SEP]", [(4, 6)]),  # a number in a word makes it none
    (WORDPIECE, "[CLS] cat [SEP] cat [SEP]", [(1, 2), (3, 4)]),
    (WORDPIECE, "[PAD] [CLS] ##s [SEP]", [(2, 3)]),  # cut off at its beginning
    (BYTE_LEVEL, "<s> cat Ġun ta ngle . Ġcat s </s> <pad>", [(1, 2), (2, 5), (6, 8)]),
    (BYTE_LEVEL, "<s> Ġ2020 s Ġ Ġcat </s>", [(4, 5)]),
]


@pytest.mark.parametrize(("tokens", "row", "expected"), ROWS)
def test_the_words_of_a_row(tokens, row, expected):
    assert Words(tokenizer_of(tokens)).spans([tokens.index(token) for token in row.split()]) == expected
