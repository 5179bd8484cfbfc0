"""Heads that compute the positions that count give the losses and gradients of heads that compute all."""

import copy

import pytest
import torch
from caches import padded, ragged
from models import VOCABULARY, inputs_of, tiny
from peft import LoraConfig, get_peft_model
from runs import distillation
from torch import nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.heads import HeadLogits
from hf_distill.losses import DecoupledKL, HiddenMSE, ReverseKL, SoftTargets, TaskLoss
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS
from hf_distill.tasks import find_task
from hf_distill.teachers import ModelTeacher
from hf_distill.vocabulary import find_vocabulary_head, inputs_for

HEADS = {  # family: (head, what enters the head, its last layer)
    "bert": ("ForMaskedLM", "cls", "cls.predictions.decoder"),
    "distilbert": ("ForMaskedLM", "vocab_projector", "vocab_projector"),
    "roberta": ("ForMaskedLM", "lm_head", "lm_head.decoder"),
    "electra": ("ForMaskedLM", "generator_lm_head", "generator_lm_head"),
    "albert": ("ForMaskedLM", "predictions", "predictions.decoder"),
    "gpt2": ("LMHeadModel", "lm_head", "lm_head"),
    "llama": ("ForCausalLM", "lm_head", "lm_head"),
    "t5": ("ForConditionalGeneration", "lm_head", "lm_head"),
    "bart": ("ForConditionalGeneration", "lm_head", "lm_head"),
}


def inputs(model: nn.Module, share: float, labels: bool = True) -> dict[str, torch.Tensor]:
    """Ragged rows of which a share has labels."""
    found = inputs_of(model, 4, 9)
    drawn = torch.rand(found["input_ids"].shape, generator=torch.Generator().manual_seed(1))
    return found | ({"labels": found["input_ids"].masked_fill(drawn >= share, -100)} if labels else {})


def labelled(rows):
    batch = padded([{"input_ids": row["input_ids"]} for row in rows])
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def distilled(student: nn.Module, teacher: nn.Module, given: dict, counted_only: bool, losses=None):
    """Terms, gradients and what was seen of student and teacher in one step, as the trainer takes it."""
    task = find_task(anatomy.unwrap(student))
    some = [TaskLoss()] if "labels" in given else []
    objective = Objective(losses or [*some, SoftTargets(chunk_size=3), ReverseKL(weight=0.3), HiddenMSE("last")])
    objective.setup(anatomy.describe(student), anatomy.describe(teacher), task)
    batch = Batch(given, task, training=True, counted_only=counted_only and objective.reads_counted_only)
    master = ModelTeacher(teacher)
    master.prepare(student, objective.wanted_of_teacher, torch.device("cpu"), None)
    seen = master.observe(batch)
    capture = Capture(student, objective.wanted_of_student | {LOGITS})
    with capture.counting(batch):
        outputs = student(**inputs_for(student, batch, capture.head))
    mine = capture.take(outputs, batch)
    terms = objective(mine, seen, batch)
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}
    student.zero_grad()
    return {name: term.detach() for name, term in terms.items()}, gradients, (mine.get(LOGITS), seen.get(LOGITS))


@pytest.mark.parametrize("family", HEADS)
def test_the_head_is_found(family):
    head, entry, last = HEADS[family]
    model = tiny(family, head)
    found = find_vocabulary_head(model)
    assert found.entry is model.get_submodule(entry)
    assert found.last is model.get_submodule(last)
    assert found.is_linear


def test_there_is_none_without_a_vocabulary_to_answer_with():
    assert find_vocabulary_head(tiny("bert", "ForSequenceClassification")) is None
    assert find_vocabulary_head(tiny("bert")) is None


@pytest.mark.parametrize("share", [0.3, 1.0, 0.0])
@pytest.mark.parametrize("family", HEADS)
def test_it_is_the_same_with_and_without_the_positions_that_do_not_count(family, share):
    student, teacher = (tiny(family, HEADS[family][0], seed) for seed in (0, 1))
    plain = distilled(student, teacher, inputs(student, share), counted_only=False)
    found = distilled(student, teacher, inputs(student, share), counted_only=True)
    assert all(isinstance(logits, HeadLogits) and logits.made is None for logits in found[2])
    assert not any(isinstance(logits, HeadLogits) for logits in plain[2])
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-4, atol=1e-6)
    assert bool(plain[0]["soft_targets"]) == (share > 0)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_without_labels_what_is_attended_counts(family):
    student, teacher = (tiny(family, HEADS[family][0], seed) for seed in (0, 1))
    given = inputs(student, 1.0, labels=False)
    plain, found = (distilled(student, teacher, given, counted) for counted in (False, True))
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-4, atol=1e-6)
    assert len(found[2][0].kept()) == given["attention_mask"].sum() - (4 if family == "gpt2" else 0)


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5"])
def test_the_head_computes_no_more_than_what_counts(family):
    student, teacher = (tiny(family, HEADS[family][0], seed) for seed in (0, 1))
    given = inputs(student, 0.3)
    rows = []
    for model in (student, teacher):
        entry = find_vocabulary_head(model).entry
        entry.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[:-1].numel()))
    distilled(student, teacher, given, counted_only=True)
    counted = given["labels"] >= 0
    if family != "t5":  # its labels stand beside its own tokens
        counted &= given["attention_mask"].bool()
    assert rows == [int(counted[:, 1:].sum() if family == "gpt2" else counted.sum())] * 2


def soft_capped(model: nn.Module) -> nn.Module:
    """As Gemma 2 does: what follows the last layer is no plain linear head any more."""
    forward = model.forward

    def capped(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.logits = torch.tanh(outputs.logits / 2.0) * 2.0
        return outputs

    model.forward = capped
    return model


def test_logits_that_a_model_goes_on_with_are_computed_where_they_count():
    student, teacher = (soft_capped(tiny("llama", "ForCausalLM", seed)) for seed in (0, 1))
    plain, found = (distilled(student, teacher, inputs(student, 0.3), counted) for counted in (False, True))
    assert [logits.weight for logits in found[2]] == [None, None]
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", [["query"], ["query", "decoder"]])
def test_adapters_also_on_the_head(targets):
    base = tiny("bert", "ForMaskedLM", 0, tie_word_embeddings=False)
    student = get_peft_model(base, LoraConfig(target_modules=targets, r=2, init_lora_weights=False)).eval()
    teacher = tiny("bert", "ForMaskedLM", 1)
    plain, found = (distilled(student, teacher, inputs(base, 0.3), counted) for counted in (False, True))
    assert (found[2][0].weight is None) == ("decoder" in targets)
    assert all("lora" in name for name in found[1])
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-4, atol=1e-6)


class Neighbours(SoftTargets):
    """A loss that looks at where the next position stands, whether it counts or not."""

    def compare(self, student, teacher, batch):
        return (student[:, 1:] - student[:, :-1] - teacher[:, 1:] + teacher[:, :-1]).square().mean()


def test_a_loss_that_looks_at_neighbours_gets_all_logits():
    student, teacher = (tiny("bert", "ForMaskedLM", seed) for seed in (0, 1))
    plain, found = (
        distilled(student, teacher, inputs(student, 0.3), counted, [TaskLoss(), Neighbours()])
        for counted in (False, True)
    )
    assert not any(isinstance(logits, HeadLogits) for logits in found[2])
    torch.testing.assert_close(found[:2], plain[:2])


@pytest.mark.parametrize("linear", [True, False])
def test_of_a_model_that_is_spread_out_the_head_is_told_what_counts_on_its_own_device(linear):
    """As accelerate places it: the blocks on one device, the head on another, to which its input is brought."""
    model = tiny("bert", "ForMaskedLM", tie_word_embeddings=False)
    head, given, elsewhere = model.cls.to("meta"), inputs(model, 0.3), []
    head.register_forward_pre_hook(lambda module, args: (args[0].to("meta"), *args[1:]))
    if not linear:
        head.register_forward_hook(lambda module, args, output: output * 1.0)
    select = torch.Tensor.index_select
    batch = Batch(given, find_task(model), counted_only=True)
    capture = Capture(model, {LOGITS})

    def watched(values, axis, index):
        elsewhere.append((values.device.type, index.device.type))
        return select(values, axis, index)

    with torch.no_grad(), capture.counting(batch), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "index_select", watched)
        outputs = model(**inputs_for(model, batch, capture.head))
    found = capture.take(outputs, batch)[LOGITS]
    assert ("meta", "meta") in elsewhere
    assert ("meta", "cpu") not in elsewhere
    assert (found.rows.device.type, found.whole().device.type) == ("meta", "meta")
    assert found.rows.shape == batch.counted_rows.shape


def test_a_model_is_left_as_it_was_also_after_an_error():
    model = tiny("bert", "ForMaskedLM")
    given = inputs(model, 0.3)
    batch = Batch(given, find_task(model), counted_only=True)
    capture, expected = Capture(model, {LOGITS}), model(given["input_ids"]).logits
    with pytest.raises(IndexError), capture.counting(batch):
        model(given["input_ids"] + VOCABULARY)
    assert "forward" not in vars(find_vocabulary_head(model).last)
    torch.testing.assert_close(model(given["input_ids"]).logits, expected)
    with capture:  # the next one counts nothing unless it is told to
        torch.testing.assert_close(model(given["input_ids"]).logits, expected)


def test_a_decoder_is_given_what_it_would_make_of_its_labels():
    for family in ("t5", "bart"):
        model = tiny(family, "ForConditionalGeneration")
        batch = Batch(inputs(model, 0.5), find_task(model), counted_only=True)
        given = inputs_for(model, batch, find_vocabulary_head(model))
        assert "labels" not in given
        expected = model(**inputs_for(model, Batch(batch.inputs, batch.task), None))
        assert expected.loss is not None
        torch.testing.assert_close(model(**given).logits, expected.logits)


@pytest.mark.parametrize("sizes", [(VOCABULARY, VOCABULARY + 6), (VOCABULARY + 6, VOCABULARY)])
def test_vocabularies_padded_to_two_sizes_are_compared_on_the_words_of_both(sizes, monkeypatch):
    student, teacher = (tiny("gpt2", "LMHeadModel", seed, vocab_size=size) for seed, size in enumerate(sizes))
    monkeypatch.setattr("hf_distill.checks.check_vocabulary", lambda *_: None)  # it is tested by itself
    given, losses = inputs(student, 0.5), [SoftTargets(temperature=1.0), DecoupledKL(), TaskLoss()]
    plain, found = (distilled(student, teacher, given, counted, losses) for counted in (False, True))
    torch.testing.assert_close(found[:2], plain[:2], rtol=1e-4, atol=1e-6)
    labels = given["labels"][:, 1:]
    kept = (labels >= 0) & given["attention_mask"][:, 1:].bool()
    mine, theirs = (
        copy.deepcopy(model)(**{k: v for k, v in given.items() if k != "labels"}).logits[:, :-1][kept]
        for model in (student, teacher)
    )
    log_q, log_p = (side[:, :VOCABULARY].log_softmax(-1) for side in (mine, theirs))
    torch.testing.assert_close(plain[0]["soft_targets"], (log_p.exp() * (log_p - log_q)).sum(-1).mean())
    expected = torch.nn.functional.cross_entropy(mine, labels[kept])  # over all classes of the student
    torch.testing.assert_close(plain[0]["task_loss"], expected)


def asked(monkeypatch) -> list[nn.Module]:
    """Whose head is looked for."""
    found: list[nn.Module] = []

    def watched(model):
        found.append(model)
        return find_vocabulary_head(model)

    monkeypatch.setattr("hf_distill.capture.find_vocabulary_head", watched)
    monkeypatch.setattr("hf_distill.vocabulary.find_vocabulary_head", watched)
    return found


@pytest.mark.parametrize("adapted", [False, True])
def test_the_head_is_looked_for_once_a_model_and_not_in_every_step(tmp_path, monkeypatch, adapted):
    """An encoder-decoder, whose inputs are made in every step; the student is made anew for a second training."""
    made, given = [], []

    def model_init():
        made.append(tiny("t5", "ForConditionalGeneration", seed=len(made)))
        made[-1].register_forward_pre_hook(lambda module, args, kwargs: given.append(kwargs), with_kwargs=True)
        return made[-1]

    lora = LoraConfig(target_modules=["q"], r=2) if adapted else None
    found, teacher = asked(monkeypatch), tiny("t5", "ForConditionalGeneration", 9)
    settings = {"model_init": model_init, "data_collator": labelled, "peft_config": lora, "max_steps": 4}
    trainer = distillation(tmp_path, None, teacher, [TaskLoss(), SoftTargets()], ragged(8), **settings)
    for _ in range(2):
        trainer.train()
        assert trainer._capture.head.last is made[-1].lm_head
    students = [anatomy.unwrap(model) for model in found if model is not teacher]
    assert len(made) > 1
    assert len(students) == len(made)
    assert all(model is student for model, student in zip(students, made, strict=True))
    assert len(found) == 3 * len(made), (
        "twice in the teacher whenever it is prepared: for training, and for evaluation"
    )
    assert len(given) == 8
    assert all("labels" not in each and "decoder_input_ids" in each for each in given)
