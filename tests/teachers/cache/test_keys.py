"""What an example is called: the same wherever it stands, another one as soon as the teacher reads something else."""

import numpy as np
import pytest
import torch
from caches import padded, ragged
from models import inputs_of, tiny

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.tasks import Task
from hf_distill.teachers.cache.keys import keys_of, names_of

TOKENS = ["attention_mask", "input_ids"]


def keys(inputs, names=None):
    return keys_of(inputs, names or TOKENS, Batch(inputs, Task.SINGLE_LABEL).tokens)


def test_an_example_has_one_key_whatever_stands_beside_it_and_however_it_is_padded():
    rows = list(ragged(8))
    expected, _ = keys(padded(rows))
    assert len({key.tobytes() for key in expected}) == 8
    for batch in (padded(rows, left=True), padded(rows, more=3), padded(rows, left=True, more=5)):
        assert (keys(batch)[0] == expected).all()
    order = [5, 2, 7, 0]
    assert (keys(padded([rows[place] for place in order]))[0] == expected[order]).all()
    assert (np.concatenate([keys(padded([row]))[0] for row in rows]) == expected).all()


def test_spans_say_where_in_the_batch_the_example_lies():
    rows = [{"input_ids": [5] * length} for length in (4, 1, 3)]
    assert keys(padded(rows))[1].tolist() == [[0, 4], [0, 1], [0, 3]]
    assert keys(padded(rows, left=True))[1].tolist() == [[0, 4], [3, 4], [1, 4]]
    nothing = {"input_ids": torch.zeros(1, 4).long(), "attention_mask": torch.zeros(1, 4).long()}
    assert keys(nothing)[1].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": [[7, 8, 5]]},
        {"input_ids": [[8, 7, 9]]},
        {"input_ids": [[7, 8]], "attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]},
        {"input_ids": [[7, 8, 9, 0]], "attention_mask": [[1, 1, 1, 1]], "token_type_ids": [[0, 0, 0, 0]]},
        {"attention_mask": [[1, 0, 1]]},
        {"token_type_ids": [[0, 0, 1]]},
    ],
    ids=["id", "order", "shorter", "padding attended", "hole", "token type"],
)
def test_what_the_teacher_reads_differently_has_another_key(change):
    names = [*TOKENS, "token_type_ids"]
    plain = {"input_ids": [[7, 8, 9]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 0]]}
    one, other = ({name: torch.tensor(value) for name, value in each.items()} for each in (plain, plain | change))
    assert keys(one, names)[0].tolist() != keys(other, names)[0].tolist()


def test_how_wide_the_collator_makes_the_numbers_is_no_difference():
    batch = padded(list(ragged(4)))
    narrow = {"input_ids": batch["input_ids"].int(), "attention_mask": batch["attention_mask"].bool()}
    assert (keys(batch)[0] == keys(narrow)[0]).all()


@pytest.mark.parametrize("family", ["vit", "wav2vec2"])
def test_pictures_and_sound_have_keys_too(family):
    inputs = inputs_of(tiny(family))
    found, spans = keys(inputs, list(inputs))
    assert len({key.tobytes() for key in found}) == 3
    again = {name: value.clone() for name, value in inputs.items()}
    again[next(iter(inputs))][1].view(-1)[7] += 1e-3
    assert (keys(again, list(inputs))[0] == found).all(1).tolist() == [True, False, True]
    assert spans.tolist() == ([[0, 0]] * 3 if family == "vit" else [[0, 1600], [0, 1280], [0, 960]])


def test_the_same_numbers_in_another_shape_are_another_picture():
    wide = {"pixel_values": torch.arange(24.0).view(1, 3, 2, 4)}
    high = {"pixel_values": torch.arange(24.0).view(1, 3, 4, 2)}
    assert keys(wide, ["pixel_values"])[0].tolist() != keys(high, ["pixel_values"])[0].tolist()


def test_the_teacher_reads_what_its_forward_names_and_no_labels():
    model = tiny("bert", "ForQuestionAnswering")
    batch = padded(list(ragged(2))) | {"hint": torch.ones(2), "return_dict": True, "position_ids": torch.tensor(1)}
    batch |= {name: torch.zeros(2) for name in ("start_positions", "end_positions", "label")}
    assert names_of(anatomy.forward_names(model), batch) == TOKENS
