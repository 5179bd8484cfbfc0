"""A frozen model as the teacher: who loads it, what reaches it, and that nothing of it gets out."""

import copy

import pytest
import torch
from datasets import Dataset
from models import LABELS, inputs_of, tiny
from runs import classifier, distillation, exactly, rows, same, weights, words
from safetensors.torch import load_file

from hf_distill.batch import Batch
from hf_distill.losses import AttentionMSE, HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, attention, hidden, pooled
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher, load
from hf_distill.teachers.model import named

CPU = torch.device("cpu")


def observed(model, wanted, inputs, task=Task.SINGLE_LABEL):
    teacher = ModelTeacher(model)
    teacher.prepare(copy.deepcopy(model), frozenset(wanted), CPU, None)
    return teacher.observe(Batch(inputs, task))


def test_it_says_what_the_model_says():
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS)
    inputs = inputs_of(model)
    seen = observed(model, {LOGITS, hidden(1), attention(2), pooled("first")}, inputs | {"labels": torch.zeros(3)})
    model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    torch.testing.assert_close(seen[LOGITS], outputs.logits)
    torch.testing.assert_close(seen[hidden(1)], outputs.hidden_states[2])
    torch.testing.assert_close(seen[pooled("first")], outputs.hidden_states[-1][:, 0])
    rows_of_tokens = inputs["attention_mask"].bool()[:, None, :, None].expand_as(seen[attention(2)])
    torch.testing.assert_close(seen[attention(2)][rows_of_tokens], outputs.attentions[2][rows_of_tokens])
    assert not any(signal.requires_grad for signal in seen.values())


def test_it_is_frozen_and_left_as_it_was(tmp_path):
    teacher = classifier(seed=1)
    before = weights(teacher)
    losses = [TaskLoss(), SoftTargets(), HiddenMSE(), AttentionMSE()]
    trainer = distillation(tmp_path, classifier(), teacher, losses, save_strategy="steps", save_steps=3)
    trainer.train()
    assert same(before, weights(teacher))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert not any(module is teacher for module in trainer.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())
    optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(parameter) for parameter in teacher.parameters()}
    student = set(classifier().state_dict())
    assert set(load_file(tmp_path / "checkpoint-3" / "model.safetensors")) == student


def paired(count: int = 16) -> Dataset:
    """Rows whose second half is another text, which only token_type_ids say."""
    return rows(count, token_type_ids=[[0, 0, 0, 1, 1, 1]] * count)


def test_token_type_ids_reach_a_teacher_whose_student_has_none(tmp_path):
    teacher, seen = classifier(seed=1), []
    teacher.register_forward_pre_hook(lambda module, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True)
    student = classifier("distilbert")
    student.register_forward_pre_hook(lambda module, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True)
    trainer = distillation(tmp_path, student, teacher, [SoftTargets()], paired(), eval_dataset=paired())
    trainer.train()
    trainer.evaluate()
    assert len(seen) == 2 * (3 + 4)
    for theirs, mine in zip(seen[::2], seen[1::2], strict=True):
        assert theirs["token_type_ids"].sum() == 3 * len(theirs["input_ids"])
        assert "token_type_ids" not in mine
        assert not {"labels", "hint"} & (theirs.keys() | mine.keys())
    blind = distillation(tmp_path, classifier("distilbert"), classifier(seed=1), [SoftTargets()], rows())
    blind.train()
    assert not same(weights(blind.model), weights(student)), "the teacher said something else without them"


def test_columns_that_neither_reads_are_dropped(tmp_path):
    data = paired().add_column("text", ["as it was"] * 16)
    assert distillation(tmp_path, classifier(), classifier(seed=1), None, data).train().global_step == 3
    kept = data.remove_columns("text").add_column("weight", [0.5] * 16)
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), None, kept, remove_unused_columns=False)
    assert trainer.train().global_step == 3


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_sequence_to_sequence_teacher_makes_its_decoders_inputs_from_the_labels(tmp_path, family):
    student, teacher = (tiny(family, "ForConditionalGeneration", seed) for seed in (0, 1))
    data = Dataset.from_dict({"input_ids": [[3, 4, 5]] * 8, "labels": [[6, 7, 2]] * 8})
    trainer = distillation(tmp_path, student, teacher, None, data)
    trainer.train()
    assert trainer.state.log_history[0]["soft_targets"] > 0


def test_a_decoder_keeps_no_cache():
    model = tiny("llama", "ForCausalLM")
    model.config.use_cache = True
    made = []
    model.register_forward_hook(lambda module, args, output: made.append(output.past_key_values))
    observed(model, {LOGITS}, inputs_of(model), Task.CAUSAL_LM)
    assert made == [None]


def test_what_is_spread_out_stays_where_it_is():
    model, moved = classifier(), []
    model.to = lambda *args: moved.append(args)
    ModelTeacher(model).prepare(classifier(seed=1), frozenset({LOGITS}), CPU, None)
    assert moved == [(CPU,)]
    model.hf_device_map = {"": "cpu"}
    ModelTeacher(model).prepare(classifier(seed=1), frozenset({LOGITS}), CPU, None)
    assert moved == [(CPU,)]


# --- by name

HEADS = [
    ("bert", "ForSequenceClassification"),
    ("bert", "ForTokenClassification"),
    ("bert", "Model"),
    ("vit", "ForImageClassification"),
    ("llama", "ForCausalLM"),
]


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_load_takes_the_class_that_the_config_names(tmp_path, family, head):
    model = tiny(family, head).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    found = load(str(tmp_path))
    assert type(found) is type(model)
    assert not found.training
    assert found.dtype is torch.float32
    assert same(weights(found), weights(model.float()))
    assert load(str(tmp_path), dtype="auto").dtype is torch.bfloat16


def test_load_refuses_a_class_that_transformers_has_not(tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace("BertForSequenceClassification", "MyOwnModel"))
    message = f"{tmp_path}: its config names no class of transformers (['MyOwnModel']). Load the model and pass it."
    with pytest.raises(ValueError, match=exactly(message)):
        load(str(tmp_path))


def test_what_is_raised_for_a_name_is_one_line_with_it():
    with pytest.raises(ValueError, match=r"^lm 'me/it': two lines$") as refused, named("lm", "me/it"):
        raise OSError("two\n    lines")
    assert isinstance(refused.value.__cause__, OSError)
    with pytest.raises(ValueError, match=r"^lm 'me/it': KeyError$"), named("lm", "me/it"):
        raise KeyError


def test_student_and_teacher_by_name(tmp_path):
    labels = {0: "anger", 1: "joy", 2: "fear"}
    teacher = classifier(seed=1, id2label=labels, problem_type="multi_label_classification")
    teacher.save_pretrained(tmp_path / "teacher")
    tiny("distilbert", "ForMaskedLM", n_layers=2).save_pretrained(tmp_path / "student")
    for name in ("teacher", "student"):
        words().save_pretrained(tmp_path / name)
    data = rows().map(lambda row: {"labels": [float(row["labels"] == label) for label in labels]})
    trainer = distillation(tmp_path / "out", str(tmp_path / "student"), str(tmp_path / "teacher"), None, data)
    assert type(trainer.model).__name__ == "DistilBertForSequenceClassification"
    assert trainer.model.config.id2label == labels
    assert trainer.task is Task.MULTI_LABEL
    assert trainer.processing_class.get_vocab() == words().get_vocab()
    assert same(weights(trainer.teacher.model), weights(teacher))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_student_by_name_without_a_tokenizer_has_none(tmp_path):
    """An image model has none; for a BERT folder without files transformers would make one of five words."""
    vit = tiny("vit", "ForImageClassification")
    vit.save_pretrained(tmp_path / "vit")
    images = Dataset.from_dict({"pixel_values": torch.randn(8, 3, 16, 16).tolist(), "labels": [0, 1] * 4})
    trainer = distillation(tmp_path / "out", str(tmp_path / "vit"), vit, None, images.with_format("torch"))
    assert trainer.processing_class is None
    assert trainer.train().global_step == 3
    classifier().save_pretrained(tmp_path / "bert")
    assert distillation(tmp_path / "out", str(tmp_path / "bert"), classifier(seed=1)).processing_class is None


@pytest.mark.parametrize(
    ("losses", "trained", "evaluated"), [([HiddenMSE({0: 0})], 1, 2), ([TaskLoss()], 0, 2), ([SoftTargets()], 2, 2)]
)
def test_after_the_first_step_the_teacher_runs_as_far_as_the_losses_look(tmp_path, losses, trained, evaluated):
    teacher, ran = classifier(seed=1), []
    blocks = teacher.bert.encoder.layer
    trainer = distillation(tmp_path, classifier(), teacher, losses, max_steps=2)
    for block in blocks:
        block.register_forward_hook(lambda *_: ran.append(trainer.model.training))
    trainer.train()
    assert len(ran) == ran.count(True) == len(blocks) + trained  # in the first step all that it says is checked
    ran.clear()
    metrics = trainer.evaluate(rows(8))
    assert ran == [False] * len(trainer.get_eval_dataloader(rows(8))) * evaluated
    assert 0 <= metrics["eval_agreement"] <= 1
