"""Inputs that are made or changed."""

from hf_distill.augment.two_views import TwoViews
from hf_distill.augment.word_dropout import word_dropout

__all__ = ["TwoViews", "word_dropout"]
