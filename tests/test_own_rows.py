"""Rows that fill up the last batch are counted on one process only."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_distill import own_rows


def accelerator(index: int, remainder: int = 6, processes: int = 2, end: bool = True) -> Any:
    state = SimpleNamespace(end_of_dataloader=end, remainder=remainder)
    return SimpleNamespace(gradient_state=state, num_processes=processes, process_index=index)


@pytest.mark.parametrize(
    ("where", "own"),
    [
        (accelerator(0), 4),
        (accelerator(1), 2),
        (accelerator(1, remainder=3), 0),
        (accelerator(0, remainder=3), 3),
        (accelerator(1, end=False), 4),
        (accelerator(1, remainder=-1), 4),
        (accelerator(0, remainder=3, processes=1), 4),
    ],
)
def test_of_the_last_batch_each_process_has_its_share(where, own):
    assert own_rows.count(4, where) == own


def test_rows_are_cut_before_the_model_and_filled_after_it():
    inputs = {"input_ids": torch.arange(8).view(4, 2), "length": 4, "scalar": torch.tensor(4)}
    cut = own_rows.cut(inputs, 4, 3)
    assert cut["input_ids"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert (cut["length"], cut["scalar"]) == (4, inputs["scalar"])
    assert own_rows.fill(torch.ones(3, 2), 4, 3).tolist() == [[1, 1]] * 3 + [[0, 0]]
    assert own_rows.fill(None, 4, 3) is None


@pytest.mark.parametrize("own", [0, 4])
def test_no_model_runs_on_nothing(own):
    inputs, logits = {"input_ids": torch.ones(4, 2)}, torch.ones(4, 2)
    assert own_rows.cut(inputs, 4, own) is inputs
    assert own_rows.fill(logits, 4, own) is logits
