"""What a cache cannot answer: an example that is not there, another teacher, signals that change, a broken folder."""

import logging
import re
import shutil

import pytest
import torch
from caches import CPU, files, filled, live, padded, ragged
from datasets import Dataset
from models import tiny
from runs import classifier, distillation, exactly, words

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, Sobolev, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, attention, hidden, input_gradient
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.cache.fill import Filler

WANTED = frozenset({LOGITS, hidden(0)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve rows, answered by `classifier(seed=1)`."""
    return filled(tmp_path_factory.mktemp("cache"), signals=WANTED).folder


def prepared(folder, model=None, wanted=WANTED, tokenizer=None, **settings) -> CachedTeacher:
    found = CachedTeacher(folder, model, **settings)
    found.prepare(classifier(), frozenset(wanted), CPU, tokenizer)
    return found


def batch_of(rows) -> Batch:
    return Batch(padded(list(rows)), Task.SINGLE_LABEL)


# --- an example that is not there


@pytest.mark.parametrize("loaded", [True, False])
def test_rows_that_an_evaluation_would_not_find_are_known_beforehand(folder, tmp_path, monkeypatch, loaded):
    answering = prepared(folder, classifier(seed=1) if loaded else None)
    there, more = ragged(), ragged(13)
    for data in (there, {"a": there, "b": list(there)[:2]}, None, [], there.to_iterable_dataset()):
        answering.check_evaluation(data, padded)
    message = f"eval_dataset has rows that are not in {folder}, and the first evaluation would ask for them. Call "
    for data in (more, {"a": there, "b": more}, list(more)):
        with pytest.raises(ValueError, match=exactly(message + 'fill with it too, or pass missing="live".')):
            answering.check_evaluation(data, padded)
    prepared(folder, classifier(seed=1), missing="live").check_evaluation(more, padded)
    prepared(tmp_path, classifier(seed=1)).check_evaluation(more, padded)  # the first step says that nothing is there
    half = prepared(tmp_path, classifier(seed=1), dtype="float16")
    half.fill(more, padded)
    prepared(tmp_path, classifier(seed=1)).check_evaluation(more, padded)  # whatever the dtype of what is there
    monkeypatch.setattr(Filler, "holds", lambda *_: pytest.fail("it has just been filled"))
    half.check_evaluation({"validation": more}, padded)


@pytest.mark.parametrize("loaded", [True, False])
def test_an_unknown_example_is_an_error_that_names_the_cure(folder, loaded):
    answering = prepared(folder, classifier(seed=1) if loaded else None)
    rows = [*ragged(2), {"input_ids": [7, 8, 9, 10], "labels": 0}, *ragged(1, seed=9)]
    message = f"row 2 of the batch (4 tokens) is not in {folder}, which holds 12 examples. It is new, or was "
    message += 'tokenised in another way: call fill with it, or pass missing="live".'
    with pytest.raises(ValueError, match=exactly(message)):
        answering.observe(batch_of(rows))


def test_an_unknown_example_is_answered_live_where_that_was_asked_for(folder):
    model, asked = classifier(seed=1), []
    answering = prepared(folder, model, missing="live")
    model.register_forward_pre_hook(lambda *_: asked.append(1))
    answering.observe(batch_of(ragged()))
    assert not asked
    batch = batch_of([*ragged(2), *ragged(3, seed=9)])
    seen = answering.observe(batch)
    assert len(asked) == 1
    for signal, expected in live(model, WANTED, batch, classifier()).items():
        assert torch.equal(seen[signal], expected)


@pytest.mark.parametrize("missing", ["error", "live"])
def test_an_input_that_was_not_there_when_the_answers_were_cached_gives_no_wrong_row(folder, missing):
    inputs = padded(list(ragged(3)))
    batch = Batch(inputs | {"token_type_ids": torch.ones_like(inputs["input_ids"])}, Task.SINGLE_LABEL)
    answering = prepared(folder, classifier(seed=1), missing=missing)
    if missing == "live":
        seen, untyped = answering.observe(batch), answering.observe(Batch(inputs, Task.SINGLE_LABEL))
        assert torch.equal(seen[LOGITS], live(classifier(seed=1), WANTED, batch, classifier())[LOGITS])
        assert not torch.allclose(seen[LOGITS], untyped[LOGITS])
    else:
        said = "the teacher read attention_mask, input_ids when its answers were cached, and of this batch it reads "
        said += "attention_mask, input_ids, token_type_ids. Make the batches as they were, or cache anew, in another "
        with pytest.raises(ValueError, match=exactly(said + "folder.")):
            answering.observe(batch)


def test_rows_that_come_later_are_answered_after_another_fill(folder, tmp_path):
    grown = shutil.copytree(folder, tmp_path / "grown")
    answering, model = prepared(grown, classifier(seed=1)), classifier(seed=1)
    answering.fill([ragged(4, seed=9)], padded)
    for rows in (ragged(4, seed=9), ragged()):
        batch = batch_of(rows)
        expected = live(model, {LOGITS}, batch, classifier())
        torch.testing.assert_close(answering.observe(batch)[LOGITS], expected[LOGITS])


# --- nothing is there yet


def test_before_fill_there_is_nothing_or_a_live_answer(tmp_path):
    batch = batch_of(ragged(2))
    with pytest.raises(ValueError, match=exactly(f"nothing is cached in {tmp_path} yet. Call fill before training.")):
        prepared(tmp_path, classifier(seed=1)).observe(batch)
    seen = prepared(tmp_path, classifier(seed=1), missing="live").observe(batch)
    assert torch.equal(seen[LOGITS], live(classifier(seed=1), WANTED, batch, classifier())[LOGITS])
    assert not list(tmp_path.iterdir())


def test_fill_needs_to_know_the_losses_and_the_model(folder, tmp_path):
    with pytest.raises(ValueError, match="fill comes after the trainer is made: its losses say what is to be cached"):
        CachedTeacher(tmp_path, classifier(seed=1)).fill([ragged()], padded)
    prepared(folder).fill([ragged()], padded)  # all of it is there
    with pytest.raises(ValueError, match="was opened without its teacher: pass the model too to add examples"):
        prepared(folder).fill([ragged(13)], padded)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "is no finished cache. Pass the model too and call fill, or run hf-distill cache RECIPE."),
        ({"missing": "live"}, 'missing="live" asks the model. Pass it too.'),
        ({"missing": "ask"}, "dtype is one of float32, float16, missing is error or live; not float32, ask."),
        ({"dtype": "int8"}, "dtype is one of float32, float16, missing is error or live; not int8, error."),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(tmp_path, settings, said):
    with pytest.raises(ValueError, match=rf"{re.escape(said)}\Z"):
        CachedTeacher(tmp_path / "cache", **settings)
    assert not (tmp_path / "cache").exists()


# --- a model that is loaded only if something is missing


def loading(loaded, seed=1):
    def load():
        loaded.append(classifier(seed=seed))
        return loaded[-1]

    return load


def test_a_function_is_called_for_rows_that_are_missing_and_for_nothing_else(folder, tmp_path):
    grown, loaded = shutil.copytree(folder, tmp_path / "grown"), []
    answering = prepared(grown, loading(loaded))
    answering.fill([ragged(5)], padded)
    assert answering.observe(batch_of(ragged())).keys() == WANTED
    assert not loaded
    assert all(parameter.is_meta for parameter in answering.model.parameters())
    answering.fill([ragged(5), ragged(4, seed=9)], padded)
    assert answering.model is loaded[0]
    batch = batch_of(ragged(4, seed=9))
    torch.testing.assert_close(
        answering.observe(batch)[LOGITS], live(classifier(seed=1), {LOGITS}, batch, classifier())[LOGITS]
    )
    assert len(loaded) == 1


def test_a_function_is_called_for_a_live_answer_and_at_once_where_nothing_is_cached_yet(folder, tmp_path):
    loaded = []
    answering = prepared(folder, loading(loaded), missing="live")
    answering.observe(batch_of(ragged()))
    assert not loaded
    batch = batch_of(ragged(3, seed=9))
    expected = live(classifier(seed=1), WANTED, batch, classifier())
    assert torch.equal(answering.observe(batch)[LOGITS], expected[LOGITS])
    answering.observe(batch)
    assert len(loaded) == 1
    prepared(tmp_path / "new", loading(loaded)).fill([ragged()], padded)
    assert len(loaded) == 2


def test_a_function_that_loads_another_teacher_is_refused_before_it_answers(folder, tmp_path):
    grown = shutil.copytree(folder, tmp_path / "grown")
    with pytest.raises(ValueError, match="holds the answers of another teacher: weights is "):
        prepared(grown, loading([], seed=2)).fill([ragged(4, seed=9)], padded)
    with pytest.raises(ValueError, match="holds the answers of another teacher: weights is "):
        prepared(grown, loading([], seed=2), missing="live").observe(batch_of(ragged(3, seed=9)))


# --- another teacher than the one that filled the folder


def lower_precision():
    return classifier(seed=1).to(torch.bfloat16)


REFUSED = {
    "weights": (lambda: classifier(seed=2), {}, "weights is "),
    "config": (lambda: classifier(seed=1, layer_norm_eps=1e-6), {}, "config.layer_norm_eps is 1e-12 there and 1e-06 "),
    "dtype": (lower_precision, {}, "dtype is float32 there and bfloat16 here"),
    "architecture": (lambda: classifier("distilbert", seed=1), {}, "architecture is BertForSequenceClassification "),
    "tokenizer": (lambda: classifier(seed=1), {"tokenizer": words(shift=1)}, "tokenizer is "),
    "tokenizer, without the model": (lambda: None, {"tokenizer": words(shift=1)}, "tokenizer is "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_answers_of_another_teacher_are_refused_with_the_field_that_differs(tmp_path, what):
    make, settings, said = REFUSED[what]
    answering = prepared(tmp_path, classifier(seed=1), tokenizer=words())
    answering.fill([ragged()], padded)
    assert prepared(tmp_path, classifier(seed=1), tokenizer=words())
    start = re.escape(f"{tmp_path} holds the answers of another teacher: {said}")
    with pytest.raises(ValueError, match=rf"\A{start}.*\. Cache anew, in another folder\.\Z"):
        prepared(tmp_path, make(), **{"tokenizer": words(), **settings})


@pytest.mark.parametrize("loaded", [True, False])
def test_signals_that_are_not_there_are_refused_by_name(folder, loaded):
    message = f"{folder} holds hidden(0), logits, and the losses ask for attention(1), hidden(1) too. Cache anew, in "
    with pytest.raises(ValueError, match=exactly(message + "another folder.")):
        prepared(folder, classifier(seed=1) if loaded else None, {LOGITS, attention(1), hidden(-1)})
    assert prepared(folder, None, {LOGITS})


def test_a_student_that_does_not_belong_to_the_teacher_is_refused_without_the_model_too(folder):
    with pytest.raises(ValueError, match="the student has 5 labels, the teacher 3"):
        CachedTeacher(folder).prepare(classifier(num_labels=5), WANTED, CPU, None)
    with pytest.raises(ValueError, match="layer 4 does not exist: BertForSequenceClassification has 2 layers"):
        distillation(folder, classifier(), CachedTeacher(folder), [HiddenMSE({0: 4})], ragged(), data_collator=padded)


def test_a_damaged_folder_is_refused_on_opening(folder, tmp_path):
    damaged = shutil.copytree(folder, tmp_path / "damaged")
    (file,) = damaged.rglob("hidden_0.bin")
    file.write_bytes(file.read_bytes()[:-4])
    for model in (None, classifier(seed=1)):
        with pytest.raises(ValueError, match=r"the cache is damaged: .*hidden_0\.bin is .* Remove .*, and cache anew"):
            CachedTeacher(damaged, model)


# --- what changes in every step


def test_derivatives_along_changing_directions_are_refused_with_the_reason(tmp_path):
    message = "input_gradient(0, 1) is along another direction in every step, and cannot be cached. Pass "
    message += 'missing="live", or the model itself as the teacher.'
    with pytest.raises(ValueError, match=exactly(message)):
        prepared(tmp_path, classifier(seed=1), {LOGITS, input_gradient(0)})


def test_derivatives_are_answered_live_where_that_was_asked_for(tmp_path, caplog):
    def run(teaching):
        settings = {"data_collator": padded, "max_steps": 2}
        trainer = distillation(tmp_path, classifier(), teaching, [Sobolev(), SoftTargets()], ragged(), **settings)
        if isinstance(teaching, CachedTeacher):
            teaching.fill([ragged()], padded)
        trainer.train()
        return [logs["sobolev"] for logs in trainer.state.log_history[:-1]]

    with caplog.at_level(logging.WARNING, "hf_distill"):
        found = run(CachedTeacher(tmp_path / "cache", classifier(seed=1), missing="live"))
    assert found == run(classifier(seed=1))
    assert "cannot be cached. The teacher answers live." in caplog.text
    assert not (tmp_path / "cache").exists()


def test_a_decoder_that_reads_the_labels_is_refused(tmp_path):
    student, model = (tiny("t5", "ForConditionalGeneration", seed) for seed in (0, 1))
    data = Dataset.from_dict({"input_ids": [[3, 4, 5]] * 8, "labels": [[6, 7, 2]] * 8})
    with pytest.raises(ValueError, match="A decoder reads what is made of the labels, and its answers cannot be"):
        distillation(tmp_path, student, CachedTeacher(tmp_path / "cache", model), [TaskLoss(), SoftTargets()], data)


def test_random_masking_is_refused_before_training_and_leaves_nothing_that_looks_finished(tmp_path):
    def masking(rows):
        batch = padded(rows)
        return batch | {"input_ids": torch.randint_like(batch["input_ids"], 3, 50)}

    answering = prepared(tmp_path, classifier(seed=1))
    with pytest.raises(ValueError, match="random masking or augmentation cannot be cached"):
        answering.fill([ragged()], masking)
    with pytest.raises(ValueError, match="is no finished cache"):
        CachedTeacher(tmp_path)
    assert not [name for name in files(tmp_path) if name.endswith(("shard.json", "manifest.json"))]
