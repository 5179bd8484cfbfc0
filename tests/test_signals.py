import dataclasses

import pytest

from hf_distill.signals import (
    EMBEDDINGS,
    LOGITS,
    TASK_LOSS,
    Signal,
    attention,
    attention_scores,
    hidden,
    key,
    pooled,
    query,
    value,
)

EVERY = [
    LOGITS,
    TASK_LOSS,
    hidden(1),
    hidden(-1),
    hidden(EMBEDDINGS),
    pooled(),
    pooled("last"),
    pooled("mean"),
    *(make(1) for make in (attention, attention_scores, query, key, value)),
]


def test_a_signal_is_its_own_key():
    assert {hidden(3): "three"}[hidden(3)] == "three"
    assert hidden(3) == Signal("hidden", 3)
    assert len(set(EVERY)) == len(EVERY)


def test_a_signal_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LOGITS.kind = "hidden"


def test_a_signal_reads_as_it_is_made():
    assert [str(signal) for signal in EVERY] == [
        "logits",
        "task_loss",
        "hidden(1)",
        "hidden(-1)",
        "hidden(embeddings)",
        "pooled(first)",
        "pooled(last)",
        "pooled(mean)",
        "attention(1)",
        "attention_scores(1)",
        "query(1)",
        "key(1)",
        "value(1)",
    ]


def test_layer_zero_is_a_layer():
    assert str(hidden(0)) == "hidden(0)"
