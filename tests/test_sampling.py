"""Batches of like length: in which order, of which data, and the same after a resume."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from runs import classifier, distillation, rows

from hf_distill.sampling import LengthGrouped, differing_lengths, grouped

LENGTHS = torch.randint(2, 40, (400,), generator=torch.Generator().manual_seed(0)).tolist()


def ragged(lengths=LENGTHS) -> Dataset:
    return Dataset.from_dict({"input_ids": [[5] * length for length in lengths], "labels": [0] * len(lengths)})


def padding(order, size: int = 8) -> float:
    """The share of a run that is padding."""
    groups = [[LENGTHS[index] for index in group.tolist()] for group in torch.tensor(list(order)).split(size)]
    padded = sum(max(group) * len(group) for group in groups)
    return 1 - sum(LENGTHS) / padded


def order_of(trainer) -> list[int]:
    return list(trainer.get_train_dataloader().batch_sampler.sampler)


def test_every_example_once_and_little_padding():
    order = list(LengthGrouped(8, LENGTHS, 0, lambda: 0))
    assert sorted(order) == list(range(400))
    assert padding(order) < 0.25 * padding(range(400))


def test_every_epoch_has_its_order_and_a_seed_its_own_whatever_else_is_random():
    def order(seed, epoch):
        torch.rand(seed + epoch + 1)
        return list(LengthGrouped(8, LENGTHS, seed, lambda: epoch))

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1)
    assert order(7, 0) != order(0, 0)


def test_lengths_are_told_from_a_dataset():
    data = ragged()
    assert differing_lengths(data, "length", "input_ids") == LENGTHS
    some = data.select([5, 3, 3])
    assert differing_lengths(some, "length", "input_ids") == [LENGTHS[5], LENGTHS[3], LENGTHS[3]]
    assert differing_lengths(data.with_format("torch"), "length", "input_ids") == LENGTHS
    stated = data.add_column("words", list(range(400)))
    assert differing_lengths(stated, "words", "input_ids") == list(range(400))


@pytest.mark.parametrize(
    "dataset",
    [
        rows(),
        ragged().with_transform(lambda batch: batch),
        ragged().rename_column("input_ids", "text"),
        Dataset.from_dict({"input_ids": ["a", "bcd"]}),
        ragged([]),
        list(ragged()),
        ragged().to_iterable_dataset(),
        None,
    ],
    ids=["one length", "transformed", "not tokenised", "no lists", "empty", "list", "stream", "none"],
)
def test_where_lengths_are_the_same_or_not_quickly_told_nothing_is_grouped(dataset):
    assert differing_lengths(dataset, "length", "input_ids") is None


def test_a_trainer_groups_by_default_and_not_when_asked_for_another_order(tmp_path):
    def trainer(**settings):
        given = {"per_device_train_batch_size": 8, **settings}
        return distillation(tmp_path, classifier(), classifier(seed=1), data=ragged(), **given)

    found = order_of(trainer())
    assert padding(found) < 0.25 * padding(order_of(trainer(train_sampling_strategy="random")))
    assert order_of(trainer(train_sampling_strategy="sequential")) == list(range(400))
    assert order_of(trainer(per_device_train_batch_size=4, gradient_accumulation_steps=2)) == found
    assert order_of(trainer(data_seed=5)) != found


def test_the_second_epoch_is_another_order(tmp_path):
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), data=ragged())
    first = order_of(trainer)
    trainer.state.epoch = 1.0
    second = order_of(trainer)
    trainer.state.epoch = 1.5  # resumed in the middle
    assert first != second == order_of(trainer)


def test_images_are_left_as_they_are():
    images = Dataset.from_dict({"pixel_values": [[[[0.0] * 2] * 2] * 3] * 4, "labels": [0] * 4})
    assert differing_lengths(images, "length", "pixel_values") is None


def test_another_first_input_is_measured(tmp_path):
    sounds = Dataset.from_dict({"input_values": [[0.0] * length for length in LENGTHS]})
    args = SimpleNamespace(
        train_sampling_strategy="auto",
        length_column_name="length",
        train_batch_size=8,
        gradient_accumulation_steps=1,
        world_size=1,
        data_seed=None,
        seed=0,
    )
    found = grouped(sounds, args, SimpleNamespace(model_input_names=["input_values"]), lambda: 0)
    assert found is not None
    assert found.lengths == LENGTHS


@pytest.mark.parametrize(
    "columns",
    [
        {"input_ids": [[1, 2], None, [3]]},
        {"input_ids": [[1], [2, 3]], "length": ["short", "long"]},
        {"input_ids": [[1], [2, 3]], "length": [1, None]},
    ],
)
def test_what_are_no_lengths_is_left_alone(columns):
    assert differing_lengths(Dataset.from_dict(columns), "length", "input_ids") is None
