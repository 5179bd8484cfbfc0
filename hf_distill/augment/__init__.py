"""What makes or changes inputs, one file a way: changed texts, moved embeddings, inputs without a text."""

from hf_distill.augment.two_views import TwoViews
from hf_distill.augment.word_dropout import word_dropout
from hf_distill.augment.word_replacement import MaskedWords, Neighbours, replace_words

__all__ = ["MaskedWords", "Neighbours", "TwoViews", "replace_words", "word_dropout"]
