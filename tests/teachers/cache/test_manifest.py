"""What a cache says of itself, and how it is known whether a teacher is the same."""

import copy
import json
import os

import pytest
import torch
import transformers
from models import tiny
from peft import LoraConfig, get_peft_model
from runs import classifier, exactly, words

from hf_distill import anatomy
from hf_distill.signals import EMBEDDINGS, LOGITS, hidden, pooled
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.cache.layout import Layout
from hf_distill.teachers.cache.manifest import (
    MANIFEST,
    Manifest,
    described,
    difference,
    fingerprint,
    skeleton,
    write_json,
)


def manifest() -> Manifest:
    layouts = [Layout(LOGITS, (3,), "float32"), Layout(hidden(EMBEDDINGS), (-1, 32), "float16")]
    layouts.append(Layout(pooled("mean"), (32,), "float32"))
    files = {"shards/a/keys.npy": {"bytes": 3, "blake2b": "00"}}
    return Manifest(fingerprint(classifier()), ["input_ids"], layouts, ["a", "b"], "index-2", 2, files)


def test_it_is_read_as_it_was_written(tmp_path):
    assert Manifest.read(tmp_path) is None
    manifest().write(tmp_path)
    assert Manifest.read(tmp_path) == manifest()
    assert [file.name for file in tmp_path.iterdir()] == [MANIFEST]


def test_a_broken_one_and_one_of_another_version_are_refused(tmp_path):
    manifest().write(tmp_path)
    file = tmp_path / MANIFEST
    text = file.read_text()
    file.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match=r"manifest\.json is broken \(.*\)\. Remove the folder, and cache anew\."):
        Manifest.read(tmp_path)
    file.write_text(json.dumps(json.loads(text) | {"version": 0}))
    with pytest.raises(ValueError, match=r"manifest\.json is of another version than 2\. Cache anew in another"):
        Manifest.read(tmp_path)


def test_a_write_that_was_killed_leaves_the_former_one_and_is_written_over(tmp_path, monkeypatch):
    write_json(tmp_path / "it.json", {"first": 1})
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "it.json", {"second": 2})
    monkeypatch.setattr(os, "replace", real)
    assert json.loads((tmp_path / "it.json").read_text()) == {"first": 1}
    write_json(tmp_path / "it.json", {"third": 3})
    assert json.loads((tmp_path / "it.json").read_text()) == {"third": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["it.json"]


def test_size_and_hash_say_whether_a_file_is_the_same(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a" * 3_000_000)
    before = described(file)
    assert before["bytes"] == 3_000_000
    file.write_bytes(b"a" * 2_999_999 + b"b")
    assert described(file)["bytes"] == before["bytes"]
    assert described(file) != before


# --- the same teacher


def test_a_teacher_that_was_saved_and_loaded_again_is_the_same(tmp_path):
    model = classifier(id2label={0: "a", 1: "b"})
    before = fingerprint(model, words())
    model.save_pretrained(tmp_path)
    again = fingerprint(type(model).from_pretrained(tmp_path), words())
    assert difference(before, again) is None
    assert json.loads(json.dumps(before)) == again, "as it comes out of the manifest"


def changed(what: str):
    model = classifier()
    if what == "weights":
        with torch.no_grad():
            model.classifier.bias[0] += 1e-6
    elif what == "buffer":
        model.register_buffer("scale", torch.tensor(2.0))
    elif what == "dtype":
        model = model.to(torch.bfloat16)
    elif what == "task":
        model.config.problem_type = "multi_label_classification"
    elif what == "adapter":
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2)).eval()
    else:
        setattr(model.config, what, 1e-3)
    return model


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("weights", "weights is {theirs[weights]} there and {mine[weights]} here"),
        ("buffer", "weights is {theirs[weights]} there and {mine[weights]} here"),
        ("adapter", "weights is {theirs[weights]} there and {mine[weights]} here"),
        ("dtype", "dtype is float32 there and bfloat16 here"),
        ("task", "task is single_label there and multi_label here"),
        ("layer_norm_eps", "config.layer_norm_eps is 1e-12 there and 0.001 here"),
        ("something_new", "config.something_new is None there and 0.001 here"),
    ],
)
def test_the_first_field_that_differs_is_named(what, said):
    theirs, mine = fingerprint(classifier()), fingerprint(changed(what))
    assert difference(theirs, mine) == said.format(theirs=theirs, mine=mine)
    assert difference(theirs, theirs) is None


def test_another_architecture_is_named_first():
    theirs, mine = fingerprint(classifier()), fingerprint(classifier("distilbert"))
    assert difference(theirs, mine) == (
        "architecture is BertForSequenceClassification there and DistilBertForSequenceClassification here"
    )


def test_another_tokenizer_is_a_difference_and_none_at_all_is_not():
    theirs = fingerprint(classifier(), words())
    assert difference(theirs, fingerprint(classifier(), words())) is None
    assert difference(theirs, fingerprint(classifier())) is None
    assert difference(fingerprint(classifier()), theirs) is None
    assert difference(theirs, fingerprint(classifier(), object())) is None, "an image processor has no words"
    assert "tokenizer is " in difference(theirs, fingerprint(classifier(), words(shift=1)))
    assert difference(theirs, {"tokenizer": theirs["tokenizer"]}) is None, "where nothing else is known"


# --- a teacher without its weights


@pytest.mark.parametrize(
    ("family", "head", "fields"),
    [
        ("bert", "ForSequenceClassification", {"id2label": {0: "a", 1: "b"}, "problem_type": None}),
        ("bert", "ForTokenClassification", {"num_labels": 3}),
        ("llama", "ForCausalLM", {}),
        ("vit", "ForImageClassification", {"num_labels": 3}),
        ("deberta_v2", "Model", {}),
    ],
)
def test_the_skeleton_is_the_teacher_without_its_weights(family, head, fields):
    model = tiny(family, head, **fields)
    bones = skeleton(json.loads(json.dumps(fingerprint(model))))
    assert type(bones) is type(model)
    assert not bones.training
    assert all(parameter.is_meta for parameter in bones.parameters())
    assert anatomy.describe(bones) == anatomy.describe(model)
    assert find_task(bones) is find_task(model)
    assert bones.config.id2label == model.config.id2label


def test_the_skeleton_of_a_class_that_transformers_has_not_is_refused():
    class Mine(transformers.BertForSequenceClassification):
        pass

    found = fingerprint(Mine(copy.deepcopy(classifier().config)))
    assert found["task"] == Task.SINGLE_LABEL
    with pytest.raises(ValueError, match=exactly("Mine is no class of transformers. Pass the model too.")):
        skeleton(found)
