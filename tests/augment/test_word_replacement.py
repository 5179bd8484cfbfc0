"""Words are replaced by words that fit, each with its probability, and nothing else of a row changes."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from models import tiny

from hf_distill import augment
from hf_distill.augment import MaskedWords, Neighbours, replace_words

from .test_words import tokenizer_of

LETTERS = [chr(ord("a") + i) * 2 for i in range(12)]
TOKENS = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, "##x", "##y", ".", "7"]
TOKENIZER = tokenizer_of(TOKENS)


def ids(row):
    return [TOKENS.index(token) for token in row.split()]


def text(row):
    return " ".join(TOKENS[index] for index in row)


def model(head="ForMaskedLM", **fields):
    return tiny("bert", head, vocab_size=len(TOKENS), **fields)


def of(*rows, **columns):
    made = [ids(row) for row in rows]
    return Dataset.from_dict({"input_ids": made, "attention_mask": [[1] * len(row) for row in made]} | columns)


def test_the_neighbours_are_the_nearest_by_angle():
    encoder = model("Model")
    table = encoder.get_input_embeddings().weight.detach()
    found = Neighbours(encoder, TOKENIZER, candidates=4)(
        [(ids("[CLS] aa bb ##x [SEP]"), 1, 2), (ids("[CLS] aa bb ##x ##y [SEP]"), 2, 5)]
    )
    for word, near in zip(("aa", "bb ##x ##y"), found, strict=True):
        vector = sum(table[index] for index in ids(word)) / len(word.split())
        cosine = {
            index: float(torch.cosine_similarity(vector, table[index], dim=0)) for index in ids(" ".join(LETTERS))
        }
        if word == "aa":
            del cosine[TOKENS.index("aa")]
        assert near == sorted(cosine, key=cosine.get, reverse=True)[:4]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_the_masked_words_are_the_most_likely_where_one_word_is_hidden(batch_size):
    reader = model()
    rows = ["[CLS] aa bb . cc [SEP]", "[PAD] [PAD] [CLS] dd [SEP]", "[CLS] ee ff [SEP] [PAD]"]
    places = [(ids(rows[0]), 1, 2), (ids(rows[0]), 4, 5), (ids(rows[1]), 3, 4), (ids(rows[2]), 2, 3)]
    found = MaskedWords(reader, TOKENIZER, candidates=5, batch_size=batch_size)(places)
    for (row, first, _), likely in zip(places, found, strict=True):
        hidden = [index if at != first else TOKENIZER.mask_token_id for at, index in enumerate(row)]
        alone = [(at, index) for at, index in enumerate(hidden) if index != TOKENIZER.pad_token_id]
        logits = reader(torch.tensor([[index for _, index in alone]])).logits[0, [at for at, _ in alone].index(first)]
        order = [index for index in logits.argsort(descending=True).tolist() if TOKENS[index] in LETTERS]
        assert likely == [index for index in order if index != row[first]][:5]


def test_a_masked_model_may_be_given_by_its_folder(tmp_path):
    model().save_pretrained(tmp_path)
    place = (ids("[CLS] aa bb [SEP]"), 1, 2)
    assert MaskedWords(str(tmp_path), TOKENIZER)([place]) == MaskedWords(model(), TOKENIZER)([place])


class Fixed:
    """Candidates that are told beforehand; notes what it was asked for."""

    def __init__(self, *words):
        self.words, self.asked = ids(" ".join(words)), []

    def __call__(self, places):
        self.asked += [text(row[first:end]) for row, first, end in places]
        return [self.words for _ in places]


def test_only_words_are_replaced_and_columns_of_tokens_follow():
    data = of(
        "[CLS] aa bb ##x ##y . 7 [SEP] cc [SEP] [PAD]", token_type_ids=[[0] * 8 + [1] * 3], labels=[2], note=["n"]
    )
    [copy] = replace_words(data, TOKENIZER, Fixed("ll"), samples=3, probability=1.0, keep_labels=True)
    assert text(copy["input_ids"]) == "[CLS] ll ll . 7 [SEP] ll [SEP] [PAD]"  # three copies that are equal are one
    assert copy["token_type_ids"] == [0] * 6 + [1] * 3
    assert copy["attention_mask"] == [1] * 9
    assert (copy["labels"], copy["note"]) == (2, "n")


def test_single_pieces_come_from_the_masked_model_and_others_from_the_neighbours():
    near, likely = Fixed("kk"), Fixed("ll")
    data = of("[CLS] aa bb ##x [SEP]", "[CLS] cc ##y dd [SEP]")
    copies = replace_words(data, TOKENIZER, near, likely, samples=1, probability=1.0)
    assert [text(row) for row in copies["input_ids"]] == ["[CLS] ll kk [SEP]", "[CLS] kk ll [SEP]"]
    assert (near.asked, likely.asked) == (["bb ##x", "cc ##y"], ["aa", "dd"])


def test_each_word_is_replaced_with_its_probability_by_any_candidate_alike():
    row = "[CLS] " + "aa " * 40 + "[SEP]"
    copies = replace_words(of(row), TOKENIZER, Fixed("bb", "cc", "dd", "ee"), samples=100, probability=0.3)
    seen = [token for each in copies["input_ids"] for token in text(each).split()[1:-1]]
    assert len(copies) == 100
    assert 1 - seen.count("aa") / len(seen) == pytest.approx(0.3, abs=0.03)  # 4,000 coins: 4 standard deviations
    for word in ("bb", "cc", "dd", "ee"):
        assert seen.count(word) / len(seen) == pytest.approx(0.3 / 4, abs=0.017)


def test_the_coins_of_a_row_are_its_own_and_those_of_the_seed():
    rows = [f"[CLS] {word} {word} {word} aa [SEP]" for word in LETTERS]
    near = Fixed(*LETTERS)
    found, again, other = (
        replace_words(of(*rows), TOKENIZER, near, samples=2, seed=seed)["input_ids"] for seed in (0, 0, 1)
    )
    assert found == again != other
    twins = replace_words(of("[CLS] aa bb cc dd [SEP]", "[CLS] aa bb cc dd [SEP]"), TOKENIZER, near, samples=1)
    assert twins["input_ids"][0] != twins["input_ids"][1]
    few = replace_words(of(*rows[:3]), TOKENIZER, near, samples=2, seed=0)["input_ids"]
    assert found[: len(few)] == few


def test_copies_have_no_labels_unless_asked():
    knobs = {"samples": 1, "probability": 1.0}
    rows = ("[CLS] aa [SEP]", "[CLS] bb [SEP]")
    named = of(*rows, labels=[0, 1]).cast_column("labels", ClassLabel(names=["x", "y"]))
    several = of(*rows, labels=[[1.0, 0.0], [0.0, 1.0]])
    assert replace_words(named, TOKENIZER, Fixed("cc"), **knobs)["labels"] == [-100, -100]
    assert replace_words(several, TOKENIZER, Fixed("cc"), **knobs)["labels"] == [[-100.0, -100.0]] * 2
    assert replace_words(named, TOKENIZER, Fixed("cc"), keep_labels=True, **knobs)["labels"] == [0, 1]
    values = of(*rows, labels=[0.5, 1.5])
    with pytest.raises(ValueError, match="labels holds float64, of which none says that there is no label"):
        replace_words(values, TOKENIZER, Fixed("cc"), **knobs)
    assert replace_words(values, TOKENIZER, Fixed("cc"), keep_labels=True, **knobs)["labels"] == [0.5, 1.5]


def test_rows_without_words_give_no_copies():
    kind = Features({"input_ids": List(Value("int64")), "attention_mask": List(Value("int64"))})
    assert len(replace_words(of("[CLS] . 7 [SEP]").cast(kind), TOKENIZER, Fixed("aa"), probability=1.0)) == 0


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match="words are replaced in input_ids, and there are text"):
        replace_words(Dataset.from_dict({"text": ["a"]}), TOKENIZER, Fixed("aa"))
    for knobs in ({"samples": 0}, {"probability": 0.0}, {"probability": 1.1}):
        with pytest.raises(ValueError, match="at least 1, and above 0 to 1 are needed"):
            replace_words(of("[CLS] aa [SEP]"), TOKENIZER, Fixed("bb"), **knobs)
    with pytest.raises(ValueError, match="has another vocabulary than the tokenizer"):
        augment.MaskedWords(tiny("bert", "ForMaskedLM", vocab_size=10), TOKENIZER)
    model().save_pretrained(tmp_path)
    tokenizer_of([*TOKENS[:4], *reversed(TOKENS[4:])]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has another vocabulary than the tokenizer"):
        augment.MaskedWords(str(tmp_path), TOKENIZER)
    numbers = tokenizer_of(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "aa", "1", "2"])
    with pytest.raises(ValueError, match="no two tokens of the vocabulary are words of letters alone"):
        augment.Neighbours(model("Model"), numbers)
    for made in (lambda: Neighbours(model(), TOKENIZER, 0), lambda: MaskedWords(model(), TOKENIZER, 0)):
        with pytest.raises(ValueError, match=r"^candidates is 0; it must be at least 1, for a word to be drawn"):
            made()
    with pytest.raises(ValueError, match=r"^masked_lm 'no/such': [^\n]+$"):
        MaskedWords("no/such", TOKENIZER)
