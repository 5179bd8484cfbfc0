"""What is inside first, predictions second, on rows and their copies."""

import pytest
import torch
from datasets import concatenate_datasets
from models import VOCABULARY, tiny
from runs import distillation, rows, same, weights
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_distill import losses, schemes
from hf_distill.augment import MaskedWords, Neighbours, replace_words

from .arranged import check_resumed, deep, planned


def lettered():
    """A tokenizer of 46 words of two letters."""
    tokens = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + i % 26) + chr(97 + i // 26) for i in range(46))]
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="[MASK]"))
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def narrow(**fields):
    return deep(2, hidden_size=16, num_attention_heads=2, **fields)


LAYERS = {"embeddings": "embeddings", 0: 1, 1: 3}
NARROW = [losses.HiddenMSE(LAYERS, "shared"), losses.AttentionMSE({0: 1, 1: 3}, "grouped")]
AS_WIDE = [losses.HiddenMSE(LAYERS, "none"), losses.AttentionMSE({0: 1, 1: 3})]


@pytest.mark.parametrize(("student", "inside"), [(narrow, NARROW), (lambda: deep(2), AS_WIDE)])
def test_the_two_stages_by_hand(tmp_path, student, inside):
    found = schemes.two_stage(planned(tmp_path / "scheme", student(), deep(4, seed=1), max_steps=4))
    teacher = deep(4, seed=1)
    first = distillation(tmp_path / "1", student(), teacher, inside, max_steps=3)
    first.train()
    second = distillation(tmp_path / "2", first.model, teacher, [losses.SoftTargets(1.0)], max_steps=1)
    second.train()
    assert same(weights(found), weights(second.model))


def test_heads_that_make_no_equal_groups_are_averaged(tmp_path):
    taken = []
    student = deep(2, hidden_size=24, num_attention_heads=3)
    schemes.two_stage(planned(tmp_path, student, deep(4, seed=1), watch=taken.append))
    assert [loss.config.get("heads") for loss in taken[0].objective] == [None, "mean"]


def test_the_losses_of_a_plan_are_those_of_the_second_stage(tmp_path):
    taken = []
    plan = planned(tmp_path, deep(2), deep(4, seed=1), losses=[losses.LogitMSE()], watch=taken.append)
    schemes.two_stage(plan, attention="maps")
    named = [[type(loss).__name__ for loss in trainer.objective] for trainer in taken]
    assert named == [["HiddenMSE", "AttentionKL"], ["LogitMSE"]]


def test_both_stages_train_on_rows_and_copies_which_are_made_once(tmp_path, monkeypatch):
    made = []

    def noted(dataset, *args, **knobs):
        made.append(len(dataset))
        return replace_words(dataset, *args, **knobs)

    monkeypatch.setitem(schemes.two_stage.__wrapped__.__globals__, "replace_words", noted)
    data, teacher = rows(8), deep(4, seed=1)
    for resume in (False, True):
        taken = []
        settings = {"processing_class": lettered(), "watch": taken.append, "resume": resume}
        plan = planned(tmp_path, deep(2), teacher, data, **settings)
        schemes.two_stage(plan, samples=3, candidates=2, probability=0.5)
        if not resume:
            copies = replace_words(
                data, lettered(), Neighbours(teacher, lettered(), 2), samples=3, probability=0.5, seed=42
            )
            expected = concatenate_datasets([data, copies])["input_ids"][:]
            assert [trainer.train_dataset["input_ids"][:] for trainer in taken] == [expected] * 2
            assert taken[0].train_dataset["labels"][:] == data["labels"][:] + [-100] * len(copies)
    assert made == [2, 8, 2]  # the rehearsals take two rows


def test_a_masked_language_model_proposes_words(tmp_path):
    reader = tiny("bert", "ForMaskedLM", vocab_size=VOCABULARY)
    reader.save_pretrained(tmp_path / "reader")
    tokenizer, data, teacher, taken = lettered(), rows(4), deep(4, seed=1), []
    plan = planned(tmp_path / "out", deep(2), teacher, data, processing_class=tokenizer, watch=taken.append)
    schemes.two_stage(plan, samples=1, masked_lm=str(tmp_path / "reader"), keep_labels=True, candidates=3)
    near, likely = Neighbours(teacher, tokenizer, 3), MaskedWords(reader, tokenizer, 3)
    copies = replace_words(data, tokenizer, near, likely, samples=1, keep_labels=True, seed=42)
    assert taken[0].train_dataset["input_ids"][:] == data["input_ids"][:] + copies["input_ids"][:]
    assert taken[0].train_dataset["labels"][:] == data["labels"][:] + copies["labels"][:]


def test_a_copy_without_a_label_is_learned_from_by_its_prediction_alone(tmp_path):
    data, teacher = rows(4), deep(4, seed=1)
    both = [losses.TaskLoss(), losses.SoftTargets()]
    plan = planned(tmp_path, deep(2), teacher, data, processing_class=lettered(), losses=both, max_steps=-1)
    found = schemes.two_stage(plan, samples=2, share=0.5)
    assert all(torch.isfinite(weight).all() for weight in weights(found).values())


def test_cut_off_in_the_second_stage_it_goes_on(tmp_path):
    def run(folder, **settings):
        plan = planned(folder, narrow(), deep(4, seed=1), processing_class=lettered(), max_steps=6, **settings)
        return schemes.two_stage(plan, samples=2, share=0.5)

    check_resumed(tmp_path, run, after=4)


REFUSED = [
    ({"share": 1.0}, "share is 1.0; it must be above 0 and below 1"),
    ({"samples": -1}, "samples is -1; it must be 0, for no copies, or more"),
    ({"attention": "heads"}, "attention='heads' is not known"),
    (
        {"masked_lm": "no/such", "probability": 0.4, "candidates": 0, "keep_labels": False},
        "masked_lm='no/such', probability=0.4, candidates=0, keep_labels=False would change nothing, because "
        "samples=0 makes no copies. Leave them out.",
    ),
    ({"samples": 1}, "by its tokenizer, and train_dataset is a Dataset, processing_class a NoneType. Pass both."),
]


@pytest.mark.parametrize(("knobs", "message"), REFUSED)
def test_knobs_that_do_not_fit_are_refused(tmp_path, knobs, message):
    with pytest.raises(ValueError, match=message):
        schemes.two_stage(planned(tmp_path, deep(2), deep(4, seed=1)), **knobs)


def test_a_temperature_beside_losses_of_the_plan_is_refused(tmp_path):
    plan = planned(tmp_path, deep(2), deep(4, seed=1), losses=[losses.SoftTargets(2.0)])
    with pytest.raises(
        ValueError, match=r"two_stage: temperature=1\.0 would change nothing, because the plan's losses"
    ):
        schemes.two_stage(plan, temperature=1.0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"candidates": 0}, "^candidates is 0; it must be at least 1"),
        ({"masked_lm": "no/such/model"}, "^masked_lm 'no/such/model': .+"),
    ],
)
def test_copies_that_cannot_be_made_are_refused_in_one_line(tmp_path, knobs, message):
    plan = planned(tmp_path, deep(2), deep(4, seed=1), processing_class=lettered())
    with pytest.raises(ValueError, match=message) as refused:
        schemes.two_stage(plan, samples=2, **knobs)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_copies_of_rows_with_a_label_a_token_are_refused(tmp_path):
    student, teacher = (tiny("bert", "ForTokenClassification", seed, num_labels=3) for seed in (0, 1))
    with pytest.raises(ValueError, match="words are replaced for tasks with one label an example, not tokens"):
        schemes.two_stage(planned(tmp_path, student, teacher, processing_class=lettered()), samples=1)


def test_the_best_by_a_loss_of_the_second_stage_is_chosen_in_the_second_alone(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    taken = []
    plan = planned(tmp_path, deep(2), deep(4, seed=1), eval_dataset=rows(8), watch=taken.append, max_steps=2,
                   metric_for_best_model="soft_targets", **best)  # fmt: skip
    schemes.two_stage(plan, share=0.5)
    assert [trainer.args.metric_for_best_model for trainer in taken] == ["loss", "soft_targets"]
    assert taken[1].state.best_metric == taken[1].state.log_history[-1]["eval_soft_targets"]
