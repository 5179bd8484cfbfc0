"""Layer statistics that an owner publishes, against moments taken layer by layer."""

import json

import pytest
import torch
from datasets import Dataset
from models import LAYERS, VOCABULARY, WIDTH, inputs_of, tiny
from runs import classifier, words
from transformers import DataCollatorWithPadding

from hf_distill.augment import statistics
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.tasks import Task

LENGTHS = (3, 8, 5, 8, 2)


def texts() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    return Dataset.from_dict(
        {"input_ids": [torch.randint(4, VOCABULARY, (length,), generator=generator).tolist() for length in LENGTHS]}
    )


def measured(model, size: int = 2) -> statistics.Statistics:
    return statistics.measure(model, texts(), DataCollatorWithPadding(words()), size)


def test_the_moments_are_those_of_single_texts_without_padding():
    model = tiny("bert", "ForSequenceClassification")
    states = []
    for row in texts():
        with torch.no_grad():
            outputs = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
        states.append(torch.stack([each[0] for each in outputs.hidden_states]))
    whole = torch.cat(states, 1)
    found = measured(model)
    assert found.tokens == sum(LENGTHS)
    assert found.mean.shape == (LAYERS + 1, WIDTH)
    torch.testing.assert_close(found.mean, whole.mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.variance, whole.var(1, unbiased=False), rtol=1e-3, atol=1e-5)


def test_the_distance_is_0_at_the_texts_themselves_and_by_hand_elsewhere():
    model = classifier()
    inputs = inputs_of(model)
    rows = [{"input_ids": ids[mask.bool()].tolist()} for ids, mask in zip(*inputs.values(), strict=True)]
    published = statistics.measure(model, rows, DataCollatorWithPadding(words()))

    def distance(given):
        batch, capture = Batch(given, Task.SINGLE_LABEL), Capture(model, statistics.signals_of(model))
        with capture:
            outputs = model(**given)
        return capture.take(outputs, batch), batch

    seen, batch = distance(inputs)
    assert statistics.distance(seen, batch, published).item() == pytest.approx(0, abs=1e-5)
    other = inputs_of(model, seed=5)
    seen, batch = distance(other)
    terms = []
    for layer, signal in enumerate(statistics.signals_of(model)):
        states = seen[signal][other["attention_mask"].bool()]
        mean, variance = published.mean[layer], published.variance[layer]
        gap = (states.mean(0) - mean) ** 2 / variance + (states.var(0, unbiased=False) / variance - 1) ** 2
        terms.append(gap.mean())
    expected = torch.stack(terms).mean().item()
    assert statistics.distance(seen, batch, published).item() == pytest.approx(expected, rel=1e-3)
    assert expected > 0.01


def test_they_are_saved_and_loaded_and_only_for_a_model_of_the_same_size(tmp_path):
    model = classifier()
    found = measured(model)
    statistics.save(found, tmp_path / "published")
    again = statistics.load(tmp_path / "published", model)
    assert torch.equal(again.mean, found.mean)
    assert torch.equal(again.variance, found.variance)
    facts = json.loads((tmp_path / "published" / "statistics.json").read_text())
    assert facts == {"version": 1, "tokens": sum(LENGTHS), "layers": 2, "width": WIDTH}
    with pytest.raises(ValueError, match="statistics of 2 layers of width 32, and the teacher has 4 of width 32"):
        statistics.load(tmp_path / "published", tiny("bert", "ForSequenceClassification"))
    with pytest.raises(ValueError, match=r"holds no statistics.safetensors and statistics.json. The teacher's owner"):
        statistics.load(tmp_path, model)
