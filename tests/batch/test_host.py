"""What is remembered of a batch on the host. The device is `meta`, which has no numbers to look at."""

import gc

import pytest
import torch
from transformers import BatchEncoding

from hf_distill.batch import Batch, host
from hf_distill.tasks import Task

META = torch.device("meta")


def inputs() -> dict:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    return {"input_ids": mask * 5, "attention_mask": mask, "labels": torch.tensor([[7, -100, 8, 9], [-100, 6, 6, 6]])}


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_a_moved_batch_is_known_by_its_own_tensors(kind):
    before = kind({**inputs(), "names": ["a", "b"]})
    there = host.moved(before, META)
    assert type(there) is kind
    assert there["names"] == ["a", "b"]
    assert all(there[name].is_meta for name in inputs())
    found = host.known(dict(there))
    assert found.keys() == before.keys()
    assert all(found[name] is before[name] for name in before)


def test_what_stays_where_it_is_or_is_no_batch_is_left_alone():
    before = inputs()
    there = host.moved(before, torch.device("cpu"))
    assert all(there[name] is before[name] for name in before)
    assert host.known(there) is None
    assert host.moved([1], META) == [1]


def test_a_tensor_that_was_changed_or_put_there_is_not_known():
    for change in (
        lambda there: there["labels"].fill_(3),
        lambda there: there.update(labels=there["labels"].clone()),
        lambda there: there.update(more=torch.empty(2, device=META)),
    ):
        there = host.moved(inputs(), META)
        change(there)
        assert host.known(there) is None
    there = host.moved(inputs(), META) | {"more": torch.ones(2)}
    assert host.known(there)["more"] is there["more"]


def test_nothing_is_kept_longer_than_the_batch():
    before = len(host._KNOWN)
    there = host.moved(inputs(), META)
    assert len(host._KNOWN) == before + 3
    del there
    gc.collect()
    assert len(host._KNOWN) == before


@pytest.mark.parametrize(("task", "expected"), [(Task.MASKED_LM, [0, 2, 5]), (Task.CAUSAL_LM, [1, 4])])
def test_which_rows_count_is_known_without_asking_the_device(task, expected):
    there = Batch(host.moved(inputs(), META), task)
    assert there.on_host.labels.tolist() == Batch(inputs(), task).labels.tolist()
    assert there.on_host.counted_rows.tolist() == Batch(inputs(), task).counted_rows.tolist() == expected
    assert there.counted_rows.is_meta
    assert there.counted_rows.shape == (len(expected),)
    here = Batch(inputs(), task)
    assert here.on_host is here
