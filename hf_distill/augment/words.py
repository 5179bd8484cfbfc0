"""Where the words of a row of token ids are, for any tokenizer that marks how its pieces hang together."""

from collections.abc import Sequence
from typing import Any

CONTINUES, BEGINS = "##", ("Ġ", "▁")  # WordPiece marks what goes on, the others mark what begins


class Words:
    """Tells the whole words of a vocabulary and the words of a row.

    A word is made of letters alone: numbers, punctuation, special tokens and unused entries are none.

    Args:
        tokenizer: `convert_ids_to_tokens`, `all_special_ids` and its length are used.

    Attributes:
        whole: ids of the tokens that are a whole word by themselves.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokens = [token or "" for token in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]
        special = set(tokenizer.all_special_ids)
        piecewise = any(token.startswith(CONTINUES) and len(token) > len(CONTINUES) for token in tokens)
        begins = tuple(mark for mark in BEGINS if not piecewise and any(token.startswith(mark) for token in tokens))
        bare = [token.removeprefix(CONTINUES) if piecewise else token.lstrip("".join(begins)) for token in tokens]
        self._letters = [text.isalpha() and index not in special for index, text in enumerate(bare)]
        self._goes_on = [
            text.isalnum() and (token.startswith(CONTINUES) if piecewise else bool(begins) and text == token)
            for token, text in zip(tokens, bare, strict=True)
        ]
        self._special = special
        self.whole = [
            index for index, letters in enumerate(self._letters) if letters and not self._goes_on[index]
        ]  # fmt: skip

    def spans(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """The words of a row: (first piece, after the last piece).

        Args:
            ids: of the row, special tokens and padding among them.
        """
        found: list[list[int]] = []
        for position, token in enumerate(ids):
            if token in self._special:
                continue
            if self._goes_on[token] and found and found[-1][1] == position:
                found[-1][1] += 1
            else:
                found.append([position, position + 1])
        return [(first, end) for first, end in found if all(self._letters[token] for token in ids[first:end])]
