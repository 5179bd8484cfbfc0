import torch
from transformers import TrainerState, default_data_collator

from hf_distill.augment import TwoViews
from hf_distill.teachers.swapped_views import ROW


def drawn(example, generator):
    return {**example, "input_ids": torch.rand(2, generator=generator).tolist()}


def at_epoch(epoch, seed=0):
    views = TwoViews(default_data_collator, drawn, seed)
    views.on_epoch_begin(None, TrainerState(epoch=epoch), None)
    return views


def examples(rows):
    return [{"input_ids": [0.0, 0.0], "labels": row, ROW: row} for row in rows]


def test_both_views_of_every_example_the_first_ones_first():
    batch = at_epoch(0)(examples([4, 7, 1]))
    assert batch["labels"].tolist() == batch[ROW].tolist() == [4, 7, 1, 4, 7, 1]
    assert len({tuple(view) for view in batch["input_ids"].tolist()}) == 6


def test_what_is_drawn_is_of_the_row_and_the_epoch_alone():
    first = at_epoch(None)(examples([4, 7, 1]))["input_ids"]
    assert torch.equal(first[[1, 4]], at_epoch(0)(examples([7]))["input_ids"])
    assert torch.equal(first[[1, 4]], at_epoch(0.75)(examples([7]))["input_ids"])  # resumed within the epoch
    for other in (at_epoch(1.0), at_epoch(0, seed=1)):
        assert not torch.equal(first[[1, 4]], other(examples([7]))["input_ids"])


def test_rows_of_an_evaluation_stay_as_they_are():
    plain = [{"input_ids": [1.0, 2.0], "labels": 3}]
    batch = at_epoch(0)(plain)
    assert ROW not in batch
    assert batch["input_ids"].tolist() == [[1.0, 2.0]]
