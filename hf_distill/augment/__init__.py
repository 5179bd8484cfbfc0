"""What makes or changes inputs, so that there is more text to learn from than there was."""

from hf_distill.augment.word_replacement import MaskedWords, Neighbours, replace_words

__all__ = ["MaskedWords", "Neighbours", "replace_words"]
