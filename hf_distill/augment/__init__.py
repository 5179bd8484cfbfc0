"""What makes or changes inputs, so that there is more text to learn from than there was."""

from hf_distill.augment.two_views import TwoViews
from hf_distill.augment.word_dropout import word_dropout
from hf_distill.augment.word_replacement import MaskedWords, Neighbours, replace_words

__all__ = ["MaskedWords", "Neighbours", "TwoViews", "replace_words", "word_dropout"]
