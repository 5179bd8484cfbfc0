"""How one signal of one example lies in a file."""

import json

import numpy as np
import pytest
import torch
from caches import ragged
from models import tiny

from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import (
    EMBEDDINGS,
    LOGITS,
    ModelShape,
    attention,
    attention_scores,
    hidden,
    key,
    label_embeddings,
    pooled,
    query,
    value,
)
from hf_distill.tasks import Task
from hf_distill.teachers.cache.layout import (
    CLASSES,
    COUNTED,
    PAIRS,
    TOKENS,
    Layout,
    before_each,
    enough,
    heads_of,
    is_related,
    largest_of,
    layout_of,
    related_of,
    top_k_of,
)

BATCH = {"input_ids": torch.ones(2, 7).long()}
SHAPES = [
    (Task.SINGLE_LABEL, LOGITS, (2, 3), (3,)),
    (Task.SINGLE_LABEL, LOGITS, (2, 7), (7,)),  # as many classes as tokens
    (Task.TOKENS, LOGITS, (2, 7, 3), (TOKENS, 3)),
    (Task.CAUSAL_LM, LOGITS, (2, 7, 50), (TOKENS, 50)),
    (Task.SPAN, LOGITS, (2, 2, 7), (2, TOKENS)),
    (Task.SINGLE_LABEL, hidden(0), (2, 7, 32), (TOKENS, 32)),
    (Task.SINGLE_LABEL, hidden(EMBEDDINGS), (2, 7, 7), (TOKENS, 7)),
    (Task.SINGLE_LABEL, pooled("mean"), (2, 7), (7,)),
    (Task.MULTI_LABEL, label_embeddings(), (2, 7, 32), (7, 32)),
    (Task.SINGLE_LABEL, attention(1), (2, 4, 7, 7), (4, TOKENS, TOKENS)),
    (Task.SINGLE_LABEL, attention_scores(1), (2, 7, 7, 7), (7, TOKENS, TOKENS)),
    *((Task.SINGLE_LABEL, signal(1), (2, 4, 7, 8), (4, TOKENS, 8)) for signal in (query, key, value)),
]


@pytest.mark.parametrize(("task", "signal", "seen", "shape"), SHAPES)
def test_the_shape_of_an_example_says_which_axes_are_its_tokens(task, signal, seen, shape):
    layout = layout_of(signal, torch.zeros(seen), Batch(BATCH, task), "float32")
    assert layout == Layout(signal, shape, "float32")
    assert Layout.of_plain(json.loads(json.dumps(layout.plain()))) == layout
    assert layout.shape_of(7) == seen[1:]


def test_pictures_have_no_tokens_and_one_shape():
    batch = Batch({"pixel_values": torch.zeros(2, 3, 16, 16)}, Task.SINGLE_LABEL)
    assert layout_of(hidden(0), torch.zeros(2, 17, 32), batch, "float32").shape == (17, 32)
    assert layout_of(attention(0), torch.zeros(2, 4, 17, 17), batch, "float32").shape == (4, 17, 17)


def test_sound_whose_frames_are_not_those_of_the_mask_is_refused_with_the_reason():
    model = tiny("wav2vec2", "ForSequenceClassification")
    inputs = {"input_values": torch.randn(1, 1600), "attention_mask": torch.ones(1, 1600).long()}
    with torch.no_grad(), Capture(model, {LOGITS, hidden(0)}) as capture:
        seen = capture.take(model(**inputs), Batch(inputs, Task.SINGLE_LABEL))
    batch = Batch(inputs, Task.SINGLE_LABEL)
    assert layout_of(LOGITS, seen[LOGITS], batch, "float32").shape == (2,)
    with pytest.raises(ValueError, match=r"hidden\(0\) has 4 positions and the mask .* pass the model itself"):
        layout_of(hidden(0), seen[hidden(0)], batch, "float32")


@pytest.mark.parametrize(("task", "signal", "seen", "shape"), SHAPES)
def test_of_logits_beside_tokens_only_those_that_count_may_be_stored_and_of_nothing_else(task, signal, seen, shape):
    layout = layout_of(signal, torch.zeros(seen), Batch(BATCH, task), "float32", counted=task.per_token)
    fewer = signal == LOGITS and task.per_token
    assert layout.shape == ((COUNTED, *shape[1:]) if fewer else shape)
    assert layout.shape_of(7, 2)[0] == (2 if fewer else Layout(signal, shape, "float32").shape_of(7)[0])


@pytest.mark.parametrize(("classes", "number"), [(2**16, "uint16"), (2**16 + 1, "int32")])
def test_the_largest_logits_lie_beside_their_classes_in_as_few_bytes_as_hold_them(classes, number):
    logits, chosen = largest_of(Layout(LOGITS, (COUNTED, classes), "float16"), 4)
    assert logits == Layout(LOGITS, (COUNTED, 5), "float16")
    assert chosen == Layout(CLASSES, (COUNTED, 4), number)
    assert np.array([classes - 1]).astype(number).tolist() == [classes - 1]
    assert top_k_of([logits, chosen]) == 4
    assert top_k_of([logits]) is None


STORED = [*((signal, shape) for _, signal, _, shape in SHAPES), (LOGITS, (COUNTED, 3)), (CLASSES, (COUNTED, 2))]
STORED += [(value(1), (4, PAIRS))]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize(("signal", "shape"), STORED)
def test_examples_lie_one_after_the_other_without_padding_and_are_found_again(signal, shape, left):
    lengths = [len(row["input_ids"]) for row in ragged(5)]
    layout, longest, file = Layout(signal, shape, "float32"), max(lengths), []
    generator, counts = np.random.default_rng(0), []
    for length in lengths:
        wide = generator.random(layout.shape_of(longest, longest))
        start = longest - length if left else 0
        kept = np.zeros(longest, bool)
        kept[start : start + length] = generator.random(length) < 0.5
        counts.append(int(kept.sum()))
        file.append(wide[layout.inside(start, start + length, kept)])
    flat = np.concatenate([example.ravel() for example in file])
    before, expected = before_each(np.stack([lengths, counts], 1)).tolist(), [0, 0, 0, 0]
    for row, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        assert before[row] == expected
        assert file[row].shape == layout.shape_of(length, count)
        first = layout.start(before[row])
        assert (flat[first : first + file[row].size].reshape(file[row].shape) == file[row]).all()
        expected = [expected[0] + 1, expected[1] + length, expected[2] + length**2, expected[3] + count]
    assert layout.start(expected) == len(flat)


def test_relations_lie_in_the_place_of_states_and_are_known_by_their_shape():
    states, maps = Layout(query(1), (4, TOKENS, 8), "float16"), Layout(attention(1), (2, TOKENS, TOKENS), "float16")
    related = related_of(states, 16)
    assert related == Layout(query(1), (16, PAIRS), "float16")
    assert related.shape_of(5) == (16, 15)
    assert [is_related(layout) for layout in (states, maps, related)] == [False, False, True]
    assert heads_of([states, maps]) == {attention(1): 2}
    assert heads_of([maps, related]) == {attention(1): 2, query(1): 16}


def test_the_pairs_of_an_example_are_found_behind_padding():
    """Of five positions two are padding: positions 2, 3 and 4 stay, and their pairs with one another."""
    related = Layout(value(0), (2, PAIRS), "float32")
    batch = np.array([[later * 10 + earlier for later in range(5) for earlier in range(later + 1)]] * 2)
    assert batch[related.inside(2, 5)].tolist() == [[22, 32, 33, 42, 43, 44]] * 2
    assert batch[related.inside(0, 3)].tolist() == [[0, 10, 11, 20, 21, 22]] * 2


WIDE = ModelShape("Large", layers=2, width=64, heads=8, classes=3, key_heads=2, head_width=8)  # queries of 64, keys 16


@pytest.mark.parametrize(
    ("lengths", "heads", "fewer"),
    [
        ([7], 16, []),  # 16 heads x 28 pairs = 448 = 7 x 64: no fewer
        ([6], 16, [query(0)]),  # 336 of 384
        ([1, 20], 8, []),  # 8 x 211 = 1688 of 1344: the long one costs more than the short one saves
        ([1, 20], 4, [query(0)]),  # 844
        ([0, 0], 1, []),  # pictures have no tokens
        ([30], 1, [key(0), query(0), value(0)]),  # 465 of 480, and of 1920
    ],
)
def test_relations_are_kept_where_they_are_fewer_numbers_than_states(lengths, heads, fewer):
    asked = {query(0): heads, key(0): heads, value(0): heads, attention(0): 1}
    found = enough(asked, np.array(lengths), WIDE)
    assert found == {attention(0): 1} | dict.fromkeys(fewer, heads)
