import pytest
import torch

from hf_distill.batch import masks
from hf_distill.tasks import Task


def test_rows_are_examples_also_where_images_are_several_an_example():
    inputs = {"pixel_values": torch.ones(7, 3, 2, 2), "input_ids": torch.ones(2, 5), "labels": torch.zeros(2)}
    assert masks.rows_of(inputs) == 2
    assert masks.rows_of({"pixel_values": torch.ones(7, 3, 2, 2)}) == 7
    assert masks.rows_of({"temperature": torch.tensor(1.0), "pixel_values": torch.ones(3, 1)}) == 3


@pytest.mark.parametrize(
    ("task", "stated", "expected"),
    [
        (Task.CAUSAL_LM, None, True),
        (Task.SINGLE_LABEL, None, False),
        (Task.SINGLE_LABEL, True, True),
        (Task.CAUSAL_LM, False, False),
    ],
)
def test_what_a_model_sees_is_the_models_word_and_else_the_tasks(task, stated, expected):
    assert masks.is_causal(task, stated) == expected


def test_pairs_by_hand():
    tokens = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
    assert masks.pairs_of(tokens, causal=False).int().tolist() == [
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 1], [0, 1, 1]],
    ]
    assert masks.pairs_of(tokens, causal=True).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 1, 0], [0, 1, 1]],
    ]


def test_a_decoders_labels_say_alone_what_counts():
    inputs = {"input_ids": torch.ones(1, 4), "labels": torch.tensor([[3, -100, 5]])}
    assert masks.predictions_of(inputs, Task.SEQ2SEQ).tolist() == [[True, False, True]]
    assert masks.targets_of(inputs, Task.SEQ2SEQ).tolist() == [[True, False, True]]


def test_spans_go_from_the_first_attended_position_to_the_last_whatever_lies_between():
    tokens = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()
    assert masks.spans_of(tokens).tolist() == [[0, 2], [2, 4], [1, 4], [0, 0]]
