"""Embeddings made for a teacher: what each term does, and that more steps are nearer to what is wanted."""

import math

import pytest
import torch
from datasets import Dataset
from models import VOCABULARY, WIDTH
from runs import classifier, rows, words
from transformers import DataCollatorWithPadding

from hf_distill.augment import statistics
from hf_distill.augment.soft_inputs import Answering, Wanted, entropy, soft_inputs, table_of, uncertainty
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.tasks import Task

ONE, SEVERAL = Task.SINGLE_LABEL, Task.MULTI_LABEL


def decided(**fields):
    """A teacher whose answers differ between inputs."""
    model = classifier(**fields)
    with torch.no_grad():
        model.classifier.weight.mul_(10)
        model.classifier.bias.zero_()
    return model


def logits_of(model, embeddings):
    with torch.no_grad():
        return model(inputs_embeds=embeddings).logits


def test_uncertainty_and_entropy_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]])
    sure = [math.exp(2) / (math.exp(2) + 1 + math.e), math.exp(3) / (math.exp(3) + 2)]
    assert uncertainty(logits, ONE).item() == pytest.approx(-(math.log(sure[0]) + math.log(sure[1])) / 2)
    there = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-3))]
    assert uncertainty(logits, SEVERAL).item() == pytest.approx(-(math.log(there[0]) + math.log(there[1])) / 2)
    assert entropy(torch.eye(4) * 50, ONE).item() == pytest.approx(math.log(4), rel=1e-5)
    assert entropy(torch.eye(4)[[0] * 4] * 50, ONE).item() == pytest.approx(0, abs=1e-6)
    assert entropy(torch.eye(4) * 100 - 50, SEVERAL).item() == pytest.approx(math.log(4), rel=1e-5)


@pytest.mark.parametrize("several", [False, True])
def test_confidence_and_diversity_rise(several):
    fields = {"problem_type": "multi_label_classification"} if several else {}
    model, task = decided(**fields), SEVERAL if several else ONE
    start, end = (soft_inputs(model, 24, 5, steps=steps, batch_size=12) for steps in (0, 150))
    assert start.shape == end.shape == (24, 5, WIDTH)
    before, after = logits_of(model, start), logits_of(model, end)
    assert uncertainty(after, task) < 0.7 * uncertainty(before, task)
    assert entropy(after, task) > entropy(before, task)
    assert len(after.argmax(-1).unique()) == 3
    assert torch.equal(end, soft_inputs(model, 24, 5, steps=150, batch_size=12))
    assert not torch.equal(start, soft_inputs(model, 24, 5, steps=0, batch_size=12, seed=1))
    table = table_of(model)
    assert all((table == row).all(-1).any() for row in start.flatten(0, 1))  # it starts from tokens


def test_a_weight_of_0_takes_a_term_out():
    model = decided()
    sure = logits_of(model, soft_inputs(model, 12, 5, Wanted(diversity=0.0), steps=100))
    varied = logits_of(model, soft_inputs(model, 12, 5, Wanted(confidence=0.0), steps=100))
    assert uncertainty(sure, ONE) < uncertainty(varied, ONE)
    assert entropy(sure, ONE) < entropy(varied, ONE)


def test_published_statistics_come_nearer():
    model = classifier()
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 14, (40, 5), generator=generator).tolist()  # texts of a few words
    data = Dataset.from_dict({"input_ids": ids})
    published = statistics.measure(model, data, DataCollatorWithPadding(words()))

    def distance(embeddings):
        batch, capture = Batch({"inputs_embeds": embeddings}, ONE), Capture(model, statistics.signals_of(model))
        with torch.no_grad(), capture:
            outputs = model(inputs_embeds=embeddings)
        return statistics.distance(capture.take(outputs, batch), batch, published).item()

    alone, matched = (
        soft_inputs(model, 16, 5, Wanted(statistics=found, matching=10.0), steps=100) for found in (None, published)
    )
    start = soft_inputs(model, 16, 5, steps=0)
    assert distance(matched) < 0.5 * distance(start)
    assert distance(matched) < 0.5 * distance(alone)


def test_what_is_made_small_is_the_weighted_sum_and_the_model_is_left_as_it_was():
    model = classifier()
    model.requires_grad_(True)
    embeddings = table_of(model)[torch.tensor(rows(4)["input_ids"])]
    loss, logits = Answering(model, Wanted(confidence=2.0, diversity=3.0))(embeddings)
    expected = 2 * uncertainty(logits, ONE) - 3 * entropy(logits, ONE)
    assert loss.item() == pytest.approx(expected.item())
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    soft_inputs(model, 4, 5, steps=2)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert len(table_of(model)) == VOCABULARY
