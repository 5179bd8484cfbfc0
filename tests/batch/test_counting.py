"""What a micro-batch and a step hold, against a loop."""

import pytest
import torch

from hf_distill.batch import IGNORED
from hf_distill.batch.counting import COUNTED, count, count_step
from hf_distill.tasks import Task

MASK = [[1, 1, 1, 0], [1, 1, 0, 0]]
LABELS = [[1, IGNORED, 2, IGNORED], [IGNORED, 0, IGNORED, IGNORED]]
INPUTS = {"attention_mask": torch.tensor(MASK), "labels": torch.tensor(LABELS), "input_ids": torch.ones(2, 4).long()}


@pytest.mark.parametrize("causal", [False, True])
def test_by_hand(causal: bool) -> None:
    found = count(INPUTS, Task.TOKENS, causal)
    lengths = [sum(row) for row in MASK]
    pairs = [n * (n + 1) // 2 if causal else n * n for n in lengths]
    labelled = sum(label != IGNORED for row in LABELS for label in row)
    expected = [2, labelled, labelled, sum(lengths), sum(pairs)]
    assert [found[name].item() for name in COUNTED] == expected


def test_a_step_is_the_sum_of_its_micro_batches() -> None:
    one, step = count(INPUTS, Task.TOKENS), count_step([INPUTS, INPUTS, INPUTS], Task.TOKENS)
    assert {name: value.item() for name, value in step.items()} == {name: 3 * one[name].item() for name in COUNTED}
