"""A teacher in int8: what becomes of its answers, who learns from it, and what is refused."""

import copy
import sys

import pytest
import torch
from models import LABELS, inputs_of, tiny
from runs import classifier, distillation, rows, weights
from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig
from torchao.quantization.granularity import PerAxis
from transformers import AutoModelForSequenceClassification, TorchAoConfig

from hf_distill import students
from hf_distill.losses import HiddenMSE, LabelEmbeddings, SoftTargets
from hf_distill.report import size
from hf_distill.teachers import CachedTeacher, quantize
from hf_distill.teachers.cache.manifest import fingerprint


def by_hand(layer: torch.nn.Linear, entering: torch.Tensor) -> torch.Tensor:
    """Int8 with one scale a row of what enters and one an output, both symmetric."""
    scales = [side.abs().amax(-1, keepdim=True) / 127.5 for side in (entering, layer.weight)]
    rounded = [(side / scale).round() for side, scale in zip((entering, layer.weight), scales, strict=True)]
    return rounded[0] @ rounded[1].T * scales[0] * scales[1].T + layer.bias


def test_a_layer_multiplies_integers_with_a_scale_a_row():
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS)
    layer = copy.deepcopy(model.bert.encoder.layer[1].intermediate.dense)
    entering = torch.randn(3, 5, 32)
    assert quantize(model) is model
    with torch.no_grad():
        found = model.bert.encoder.layer[1].intermediate.dense(entering)
    expected = by_hand(layer, entering)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-2)  # a half rounds to another side here and there
    assert (found - expected).abs().mean() < 0.5 * (layer(entering) - expected).abs().mean()


def test_head_and_embeddings_stay_as_they_are():
    model = classifier(seed=1)
    before = weights(model)
    quantize(model)
    after = weights(model)
    outside = [name for name in before if ".layer." not in name]
    assert outside
    assert all(torch.equal(before[name], after[name]) for name in outside)
    assert type(after["bert.encoder.layer.0.attention.self.query.weight"]) is not torch.Tensor


def test_its_size_is_that_of_integers():
    plain, other = classifier(seed=1), quantize(classifier(seed=1))
    blocks = sum(p.numel() for name, p in plain.named_parameters() if ".layer." in name and p.dim() == 2)
    saved = size(plain).megabytes - size(other).megabytes
    assert size(plain).parameters == size(other).parameters
    assert 2.0e-6 * blocks < saved < 3.0e-6 * blocks  # 3 bytes a weight, less the scales of these narrow rows


def test_answers_stay_close():
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS)
    plain, inputs = copy.deepcopy(model), inputs_of(model)
    with torch.no_grad():
        expected, found = plain(**inputs).logits, quantize(model)(**inputs).logits
    assert not torch.equal(expected, found)
    assert (expected - found).abs().max() < 0.1 * expected.std()


def test_a_student_learns_from_it(tmp_path):
    losses = [SoftTargets(), HiddenMSE()]
    trainer = distillation(tmp_path, classifier(), quantize(classifier(seed=1)), losses)
    assert trainer.train().training_loss > 0


def test_label_embeddings_are_read_off_the_head(tmp_path):
    fields = {"problem_type": "multi_label_classification"}
    student, teacher = classifier(**fields), quantize(classifier(seed=1, **fields))
    loss = LabelEmbeddings()
    loss_of = distillation(tmp_path, student, teacher, [loss]).teacher
    assert loss_of.shape.classes == LABELS


def test_a_cache_knows_it_from_the_plain_one():
    plain, other = fingerprint(classifier(seed=1)), fingerprint(quantize(classifier(seed=1)))
    assert plain["weights"] != other["weights"]
    assert other["weights"] == fingerprint(quantize(classifier(seed=1)))["weights"]
    assert other["weights"] != fingerprint(quantize(classifier(seed=2)))["weights"]


@pytest.mark.parametrize(
    ("model", "kind", "said"),
    [
        (lambda: quantize(classifier()), "int8", "BertForSequenceClassification is quantised already"),
        (lambda: tiny("gpt2"), "int8", r"GPT2Model has no nn\.Linear in its blocks"),
        (classifier, "int4", "quantize='int4' is not known; use 'int8'"),
    ],
)
def test_what_cannot_be_quantised_is_refused(model, kind, said):
    made = model()
    with pytest.raises(ValueError, match=said):
        quantize(made, kind)


def test_without_torchao_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"pip install 'hf-distill\[int8\]'"):
        quantize(classifier())


def test_no_student_is_made_of_it():
    with pytest.raises(ValueError, match="is quantised: its weights cannot be copied"):
        students.keep_layers(quantize(classifier()), [0])


def loaded_by_transformers(folder, kind):
    """What `from_pretrained(quantization_config=)` gives: int8, or weights of 4 bits, head included."""
    model = classifier(seed=1)
    model.save_pretrained(folder)
    config = Int8WeightOnlyConfig()
    if kind == "int4":
        config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerAxis(0))
    settings = {"quantization_config": TorchAoConfig(config), "dtype": torch.float32}
    return model, AutoModelForSequenceClassification.from_pretrained(folder, **settings)


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.02), ("int4", 0.3)])
def test_a_model_that_transformers_loads_quantised_teaches_live_and_from_a_cache(tmp_path, kind, error):
    plain, teacher = loaded_by_transformers(tmp_path / "teacher", kind)
    losses, found = [SoftTargets(), HiddenMSE()], []
    for name, given in (("live", teacher), ("cache", CachedTeacher(tmp_path / "cache", teacher))):
        student = classifier()
        trainer = distillation(tmp_path / name, student, given, losses, eval_dataset=rows(8), optim="sgd")
        if name == "cache":
            given.fill([trainer.train_dataset, trainer.eval_dataset], trainer.data_collator)
        trainer.train()
        found.append(weights(student))
    assert all(type(layer.weight) is not torch.nn.Parameter for layer in teacher.modules() if is_linear(layer))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=1e-5)
    inputs = inputs_of(plain)
    with torch.no_grad():
        expected, answers = plain(**inputs).logits, teacher(**inputs).logits
    assert 0 < (answers - expected).abs().max() < error
    assert fingerprint(plain)["weights"] != fingerprint(teacher)["weights"]


def is_linear(layer):
    return isinstance(layer, torch.nn.Linear)
