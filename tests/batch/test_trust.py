"""What is trusted less counts less, in every kind of mean, and the divisor stays."""

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.batch.trust import trusted
from hf_distill.tasks import Task


def text(rows=2, tokens=3, **more):
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])[:rows, :tokens]
    return {"input_ids": torch.ones(rows, tokens, dtype=torch.long), "attention_mask": mask, **more}


def test_examples_predictions_tokens_and_pairs_of_a_classifier():
    batch = Batch(text(labels=torch.tensor([0, 1])), Task.SINGLE_LABEL, trust=torch.tensor([0.5, 0.0]))
    assert batch.mean(torch.tensor([3.0, 7.0]), over="predictions") == 0.5 * 3 / 2
    assert batch.mean(torch.tensor([3.0, 7.0]), over="targets") == 0.5 * 3 / 2
    assert batch.mean(torch.tensor([[3.0, 5.0], [7.0, 7.0]]), over="examples") == 0.5 * 4 / 2
    assert batch.mean(torch.full((2, 3), 2.0), over="tokens") == 0.5 * 3 * 2 / 5
    assert batch.mean(torch.full((2, 3, 3), 2.0), over="pairs") == pytest.approx(0.5 * 9 * 2 / 13)


def test_labels_one_by_one_or_their_mean():
    trust = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    inputs = text(labels=torch.ones(2, 2))
    values = torch.tensor([[1.0, 10.0], [4.0, 8.0]])
    plain, weighed = Batch(inputs, Task.MULTI_LABEL), Batch(inputs, Task.MULTI_LABEL, trust=trust)
    assert plain.mean(values, over="predictions") == plain.mean(values.sum(-1), over="predictions") == 23 / 2
    assert weighed.mean(values, over="predictions") == (1 + 2 + 8) / 2
    assert weighed.mean(torch.tensor([4.0, 8.0]), over="predictions") == (0.5 * 4 + 0.75 * 8) / 2


def test_tokens_one_by_one_and_of_a_layer_the_mean_of_those_that_count():
    labels = torch.tensor([[1, -100, 1], [1, 1, -100]])
    trust = torch.tensor([[0.5, 9.0, 1.0], [0.0, 1.0, 9.0]])  # the nines count nothing
    batch = Batch(text(labels=labels), Task.TOKENS, trust=trust)
    assert batch.mean(torch.full((2, 3), 2.0), over="predictions") == 2 * (0.5 + 1 + 0 + 1) / 4
    assert batch.mean(torch.full((2, 3), 2.0), over="tokens") == 2 * (3 * 0.75 + 2 * 0.5) / 5


def test_the_two_ends_of_a_span_apart():
    inputs = text(start_positions=torch.tensor([0, 1]), end_positions=torch.tensor([1, 1]))
    batch = Batch(inputs, Task.SPAN, trust=torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert batch.mean(torch.full((2, 2), 4.0), over="predictions") == 4 * 2 / 4
    assert batch.mean(torch.tensor([4.0, 8.0]), over="examples") == (0.5 * 4 + 0.5 * 8) / 2


def test_a_value_of_the_whole_batch_is_refused():
    with pytest.raises(ValueError, match="a value of the whole batch cannot be weighed row by row"):
        trusted(torch.tensor(1.0), torch.ones(2), "batch", torch.ones(2, dtype=torch.bool))
