"""Rows with some of their words replaced by others that fit: the data augmentation of TinyBERT, on token ids."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from torch import nn
from transformers import AutoModelForMaskedLM

from hf_distill import anatomy
from hf_distill.augment.words import Words
from hf_distill.batch import IGNORED
from hf_distill.checks import LABELS
from hf_distill.teachers.model import named, tokenizer_beside

Place = tuple[Sequence[int], int, int]  # the ids of a row, and where in it a word begins and ends
Span = tuple[int, int]


class Neighbours:
    """The words whose embeddings are nearest by angle, in the table that a model embeds its tokens with.

    A word of several pieces has the mean of their embeddings.

    Args:
        model: a transformers model that reads tokens, the teacher for example.
        tokenizer: made the ids.
        candidates: how many words.

    Raises:
        ValueError: the model embeds no tokens, no token of the vocabulary is a word, or no candidates.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, candidates: int = 15) -> None:
        _check_candidates(candidates)
        table: Any = anatomy.find_embeddings(model).weight
        self._table = table.detach().float().cpu()
        self._whole = torch.tensor([index for index in Words(tokenizer).whole if index < len(self._table)]).long()
        if len(self._whole) < 2:
            raise ValueError(
                "no two tokens of the vocabulary are words of letters alone, so none can replace another."
            )
        self._directions = nn.functional.normalize(self._table[self._whole], dim=-1)
        self._candidates = candidates
        self._found: dict[tuple[int, ...], list[int]] = {}

    def __call__(self, places: Sequence[Place]) -> list[list[int]]:
        """Whole-word ids for each place, the nearest first, without the word itself."""
        words = [tuple(ids[first:end]) for ids, first, end in places]
        for new in _chunks([word for word in dict.fromkeys(words) if word not in self._found], 256):
            means = torch.stack([self._table[list(word)].mean(0) for word in new])
            near = nn.functional.normalize(means, dim=-1) @ self._directions.T
            best = near.topk(min(self._candidates + 1, len(self._whole))).indices
            for word, row in zip(new, self._whole[best].tolist(), strict=True):
                self._found[word] = [each for each in row if (each,) != word][: self._candidates]
        return [self._found[word] for word in words]


class MaskedWords:
    """The words that a masked language model thinks most likely where one is hidden, each hidden alone.

    Args:
        model: an `AutoModelForMaskedLM`, its folder or its Hub id; it must read the tokenizer's ids.
        tokenizer: made the ids.
        candidates: how many words.
        batch_size: rows that the model reads at once.

    Raises:
        ValueError: the model cannot be loaded or has another vocabulary, the tokenizer no mask, or no candidates.
    """

    def __init__(self, model: nn.Module | str, tokenizer: Any, candidates: int = 15, batch_size: int = 32) -> None:
        _check_candidates(candidates)
        made: Any = model
        if isinstance(model, str):
            with named("masked_lm", model):
                made = AutoModelForMaskedLM.from_pretrained(model, dtype=torch.float32)
        self._model = made.eval()
        self._tokenizer, self._candidates, self._batch_size = tokenizer, candidates, batch_size
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token: leave masked_lm out, and words come from embeddings.")
        own = tokenizer_beside(made)
        other = own is not None and own.get_vocab() != tokenizer.get_vocab()
        if other or (anatomy.vocabulary(made) or 0) < len(tokenizer):
            raise ValueError(
                f"the masked LM ({type(made).__name__}) has another vocabulary than the tokenizer that made the rows. "
                "Pass one with the same, or leave masked_lm out, and words come from embeddings."
            )
        self._whole = Words(tokenizer).whole

    @torch.no_grad()
    def __call__(self, places: Sequence[Place]) -> list[list[int]]:
        """Whole-word ids for each place, the most likely first, without the word itself."""
        found: list[list[int]] = []
        for some in _chunks(places, self._batch_size):
            rows, hidden = zip(*map(self._hide, some), strict=True)
            inputs = self._tokenizer.pad({"input_ids": list(rows)}, padding_side="right", return_tensors="pt")
            logits = self._model(**inputs.to(self._model.device)).logits.float().cpu()
            likely = torch.full_like(logits[:, 0], -torch.inf)
            at = logits[torch.arange(len(some)), torch.tensor(hidden)]
            likely[:, self._whole] = at[:, self._whole]
            likely[torch.arange(len(some)), torch.tensor([ids[first] for ids, first, _ in some])] = -torch.inf
            found += likely.topk(min(self._candidates, len(self._whole) - 1)).indices.tolist()
        return found

    def _hide(self, place: Place) -> tuple[list[int], int]:
        """A row without padding and with a mask in place of the word, and where that is."""
        ids, first, end = place
        kept = [position for position in range(len(ids)) if ids[position] != self._tokenizer.pad_token_id]
        row = [self._tokenizer.mask_token_id if first <= position < end else ids[position] for position in kept]
        return row, kept.index(first)


def replace_words(
    dataset: Dataset,
    tokenizer: Any,
    neighbours: Neighbours,
    masked: MaskedWords | None = None,
    samples: int = 20,
    probability: float = 0.4,
    keep_labels: bool = False,
    seed: int = 0,
) -> Dataset:
    """New rows, each a copy of one with some words replaced.

    For each word of a row a coin falls, and where it says so, a candidate is drawn that takes its place: one of
    `masked` where the word is a single piece, else one of `neighbours`; that of a word of several pieces is one piece,
    and the row so much shorter. Columns with one entry a token follow. Special tokens are left alone.

    Args:
        dataset: tokenised, with `input_ids`, for tasks with one label (or one set of them) an example.
        tokenizer: made the ids.
        neighbours: where words come from.
        masked: where words of a single piece come from instead; None: also from `neighbours`.
        samples: copies of each row. One that came out as the row itself, or as another, is left out.
        probability: of each word to be replaced.
        keep_labels: whether a copy keeps the labels of its row; else it has none (`IGNORED`), and only the teacher
            says what it is.
        seed: of the coins; a row's are the same whatever the other rows are.

    Returns:
        The new rows alone, in the order of those that they come from.

    Raises:
        ValueError: no `input_ids`, a number that cannot be, or labels of which none can be said to be missing.

    Reference: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, algorithm 1.
    Differs from the paper: neighbours are those of the table that is given, where the paper's are GloVe's; a masked
    word is read in its row alone.
    """
    if "input_ids" not in dataset.column_names:
        raise ValueError(
            f"words are replaced in input_ids, and there are {', '.join(dataset.column_names)}. Encode it."
        )
    if samples < 1 or not 0 < probability <= 1:
        raise ValueError(
            f"samples is {samples} and probability {probability}: at least 1, and above 0 to 1 are needed."
        )
    words, columns, features = Words(tokenizer), _columns_of_tokens(dataset), _features(dataset, keep_labels)
    made: list[dict[str, Any]] = []
    for numbers in _chunks(range(len(dataset)), 256):
        rows = [dataset[number] for number in numbers]
        drawn = [
            _draw(words.spans(row["input_ids"]), random.Random(f"{seed} {number}"), samples, probability)
            for row, number in zip(rows, numbers, strict=True)
        ]
        wanted = [
            (row, span) for row, copies in enumerate(drawn) for span in sorted({s for each in copies for s in each})
        ]
        places = [(rows[row]["input_ids"], *span) for row, span in wanted]
        found = dict(zip(wanted, _candidates(places, neighbours, masked), strict=True))
        for index, row in enumerate(rows):
            known = {span: found[index, span] for each in drawn[index] for span in each if found[index, span]}
            made += _copies(row if keep_labels else _unlabelled(row), columns, drawn[index], known)
    return Dataset.from_list(made, features=features) if made else dataset.select([]).cast(features)


def _check_candidates(candidates: int) -> None:
    if candidates < 1:
        raise ValueError(f"candidates is {candidates}; it must be at least 1, for a word to be drawn.")


def _draw(spans: list[Span], coins: random.Random, samples: int, probability: float) -> list[dict[Span, float]]:
    """For each copy the words that are replaced, and where in its candidates, 0 to 1, each draws."""
    return [{span: coins.random() for span in spans if coins.random() < probability} for _ in range(samples)]


def _candidates(places: Sequence[Place], neighbours: Neighbours, masked: MaskedWords | None) -> list[list[int]]:
    if masked is None:
        return neighbours(places)
    single = [end - first == 1 for _, first, end in places]
    likely = iter(masked([place for place, alone in zip(places, single, strict=True) if alone]))
    near = iter(neighbours([place for place, alone in zip(places, single, strict=True) if not alone]))
    return [next(likely) if alone else next(near) for alone in single]


def _copies(
    row: dict[str, Any], columns: list[str], drawn: list[dict[Span, float]], candidates: dict[Span, list[int]]
) -> Iterator[dict[str, Any]]:
    """The copies of one row that differ from it and from each other."""
    seen = {tuple(row["input_ids"])}
    for each in drawn:
        news = {
            span: candidates[span][int(at * len(candidates[span]))] for span, at in each.items() if span in candidates
        }
        dropped = {position for first, end in news for position in range(first + 1, end)}
        kept = [position for position in range(len(row["input_ids"])) if position not in dropped]
        copy = {**row, **{name: [row[name][position] for position in kept] for name in columns}}
        beginnings = {first: new for (first, _), new in news.items()}
        copy["input_ids"] = [beginnings.get(position, row["input_ids"][position]) for position in kept]
        if (ids := tuple(copy["input_ids"])) not in seen:
            seen.add(ids)
            yield copy


def _columns_of_tokens(dataset: Dataset) -> list[str]:
    """The columns that hold one entry a token in every row."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    lists = [name for name, kind in dataset.features.items() if isinstance(kind, List) and name not in LABELS]
    return [name for name in lists if [len(each) for each in dataset[name]] == lengths]


def _features(dataset: Dataset, keep_labels: bool) -> Features:
    """Of the new rows: labels can be missing.

    Raises:
        ValueError: they cannot.
    """
    features = dict(dataset.features)
    for name in [] if keep_labels else set(features) & set(LABELS):
        kind = features[name]
        one = getattr(kind, "feature", kind)
        if isinstance(one, ClassLabel):
            features[name] = List(Value("int64")) if isinstance(kind, List) else Value("int64")
        elif one.dtype.startswith("bool") or (one is kind and one.dtype.startswith("float")):
            raise ValueError(
                f"{name} holds {one.dtype}, of which none says that there is no label. Pass keep_labels=True, or take "
                "the column out."
            )
    return Features(features)


def _unlabelled(row: dict[str, Any]) -> dict[str, Any]:
    missing = {
        name: [IGNORED] * len(row[name]) if isinstance(row[name], list) else IGNORED for name in LABELS if name in row
    }
    return {**row, **missing}


def _chunks(items: Sequence[Any], size: int) -> Iterator[Any]:
    return (items[first : first + size] for first in range(0, len(items), size))
