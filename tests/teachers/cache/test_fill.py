"""The teacher runs once over what is not cached yet: what is built, what a kill leaves, what is refused."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch
from caches import files, filled, filler, padded, ragged
from models import LABELS, tiny
from runs import classifier, exactly, words
from transformers import DataCollatorForLanguageModeling

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, attention, hidden
from hf_distill.tasks import Task
from hf_distill.teachers.cache import Cache, fill, shards
from hf_distill.teachers.cache.keys import counted_of, keys_of
from hf_distill.teachers.cache.manifest import Manifest
from hf_distill.top_k import largest

WANTED = (LOGITS, hidden(0))
FORK = multiprocessing.get_context("fork")  # a child that imports nothing


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(fill, "SHARD", 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Twelve rows, three shards of two batches each, built without an interruption."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fill, "SHARD", 4)
        return filled(tmp_path_factory.mktemp("whole"), signals=WANTED).folder


def watched(then=lambda call: None):
    """A teacher, and the token counts of each batch that it was asked; `then` is called with their number."""
    model, seen = classifier(seed=1), []

    def note(module, args, kwargs):
        seen.append(kwargs["attention_mask"].sum(1).tolist())
        then(len(seen))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return model, seen


def fields(row):
    """A row that only this collator understands."""
    return {"text": " ".join(map(str, row["input_ids"])), "hint": 1}


# --- what is built


def test_each_different_example_is_answered_once_beside_others_of_its_length(tmp_path):
    model, asked = watched()
    cache = filled(tmp_path, [*ragged(10), *ragged(10)], model=model)
    assert [len(batch) for batch in asked] == [3, 1, 3, 1, 2]
    assert [length for batch in asked for length in batch] == sorted(len(row["input_ids"]) for row in ragged(10))
    assert cache.manifest.examples == 10


def test_a_folder_is_the_same_whatever_the_order_of_the_rows(tmp_path, whole):
    data = ragged()
    filler(tmp_path, signals=WANTED).fill([data.select(range(11, 5, -1)), data.select(range(6)), data])
    assert files(tmp_path) == files(whole)
    names = {name.split("/", 2)[1] if name.startswith("shards") else name.split("/")[0] for name in files(whole)}
    assert names == {"manifest.json", "index-12", *Manifest.read(whole).shards}


def test_progress_is_told_shard_by_shard(tmp_path):
    said = []
    filler(tmp_path).fill([ragged(10)], lambda *done: said.append(done))
    assert said == [(0, 10), (4, 10), (8, 10), (10, 10)]
    filler(tmp_path).fill([ragged(10)], lambda *done: said.append("again"))
    assert "again" not in said


def test_float16_takes_half_the_space_and_is_read_as_float32(tmp_path, whole):
    full, half = Cache(whole, Manifest.read(whole)), filled(tmp_path, signals=WANTED, dtype="float16")
    where, starts = full._where[:], np.zeros(12, int)
    for wanted in WANTED:
        assert half.bytes_of(wanted) == full.bytes_of(wanted) / 2
        read, exact = (cache.read(wanted, where, starts, 9) for cache in (half, full))
        assert read.dtype == np.float32
        assert (read == exact.astype(np.float16)).all()
        assert not (read == exact).all()


# --- killed


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    raise KeyboardInterrupt


def in_a_child(function):
    def run():
        torch.set_num_threads(1)  # as in a data loader's worker
        function()

    child = FORK.Process(target=run)
    child.start()
    child.join(60)
    return child.exitcode


@pytest.mark.parametrize("end", [die, stop])
@pytest.mark.parametrize("call", [1, 4, 5], ids=["in the first shard", "in the second", "in the third"])
def test_killed_in_the_middle_of_a_shard_it_goes_on_from_the_last_whole_one(tmp_path, whole, end, call):
    model, _ = watched(lambda number: end() if number == call else None)

    def build():
        filler(tmp_path, model, WANTED).fill([ragged()])

    if end is die:
        assert in_a_child(build) == -signal.SIGKILL
    else:
        with pytest.raises(KeyboardInterrupt):
            build()
    left = (call - 1) // 2
    assert len(list(tmp_path.glob("shards/[!.]*"))) == left
    assert Manifest.read(tmp_path) is None
    model, asked = watched()
    said = []
    filler(tmp_path, model, WANTED).fill([ragged()], lambda *done: said.append(done))
    assert said[0] == (4 * left, 12)
    assert len(asked) == 2 * (3 - left)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(
    ("place", "name", "part"), [(np, "lexsort", ""), (shards, "described", "index-"), (os, "replace", "manifest.json")]
)
def test_killed_between_the_last_shard_and_the_manifest_it_ends_the_same(tmp_path, whole, place, name, part):
    real = getattr(place, name)

    def killed():
        setattr(place, name, lambda *given: die() if part in str(given) else real(*given))
        filler(tmp_path, signals=WANTED).fill([ragged()])

    assert in_a_child(killed) == -signal.SIGKILL
    assert len(list(tmp_path.glob("shards/[!.]*"))) == 3
    assert Manifest.read(tmp_path) is None
    filler(tmp_path, signals=WANTED).fill([ragged()])
    assert files(tmp_path) == files(whole)


def test_two_workers_share_the_work_and_build_what_one_builds(tmp_path, whole):
    calls, start = FORK.Value("i", 0), FORK.Barrier(2)

    def count(_):
        time.sleep(0.02)  # so that the other one has its share
        with calls.get_lock():
            calls.value += 1

    def build():
        torch.set_num_threads(1)
        model, _ = watched(count)
        start.wait(30)
        filler(tmp_path, model, WANTED).fill([ragged()])

    workers = [FORK.Process(target=build) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert calls.value == 6, "no shard is answered twice"
    assert files(tmp_path) == files(whole)


# --- rows that come later


def test_rows_that_come_later_are_added_and_what_is_there_stays(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "grown")
    before, more = files(tmp_path / "grown"), ragged(5, seed=1)
    model, asked = watched()
    cache = filled(tmp_path / "grown", [*more, *ragged()], model=model, signals=WANTED)
    assert sum(map(len, asked)) == 5
    assert cache.manifest.examples == 17
    assert cache.verify()
    after = files(tmp_path / "grown")
    assert {name: after.get(name) for name in before if name.startswith("shards/")} == {
        name: content for name, content in before.items() if name.startswith("shards/")
    }
    assert {name.split("/")[0] for name in after} == {"manifest.json", "shards", "index-17"}
    inputs = padded([*more, *ragged()])
    keys, _ = keys_of(inputs, cache.manifest.inputs, inputs["attention_mask"].bool())
    assert set(cache.find(keys)[:5, 0]) == {3, 4}
    assert set(cache.find(keys)[5:, 0]) == {0, 1, 2}


def test_killed_while_rows_are_added_the_cache_is_as_it_was_and_then_goes_on(tmp_path, whole):
    for name in ("alone", "killed"):
        shutil.copytree(whole, tmp_path / name)
    filled(tmp_path / "alone", ragged(9, seed=1), signals=WANTED)
    model, _ = watched(lambda number: stop() if number == 4 else None)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "killed", ragged(9, seed=1), model=model, signals=WANTED)
    assert Cache(tmp_path / "killed", Manifest.read(whole)).verify()
    filled(tmp_path / "killed", ragged(9, seed=1), signals=WANTED)
    assert files(tmp_path / "killed") == files(tmp_path / "alone")


def test_rows_are_added_with_every_signal_that_the_folder_holds(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "grown")
    cache = filled(tmp_path / "grown", ragged(3, seed=1), signals=(LOGITS,))
    assert set(cache.layouts) == set(WANTED)
    assert cache.bytes_of(LOGITS) == 15 * 3 * 4


def test_an_index_that_nobody_reads_any_more_is_removed(tmp_path, whole):
    shutil.copytree(whole, tmp_path / "grown")
    (tmp_path / "grown" / "index-3").mkdir()
    filled(tmp_path / "grown", ragged(3, seed=1), signals=WANTED)
    assert [path.name for path in tmp_path.glob("grown/index-*")] == ["index-15"]


# --- what the collator is given


def test_the_collator_is_given_what_it_is_given_in_training(tmp_path):
    data = ragged().add_column("text", ["left out"] * 12)

    def collate(rows):
        assert set(rows[0]) == {"input_ids", "labels"}
        return padded(rows)

    filled(tmp_path / "labels", data, collate=collate)
    unlabelled = ragged(3, seed=1).remove_columns("labels")
    without = filler(tmp_path / "some", collate=lambda rows: padded([{"input_ids": row["input_ids"]} for row in rows]))
    assert without.fill([data, unlabelled]).examples == 15


def test_a_collator_that_makes_the_inputs_itself_is_given_its_columns(tmp_path, whole):
    data = ragged().map(fields, remove_columns=ragged().column_names)

    def collate(rows):
        return padded([{"input_ids": [int(word) for word in row["text"].split()]} for row in rows])

    filled(tmp_path, data, collate=collate, signals=WANTED)
    assert files(tmp_path) == files(whole)


def test_random_masking_is_refused_with_the_reason(tmp_path):
    tokenizer = words()
    tokenizer.mask_token = "[UNK]"
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.5)
    message = "the collator made other inputs of the same row when it was asked again: random masking or augmentation "
    message += "cannot be cached. Pass the model itself as the teacher."
    with pytest.raises(ValueError, match=exactly(message)):
        filled(tmp_path, collate=collate)
    assert Manifest.read(tmp_path) is None


def test_rows_without_a_column_that_was_read_are_refused(tmp_path):
    def typed(rows):
        batch = padded(rows)
        return batch | {"token_type_ids": torch.zeros_like(batch["input_ids"])}

    filled(tmp_path, collate=typed)
    message = "the teacher read attention_mask, input_ids, token_type_ids when its answers were cached, and of this "
    message += "batch it reads attention_mask, input_ids. Make the batches as they were, or cache anew, in another "
    with pytest.raises(ValueError, match=exactly(message + "folder.")):
        filled(tmp_path)


def test_data_without_a_length_or_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a IterableDataset has no length, and its answers cannot be cached ahead"):
        filled(tmp_path, ragged().to_iterable_dataset())
    for data in ([], ragged().select([])):
        with pytest.raises(ValueError, match=exactly("there are no rows to ask the teacher about.")):
            filled(tmp_path, data)


# --- a vocabulary


def some_labelled():
    """Every third word has a label, the last row none."""
    rows = ragged().map(lambda row: {"labels": [-100 if i % 3 else word for i, word in enumerate(row["input_ids"])]})
    return [*list(rows)[:-1], rows[11] | {"labels": [-100] * len(rows[11]["input_ids"])}]


@pytest.mark.parametrize("k", [None, 4])
@pytest.mark.parametrize(
    ("family", "head", "task", "last"),
    [("gpt2", "LMHeadModel", Task.CAUSAL_LM, "lm_head"), ("bert", "ForMaskedLM", Task.MASKED_LM, "cls.predictions")],
)
def test_the_head_is_run_on_the_positions_that_count_and_their_logits_exist_a_few_at_a_time(
    tmp_path, monkeypatch, family, head, task, last, k
):
    model, rows, given = tiny(family, head, 1), some_labelled(), []
    expected = {}
    for number, row in enumerate(rows):
        own = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].detach()
        labels = [*row["labels"][1:], -100] if task is Task.CAUSAL_LM else row["labels"]
        expected[number] = own[[place for place, label in enumerate(labels) if label >= 0]]
    count = sum(map(len, expected.values()))
    monkeypatch.setattr(fill, "_LOGITS", 3 * 50)
    monkeypatch.setattr(fill.HeadLogits, "whole", lambda *_: pytest.fail("the logits of all positions were made"))
    model.get_submodule(last).register_forward_hook(lambda _, args, __: given.append(args[0].shape[:-1].numel()))
    cache = filled(tmp_path, rows, model=model, task=task, signals=WANTED, top_k=k)
    assert sum(given) == count < sum(len(row["input_ids"]) for row in rows) / 2
    batch = Batch(padded(rows), task)
    counted = counted_of(batch)
    keys, spans = keys_of(batch.inputs, ["attention_mask", "input_ids"], batch.tokens, counted)
    found = cache.read(LOGITS, cache.find(keys), spans[:, 0], 9, counted.numpy())
    for number, logits in expected.items():
        wanted = logits if k is None else largest(logits, k)[0]
        torch.testing.assert_close(torch.from_numpy(found[number])[counted[number]], wanted)


# --- what is refused


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": classifier(seed=2)}, "the answers of another teacher: weights is "),
        (
            {"model": classifier(seed=1, layer_norm_eps=1e-6)},
            "the answers of another teacher: config.layer_norm_eps is 1e-12 t",
        ),
        (
            {"dtype": "float16"},
            'float32, not float16. Pass dtype="float32" (in a recipe cache_dtype: float32), or cache anew, in ano',
        ),
        (
            {"signals": (LOGITS, attention(0))},
            "hidden(0), logits, and the losses ask for attention(0) too. Cache anew, in another folder.",
        ),
    ],
    ids=["weights", "config", "dtype", "signals"],
)
def test_a_folder_of_something_else_is_refused_finished_or_not(tmp_path, whole, finished, settings, said):
    shutil.copytree(whole, tmp_path / "it")
    if not finished:
        (tmp_path / "it" / "manifest.json").unlink()
    before = files(tmp_path / "it")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'it'} holds {said}")):
        filled(tmp_path / "it", **{"signals": WANTED, **settings})
    assert files(tmp_path / "it") == before


def test_a_teacher_in_train_mode_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"in train mode, its dropout would be cached\. Call teacher\.eval\(\)\."):
        filled(tmp_path, model=classifier(seed=1).train())


@pytest.mark.parametrize("batch", [2, 3], ids=["of the same shard", "of another"])
def test_a_signal_that_has_another_shape_in_one_batch_is_refused(tmp_path, batch):
    model, asked = watched()
    model.register_forward_hook(
        lambda module, args, output: {"logits": output.logits[:, : 2 if len(asked) >= batch else 3]}
    )
    message = "logits has shape (3,) in one batch and (2,) in another, and can be cached in one shape only. Pass the "
    with pytest.raises(ValueError, match=exactly(message + "model itself as the teacher.")):
        filled(tmp_path, model=model)


def spoiled(value: float):
    model = classifier(seed=1)
    with torch.no_grad():
        model.classifier.bias[1] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_refused(tmp_path, value):
    message = "the teacher's logits is not finite. Load it in float32, or check its weights; nothing was cached."
    with pytest.raises(FloatingPointError, match=exactly(message)):
        filled(tmp_path, model=spoiled(value))
    assert not list(tmp_path.glob("shards/[!.]*"))


def test_what_is_too_large_for_float16_is_refused_and_fine_in_float32(tmp_path):
    message = "the teacher's logits is too large for float16. Cache it in float32."
    with pytest.raises(FloatingPointError, match=exactly(message)):
        filled(tmp_path / "half", model=spoiled(1e5), dtype="float16")
    assert filled(tmp_path / "full", model=spoiled(1e5)).manifest.examples == 12


def test_padding_may_hold_anything(tmp_path, whole):
    model = classifier(seed=1)

    def spoil(module, args, kwargs, output):
        broken = padding.pop()
        return torch.where(broken[..., None], torch.nan, output)

    padding = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: padding.append(kwargs["attention_mask"] == 0), with_kwargs=True
    )
    model.bert.encoder.layer[0].register_forward_hook(spoil, with_kwargs=True)
    cache = filled(tmp_path, model=model, signals=(hidden(0),))
    exact = Cache(whole, Manifest.read(whole))
    where, starts = exact._where[:], np.zeros(12, int)
    assert (cache.read(hidden(0), where, starts, 9) == exact.read(hidden(0), where, starts, 9)).all()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_padding_on_the_left_is_refused_where_answers_depend_on_how_much_there_is(tmp_path, family):
    model = tiny(family, "ForSequenceClassification", num_labels=LABELS, pad_token_id=0)
    to_the_left = partial(padded, left=True)
    task = Task.SINGLE_LABEL
    if family == "llama":  # its positions are relative
        filler(tmp_path, model, task=task, collate=to_the_left).fill([ragged()])
        return
    with pytest.raises(ValueError, match=r"logits depends on how much padding stands on the left.*padding_side"):
        filler(tmp_path, model, task=task, collate=to_the_left).fill([ragged()])
    filler(tmp_path, model, task=task).fill([ragged()])
