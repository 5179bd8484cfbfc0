"""A teacher that answers from disk: a run is what it is with the model itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from caches import CPU, files, filled, live, padded, ragged
from datasets import Dataset
from models import LABELS, inputs_of, tiny
from runs import classifier, distillation, same, weights

from hf_distill import anatomy
from hf_distill import losses as catalogue
from hf_distill.batch import Batch
from hf_distill.losses import HiddenCosine, HiddenMSE, RKDAngle, SoftTargets, TaskLoss
from hf_distill.relations import Relations
from hf_distill.signals import (
    EMBEDDINGS,
    LOGITS,
    attention,
    attention_scores,
    hidden,
    key,
    label_embeddings,
    query,
    value,
)
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.cache.layout import CLASSES
from hf_distill.teachers.cached import CACHED_KINDS

ROOT = Path(__file__).parents[2]
RUN = {
    "max_steps": -1,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "optim": "sgd",
    "learning_rate": 0.05,
    "eval_strategy": "epoch",
    "data_collator": padded,
}
NAMES = {"id2label": {0: "anger", 1: "joy", 2: "fear"}}
BACKWARDS = {"id2label": {0: "fear", 1: "joy", 2: "anger"}}


def teacher(**fields):
    return classifier(seed=1, num_hidden_layers=4, **fields)


def multi_label(data: Dataset) -> Dataset:
    return data.map(lambda row: {"labels": [float(row["labels"] == label) for label in range(LABELS)]})


def per_token(data: Dataset) -> Dataset:
    """Two of three words have a label."""
    return data.map(lambda row: {"labels": [word % LABELS if word % 3 else -100 for word in row["input_ids"]]})


def masked(data: Dataset) -> Dataset:
    """Masked once and for all: every third word is hidden, and is the label there."""
    return data.map(
        lambda row: {
            "input_ids": [word if place % 3 else 4 for place, word in enumerate(row["input_ids"])],
            "labels": [-100 if place % 3 else word for place, word in enumerate(row["input_ids"])],
        }
    )


def spans(rows):
    batch = padded(rows)
    ends = batch["attention_mask"].sum(1) - 1
    return {name: batch[name] for name in ("input_ids", "attention_mask")} | {
        "start_positions": torch.zeros_like(ends),
        "end_positions": ends,
    }


def language(rows, left=False):
    batch = padded([{"input_ids": row["input_ids"]} for row in rows], left)
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def to_the_left(rows):
    return language(rows, left=True)


def every(*more):
    return [
        SoftTargets(weight=0.5),
        HiddenMSE({"embeddings": "embeddings", 0: -4, 1: -1}, weight=0.1),
        HiddenCosine("last", weight=0.1),
        catalogue.AttentionKL(weight=0.1),
        catalogue.AttentionMSE(weight=0.01),
        catalogue.MiniLM(weight=0.1),
        catalogue.MiniLMv2(weight=0.1),
        *more,
    ]


KINDS = {
    "single label": (teacher, classifier, lambda: every(TaskLoss(), RKDAngle(weight=0.1)), ragged, padded),
    "multi label": (
        lambda: teacher(problem_type="multi_label_classification"),
        lambda: classifier(problem_type="multi_label_classification"),
        lambda: [SoftTargets(), catalogue.LabelEmbeddings(weight=0.1)],
        lambda *given: multi_label(ragged(*given)),
        padded,
    ),
    "tokens": (
        lambda: tiny("bert", "ForTokenClassification", 1, num_labels=LABELS),
        lambda: tiny("bert", "ForTokenClassification", num_labels=LABELS, num_hidden_layers=2, hidden_dropout_prob=0),
        lambda: every(TaskLoss()),
        lambda *given: per_token(ragged(*given)),
        padded,
    ),
    "masked LM": (
        lambda: tiny("bert", "ForMaskedLM", 1),
        lambda: tiny("bert", "ForMaskedLM", num_hidden_layers=2, hidden_dropout_prob=0),
        lambda: [SoftTargets(), TaskLoss(), HiddenMSE("last", weight=0.1)],
        lambda *given: masked(ragged(*given)),
        padded,
    ),
    "span": (
        lambda: tiny("bert", "ForQuestionAnswering", 1),
        lambda: tiny("bert", "ForQuestionAnswering", num_hidden_layers=2),
        lambda: [SoftTargets(), TaskLoss()],
        ragged,
        spans,
    ),
    "causal LM": (
        lambda: tiny("llama", "ForCausalLM", 1),
        lambda: tiny("llama", "ForCausalLM", num_hidden_layers=2),
        every,
        ragged,
        language,
    ),
    "causal LM, padded on the left": (
        lambda: tiny("llama", "ForCausalLM", 1),
        lambda: tiny("llama", "ForCausalLM", num_hidden_layers=2),
        lambda: [loss for loss in every() if not isinstance(loss, catalogue.MiniLMv2)],  # it cuts rotated pairs apart
        ragged,
        to_the_left,
    ),
}


def trainer_of(folder, kind, teaching, **settings):
    _, student, losses, data, collate = KINDS[kind]
    torch.manual_seed(0)
    settings = {"eval_dataset": data(5, 1), **RUN, "data_collator": collate, **settings}
    return distillation(folder, student(), teaching, losses(), data(), **settings)


def fill(trainer):
    trainer.teacher.fill([trainer.train_dataset, trainer.eval_dataset], trainer.data_collator)


def history(trainer):
    clock = ("time", "per_second")
    return [
        {name: value for name, value in logs.items() if not name.endswith(clock)}
        for logs in trainer.state.log_history[:-1]
    ]


def the_same_run(found, expected):
    assert len(history(found)) == len(history(expected)) > 3
    for mine, theirs in zip(history(found), history(expected), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    for name, weight in weights(expected.model).items():
        torch.testing.assert_close(weights(found.model)[name], weight, rtol=0, atol=1e-5)


# --- a run is what it is with the model itself


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_what_it_is_with_the_model_itself_and_the_model_is_not_asked(tmp_path, kind):
    """Shuffled, two epochs, accumulated, evaluated; then again from the folder alone, with workers that load data."""
    make, asked = KINDS[kind][0], []
    alone = trainer_of(tmp_path, kind, make())
    alone.train()
    model = make()
    filling = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", model))
    fill(filling)
    model.register_forward_pre_hook(lambda *_: asked.append(1))
    filling.train()
    the_same_run(filling, alone)
    assert not asked
    folder_only = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache"), dataloader_num_workers=2)
    assert all(parameter.is_meta for parameter in folder_only.teacher.model.parameters())
    folder_only.train()
    the_same_run(folder_only, filling)


@pytest.mark.parametrize("kind", ["tokens", "masked LM", "causal LM"])
def test_of_logits_beside_tokens_only_those_that_count_are_stored(tmp_path, kind):
    trainer = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", KINDS[kind][0]()))
    fill(trainer)
    rows = [*trainer.train_dataset, *trainer.eval_dataset]
    if kind == "causal LM":
        count = sum(len(row["input_ids"]) - 1 for row in rows)
    else:
        count = sum(label >= 0 for row in rows for label in row["labels"])
    classes = trainer.teacher.shape.classes
    assert trainer.teacher._cache.bytes_of(LOGITS) == count * classes * 4
    batch = Batch(trainer.data_collator([dict(row) for row in trainer.train_dataset][:5]), trainer.task)
    seen, mask = trainer.teacher.observe(batch)[LOGITS], batch.counted_positions(batch.tokens[..., None])
    expected = live(trainer.teacher.model, {LOGITS}, batch, KINDS[kind][1]())[LOGITS]
    torch.testing.assert_close(seen[mask], expected[mask])
    assert not seen[~mask].any()


@pytest.mark.parametrize("kind", ["causal LM", "single label"])
def test_a_vocabulary_s_logits_that_no_loss_looks_at_are_not_stored(tmp_path, monkeypatch, kind):
    """They would only tell the agreement. A classifier's are small, and are."""
    make, student, _, data, collate = KINDS[kind]
    monkeypatch.setitem(KINDS, kind, (make, student, lambda: [HiddenMSE("last")], data, collate))
    few = {"top_k": 8} if kind == "causal LM" else {}

    def trainer(missing="error"):
        return trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", make(), missing=missing, **few))

    filling = trainer()
    filling.teacher.fill([filling.train_dataset], collate)
    held = {hidden(3)} if kind == "causal LM" else {hidden(3), LOGITS}
    assert set(filling.teacher._cache.layouts) == held
    half = trainer("live")  # some rows of an evaluation are answered live
    half.teacher.fill([half.eval_dataset.select(range(2))], collate)
    alone = trainer_of(tmp_path, kind, make())
    found, expected = half.evaluate(), alone.evaluate()
    assert ("eval_agreement" in found) == (kind != "causal LM")
    assert found["eval_hidden_mse"] == pytest.approx(expected["eval_hidden_mse"], rel=1e-4)
    fill(half)
    half.train()


def test_the_same_words_with_other_labels_that_count_are_another_example_and_no_wrong_row(tmp_path):
    model, rows = KINDS["tokens"][0](), [{"input_ids": [5, 6, 7, 8], "labels": [1, -100, 2, -100]}]
    others = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 1, -100, 2]}]
    answering = CachedTeacher(tmp_path / "cache", model)
    answering.prepare(KINDS["tokens"][1](), frozenset({LOGITS, hidden(0)}), CPU, None)
    answering.fill([rows], padded)
    other = Batch(padded(others), Task.TOKENS)
    with pytest.raises(ValueError, match=r"row 0 of the batch \(4 tokens\) is not in .* or labelled in another way"):
        answering.observe(other)
    relabelled = [{"input_ids": [5, 6, 7, 8], "labels": [0, -100, 0, -100]}]
    assert answering.observe(Batch(padded(relabelled), Task.TOKENS))[LOGITS].any(), "which labels is nothing to it"
    answering.fill([rows, others], padded)
    seen = answering.observe(other)[LOGITS]
    expected = live(model, {LOGITS}, other, KINDS["tokens"][1]())[LOGITS]
    torch.testing.assert_close(seen[:, [1, 3]], expected[:, [1, 3]])
    assert not seen[:, [0, 2]].any()


def test_without_logits_labels_are_nothing_to_the_cache(tmp_path):
    answering = CachedTeacher(tmp_path / "cache", KINDS["tokens"][0]())
    answering.prepare(KINDS["tokens"][1](), frozenset({hidden(0)}), CPU, None)
    answering.fill([[{"input_ids": [5, 6, 7], "labels": [1, -100, 2]}]], padded)
    unlabelled = Batch(padded([{"input_ids": [5, 6, 7]}]), Task.TOKENS)
    assert answering.observe(unlabelled)[hidden(0)].any()


def test_an_evaluation_that_was_not_filled_is_refused_before_step_1_and_none_is_no_matter(tmp_path):
    trainer = trainer_of(tmp_path, "single label", CachedTeacher(tmp_path / "cache", teacher()), num_train_epochs=1)
    trainer.teacher.fill([trainer.train_dataset], trainer.data_collator)
    with pytest.raises(ValueError, match="eval_dataset has rows that are not in"):
        trainer.train()
    assert trainer.state.global_step == 0
    without = trainer_of(tmp_path, "single label", CachedTeacher(tmp_path / "cache"), eval_strategy="no", max_steps=2)
    without.train()
    assert without.state.global_step == 2


def test_a_teacher_that_was_changed_since_adds_nothing_to_what_it_said_before(tmp_path):
    trainer = trainer_of(tmp_path, "single label", CachedTeacher(tmp_path / "cache", teacher()))
    trainer.teacher.fill([trainer.train_dataset], trainer.data_collator)
    before = files(tmp_path / "cache")
    with torch.no_grad():
        trainer.teacher.model.classifier.bias[0] += 1
    with pytest.raises(ValueError, match="cache holds the answers of another teacher: weights is"):
        fill(trainer)
    assert files(tmp_path / "cache") == before


# --- averages over heads


def watching(*kinds, heads="mean"):
    return [SoftTargets(), *(kind(heads=heads, weight=0.1) for kind in kinds)]


def narrow():
    return classifier(num_attention_heads=2)


@pytest.mark.parametrize(("heads", "groups"), [("mean", 1), ("grouped", 2)])
def test_where_losses_compare_averages_over_heads_only_these_are_stored(tmp_path, monkeypatch, heads, groups):
    """A student of two heads, a teacher of four."""
    make, _, _, data, collate = KINDS["single label"]
    both = lambda: watching(catalogue.AttentionKL, catalogue.AttentionMSE, heads=heads)  # noqa: E731
    monkeypatch.setitem(KINDS, "heads", (make, narrow, both, data, collate))
    alone = trainer_of(tmp_path, "heads", make())
    alone.train()
    filling = trainer_of(tmp_path, "heads", CachedTeacher(tmp_path / "cache", make()))
    fill(filling)
    filling.train()
    the_same_run(filling, alone)
    rows = [*filling.train_dataset, *filling.eval_dataset]
    pairs = sum(len(row["input_ids"]) ** 2 for row in rows)
    for signal in (attention(1), attention(3), attention_scores(3)):
        assert filling.teacher._cache.bytes_of(signal) == groups * pairs * 4
    folder_only = trainer_of(tmp_path, "heads", CachedTeacher(tmp_path / "cache"))
    folder_only.train()
    the_same_run(folder_only, filling)


def test_each_head_is_stored_where_one_of_the_losses_needs_it(tmp_path, monkeypatch):
    make, student, _, data, collate = KINDS["single label"]
    mixed = lambda: [catalogue.AttentionKL(heads="mean"), catalogue.AttentionKL({1: 3})]  # noqa: E731
    monkeypatch.setitem(KINDS, "heads", (make, student, mixed, data, collate))
    trainer = trainer_of(tmp_path, "heads", CachedTeacher(tmp_path / "cache", make()))
    fill(trainer)
    assert [trainer.teacher._cache.layouts[attention(layer)].shape[0] for layer in (1, 3)] == [1, 4]


def test_averages_are_refused_by_losses_that_need_each_head_and_each_head_is_enough_for_averages(
    tmp_path, monkeypatch
):
    make, student, _, data, collate = KINDS["single label"]
    for name, heads in (("averaged", "mean"), ("each", "matched")):
        monkeypatch.setitem(
            KINDS,
            name,
            (make, student, lambda heads=heads: watching(catalogue.AttentionKL, heads=heads), data, collate),
        )
        fill(trainer_of(tmp_path, name, CachedTeacher(tmp_path / name, make())))
    message = r"averaged holds attention\(1\) averaged over 1 group\(s\) of its 4 heads, and the losses need 4\. Cache"
    for model in (None, make()):
        with pytest.raises(ValueError, match=message):
            trainer_of(tmp_path, "each", CachedTeacher(tmp_path / "averaged", model))
    enough = trainer_of(tmp_path, "averaged", CachedTeacher(tmp_path / "each", make()))
    before = files(tmp_path / "each")
    fill(enough)
    assert files(tmp_path / "each") == before
    enough.train()
    enough.teacher.fill([data(4, 5)], collate)
    assert enough.teacher._cache.layouts[attention(1)].shape[0] == 4, "as in the folder"
    (tmp_path / "averaged" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=message):
        fill(trainer_of(tmp_path, "each", CachedTeacher(tmp_path / "averaged", make())))


# --- relations


STATES = (query(3), key(3), value(3))


def relating(*losses, data=ragged):
    return (teacher, classifier, lambda: [SoftTargets(), *losses], data, padded)


def sizes(trainer):
    """Numbers that the relations in one head take, and the states."""
    lengths = [len(row["input_ids"]) for row in [*trainer.train_dataset, *trainer.eval_dataset]]
    return sum(n * (n + 1) // 2 for n in lengths), sum(lengths) * 32


@pytest.mark.parametrize("heads", [1, 4, 8, 32])
def test_where_losses_compare_relations_alone_the_smaller_is_stored(tmp_path, monkeypatch, heads):
    monkeypatch.setitem(KINDS, "relations", relating(catalogue.MiniLMv2(heads=heads)))
    alone = trainer_of(tmp_path, "relations", teacher())
    alone.train()
    filling = trainer_of(tmp_path, "relations", CachedTeacher(tmp_path / "cache", teacher()))
    fill(filling)
    filling.train()
    the_same_run(filling, alone)
    pairs, states = sizes(filling)
    assert (pairs * heads < states) == (heads < 32)
    for signal in STATES:
        assert filling.teacher._cache.bytes_of(signal) == min(pairs * heads, states) * 4
    folder_only = trainer_of(tmp_path, "relations", CachedTeacher(tmp_path / "cache"))
    folder_only.train()
    the_same_run(folder_only, filling)


class Near(catalogue.MiniLMv2):
    """A loss of one's own on the states themselves."""

    def compare(self, student, teacher, batch):
        return batch.mean((student - teacher).square().mean((1, 3)), over="tokens")


@pytest.mark.parametrize("other", [Near(relations=("key",)), catalogue.MiniLMv2(heads=2, relations=("key",))])
def test_states_are_stored_where_another_loss_needs_them_or_other_heads(tmp_path, monkeypatch, other):
    monkeypatch.setitem(KINDS, "relations", relating(catalogue.MiniLMv2(heads=1), other))
    trainer = trainer_of(tmp_path, "relations", CachedTeacher(tmp_path / "cache", teacher()))
    fill(trainer)
    pairs, states = sizes(trainer)
    stored = [trainer.teacher._cache.bytes_of(signal) for signal in STATES]
    assert stored == [pairs * 4, states * 4, pairs * 4]
    trainer.train()


def test_relations_are_refused_by_losses_that_need_states_or_other_heads_and_states_are_enough_for_all(
    tmp_path, monkeypatch
):
    for name, loss in (
        ("two", catalogue.MiniLMv2(heads=2)),
        ("four", catalogue.MiniLMv2(heads=4)),
        ("states", Near()),
    ):
        monkeypatch.setitem(KINDS, name, relating(loss))
        fill(trainer_of(tmp_path, name, CachedTeacher(tmp_path / name, teacher())))
    said = r"two holds the relations of {} in 2 heads, and the losses need {}\. Cache anew, in another folder\."
    needs = {"four": r"them in 4", "states": "more of it than relations"}
    for name, needed in needs.items():
        for model in (None, teacher()):
            with pytest.raises(ValueError, match=said.format(r"(query|key|value)\(3\)", needed)):
                trainer_of(tmp_path, name, CachedTeacher(tmp_path / "two", model))
    enough = trainer_of(tmp_path, "four", CachedTeacher(tmp_path / "states", teacher()))
    before = files(tmp_path / "states")
    fill(enough)
    assert files(tmp_path / "states") == before
    enough.train()
    (tmp_path / "two" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=needs["four"]):
        fill(trainer_of(tmp_path, "four", CachedTeacher(tmp_path / "two", teacher())))


def test_a_folder_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    """Longer rows come later; or the one who filled it was killed before the end."""
    monkeypatch.setitem(KINDS, "relations", relating(catalogue.MiniLMv2(heads=4)))
    monkeypatch.setattr("hf_distill.teachers.cache.fill.SHARD", 4)
    trainer = trainer_of(tmp_path, "relations", CachedTeacher(tmp_path / "cache", teacher()))
    fill(trainer)
    before = files(tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").unlink()
    shutil.rmtree(sorted((tmp_path / "cache" / "shards").glob("*-*"))[1])
    fill(trainer_of(tmp_path, "relations", CachedTeacher(tmp_path / "cache", teacher())))
    assert files(tmp_path / "cache") == before
    small = trainer.teacher._cache.bytes_of(query(3))
    long = ragged(3, 7, 30, 30)
    trainer.teacher.fill([long], padded)
    assert trainer.teacher._cache.bytes_of(query(3)) == small + 3 * 4 * (30 * 31 // 2) * 4
    assert trainer.teacher._cache.layouts[query(3)].shape[0] == 4


@pytest.mark.parametrize("kind", ["tokens", "causal LM"])
def test_whoever_was_killed_before_the_manifest_has_not_answered_in_vain(tmp_path, kind):
    """What is there says how many heads of each map are kept, and a new teacher only of which averages are."""
    fill(trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", KINDS[kind][0]())))
    before = files(tmp_path / "cache")
    (tmp_path / "cache" / "manifest.json").unlink()
    [index] = (tmp_path / "cache").glob("index-*")
    shutil.rmtree(index)
    model = KINDS[kind][0]()
    again = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", model))
    model.register_forward_pre_hook(lambda *_: pytest.fail("it was asked again"))
    fill(again)
    assert files(tmp_path / "cache") == before


@pytest.mark.parametrize("left", [False, True])
def test_what_is_missing_is_answered_live_with_the_same_value(tmp_path, left):
    loss, model, student = catalogue.MiniLM(), *(tiny("llama", "ForCausalLM", seed) for seed in (1, 0))
    loss.setup(anatomy.describe(student), anatomy.describe(model), Task.CAUSAL_LM)
    wanted = frozenset(theirs for _, theirs in loss.pairs())
    master = CachedTeacher(tmp_path / "cache", model, missing="live")
    master.compared_heads = {value(3): loss.relations_compared}
    master.prepare(student, wanted, CPU, None)
    batch = Batch(language(list(ragged(4)), left), Task.CAUSAL_LM)
    mine = live(student, {mine for mine, _ in loss.pairs()}, batch, tiny("llama", "ForCausalLM", 2))
    expected = loss(mine, master.observe(batch), batch)
    master.fill([ragged(4)], to_the_left if left else language)
    found = master.observe(batch)
    assert isinstance(found[value(3)], Relations)
    torch.testing.assert_close(loss(mine, found, batch), expected)
    assert expected > 1e-3


# --- the largest logits


def divergences():
    return [
        SoftTargets(weight=0.5),
        catalogue.ReverseKL(temperature=3.0),
        catalogue.GeneralizedJSD(),
        catalogue.SkewKL(),
        catalogue.TotalVariation(),
        HiddenMSE("last", weight=0.1),
    ]


@pytest.mark.parametrize("kind", ["single label", "tokens", "masked LM", "causal LM, padded on the left"])
def test_a_run_from_all_logits_but_one_is_what_it_is_with_the_model_itself(tmp_path, monkeypatch, kind):
    """A rest of one class is that class: nothing is lost."""
    make, student, _, data, collate = KINDS[kind]
    monkeypatch.setitem(KINDS, kind, (make, student, divergences, data, collate))
    alone = trainer_of(tmp_path, kind, make())
    alone.train()
    k = alone.teacher.shape.classes - 1
    filling = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", make(), top_k=k))
    fill(filling)
    filling.train()
    the_same_run(filling, alone)
    folder_only = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache"))
    assert folder_only.teacher.top_k == k
    folder_only.train()
    the_same_run(folder_only, filling)


def test_the_largest_logits_take_few_bytes_and_the_best_class_stays(tmp_path, monkeypatch):
    kind, k = "causal LM", 4
    make, student, _, data, collate = KINDS[kind]
    monkeypatch.setitem(KINDS, kind, (make, student, lambda: [SoftTargets(), TaskLoss()], data, collate))
    alone = trainer_of(tmp_path, kind, make())
    trainer = trainer_of(tmp_path, kind, CachedTeacher(tmp_path / "cache", make(), top_k=k, dtype="float16"))
    fill(trainer)
    count = sum(len(row["input_ids"]) - 1 for row in [*trainer.train_dataset, *trainer.eval_dataset])
    assert trainer.teacher._cache.bytes_of(LOGITS) == count * (k + 1) * 2
    assert trainer.teacher._cache.bytes_of(CLASSES) == count * k * 2
    batch = Batch(collate(list(trainer.train_dataset)[:4]), Task.CAUSAL_LM)
    expected = live(make(), {LOGITS}, batch, student())[LOGITS].topk(k).indices
    mask = batch.counted_positions(batch.tokens[..., None])
    assert (trainer.teacher.observe(batch)[LOGITS].classes[mask] == expected[mask]).all()
    assert trainer.evaluate()["eval_agreement"] == alone.evaluate()["eval_agreement"]
    before = trainer.evaluate()["eval_soft_targets"]
    assert before <= alone.evaluate()["eval_soft_targets"] * 1.01
    trainer.train()
    assert trainer.evaluate()["eval_soft_targets"] < before


def test_every_kind_that_can_be_cached_is_among_those_runs(tmp_path):
    asked = [trainer_of(tmp_path, kind, KINDS[kind][0]()).objective.wanted_of_teacher for kind in KINDS]
    assert {signal.kind for wanted in asked for signal in wanted} == CACHED_KINDS


def test_a_run_that_is_resumed_ends_where_it_ends_with_the_model_itself(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4, "num_train_epochs": 2}
    alone = trainer_of(tmp_path / "alone", "single label", teacher(), **saving)
    alone.train()
    first = trainer_of(tmp_path / "out", "single label", CachedTeacher(tmp_path / "cache", teacher()), **saving)
    fill(first)
    first.train()
    again = trainer_of(tmp_path / "out", "single label", CachedTeacher(tmp_path / "cache"), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert same(weights(again.model), weights(first.model))
    the_same_run(first, alone)


@pytest.mark.parametrize("loaded", [True, False])
def test_labels_in_another_order_are_matched_by_name(tmp_path, loaded):
    problem = {"problem_type": "multi_label_classification"}
    model, student = teacher(**BACKWARDS, **problem), classifier(**NAMES, **problem)
    wanted = (LOGITS, label_embeddings(), hidden(0))
    cache = tmp_path / "cache"
    filled(cache, model=model, signals=wanted, task=Task.MULTI_LABEL)
    refused = CachedTeacher(cache, model if loaded else None)
    with pytest.raises(ValueError, match=r"label order differs: teacher id2label\[0\] is 'fear', student's"):
        refused.prepare(student, frozenset(wanted), CPU, None)
    answering = CachedTeacher(cache, model if loaded else None, label_map="by_name")
    answering.prepare(student, frozenset(wanted), CPU, None)
    batch = Batch(padded(list(ragged(5))), Task.MULTI_LABEL)
    seen, plain = answering.observe(batch), live(model, wanted, batch, teacher(**BACKWARDS, **problem))
    assert seen.keys() == set(wanted)
    torch.testing.assert_close(seen[LOGITS], plain[LOGITS].flip(1))
    torch.testing.assert_close(seen[label_embeddings()], plain[label_embeddings()].flip(1))


def test_layers_counted_from_the_end_are_stored_once_and_answered_as_they_were_asked_for(tmp_path):
    model = teacher()
    asked = frozenset({hidden(-1), hidden(3), attention(-4), hidden(EMBEDDINGS)})
    answering = CachedTeacher(tmp_path, model)
    answering.prepare(classifier(), asked, CPU, None)
    answering.fill([ragged()], padded)
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == [
        "attention_0.bin", "hidden_3.bin", "hidden_embeddings.bin",
    ]  # fmt: skip
    seen = answering.observe(Batch(padded(list(ragged())), Task.SINGLE_LABEL))
    assert seen.keys() == asked
    assert torch.equal(seen[hidden(-1)], seen[hidden(3)])


def test_pictures_are_cached_too(tmp_path):
    model = tiny("vit", "ForImageClassification", 1, num_labels=LABELS)
    wanted = frozenset({LOGITS, hidden(1), attention(0)})
    pixels = inputs_of(model, rows=5)["pixel_values"]
    answering = CachedTeacher(tmp_path, model)
    answering.prepare(tiny("vit", "ForImageClassification", num_labels=LABELS), wanted, CPU, None)

    def collate(rows):
        return {"pixel_values": torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows])}

    answering.fill([[{"pixel_values": each} for each in pixels]], collate)
    batch = Batch({"pixel_values": pixels[[3, 0]]}, Task.SINGLE_LABEL)
    expected = live(model, wanted, batch, tiny("vit", "ForImageClassification", num_labels=LABELS))
    for signal, seen in answering.observe(batch).items():
        torch.testing.assert_close(seen, expected[signal])


TWO = """
import gc, sys
from pathlib import Path
import torch.distributed as dist
from teachers.test_cached import KINDS, CachedTeacher, fill, history, trainer_of
import torch

folder, found = Path(sys.argv[1]), {}
for name in ("live", "cached"):
    model = KINDS["single label"][0]()
    teaching = CachedTeacher(folder / "two", model) if name == "cached" else model
    trainer = trainer_of(folder / name, "single label", teaching)
    if name == "cached":
        fill(trainer)
    trainer.train()
    found[name] = history(trainer), {key: value.clone() for key, value in trainer.model.state_dict().items()}
    del trainer  # its DDP holds the process group, whose threads would abort the process at its end
if dist.get_rank() == 0:
    torch.save(found, folder / "found.pt")
gc.collect()
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_build_one_cache_and_train_from_it_as_with_the_model_itself(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    paths = os.pathsep.join([str(ROOT / "tests"), *filter(None, sys.path)])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run([*command, str(tmp_path)], env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-4000:]
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    (mine, my_weights), (theirs, their_weights) = found["cached"], found["live"]
    for one, other in zip(mine, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    for name, weight in their_weights.items():
        torch.testing.assert_close(my_weights[name], weight, rtol=0, atol=1e-5)
    alone = trainer_of(tmp_path, "single label", CachedTeacher(tmp_path / "one", teacher()))
    fill(alone)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_rows_may_come_as_one_data_set_or_as_splits_by_name(tmp_path):
    trained, evaluated = ragged(8), ragged(6, seed=3)
    for number, given in enumerate((trained, {"train": trained, "dev": evaluated}, [trained, {"dev": evaluated}])):
        teacher = CachedTeacher(tmp_path / str(number), classifier(seed=1))
        trainer = distillation(
            tmp_path / "out", classifier(), teacher, [SoftTargets()], data=trained, data_collator=padded
        )
        teacher.fill(given, padded)
        assert teacher._cache.manifest.examples == (8 if given is trained else 14)
        assert trainer.teacher is teacher


def test_the_label_map_of_the_run_reaches_it(tmp_path):
    model = classifier(seed=1, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    student = classifier(id2label={0: "b", 1: "a", 2: "c"}, label2id={"b": 0, "a": 1, "c": 2})
    teacher = CachedTeacher(tmp_path / "answers", model)
    trainer = distillation(
        tmp_path / "out", student, teacher, [SoftTargets()], ragged(8), data_collator=padded, label_map="by_name"
    )
    teacher.fill(ragged(8), padded)
    batch = Batch(padded(list(ragged(8))), Task.SINGLE_LABEL)
    with torch.no_grad():
        logits = model(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]).logits
    torch.testing.assert_close(trainer.teacher.observe(batch)[LOGITS], logits[:, [1, 0, 2]])
