"""The student without its adapters as its teacher, against a copy of the model that was made before."""

import copy

import pytest
import torch
from models import LABELS, tiny
from peft import LoraConfig, get_peft_model
from runs import classifier, distillation, rows, same, weights

from hf_distill import anatomy
from hf_distill.losses import AttentionKL, HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS
from hf_distill.teachers import AdapterOffTeacher

LOSSES = [TaskLoss(), SoftTargets(), HiddenMSE(), AttentionKL()]


def base(seed=0):
    """With dropout, which a teacher must not have; attention's would drown its maps."""
    fields = {"num_labels": LABELS, "num_hidden_layers": 2, "hidden_dropout_prob": 0.3}
    return tiny("bert", "ForSequenceClassification", seed, **fields, attention_probs_dropout_prob=0.0)


def adapted(model, **settings):
    torch.manual_seed(0)
    fields = {"r": 4, "target_modules": ["query", "value"], "modules_to_save": ["classifier"], "lora_dropout": 0.2}
    return get_peft_model(model, LoraConfig(**(fields | settings)))


def run(folder, teacher_of, student=None, **settings):
    student = adapted(base()) if student is None else student
    trainer = distillation(folder, student, teacher_of(student), LOSSES, eval_dataset=rows(8), **settings)
    trainer.train()
    trained = {name: w.requires_grad for name, w in student.named_parameters()}
    return weights(student), trainer.evaluate(), trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_is_that_with_a_copy_of_the_base(tmp_path, checkpointing):
    """The student moves away from the start, the teacher does not; the draws of dropout stay the student's."""
    settings = {"activation_checkpointing": True} if checkpointing else {}
    expected, its, trained = run(tmp_path / "copy", lambda student: base(), **settings)
    found, mine, still_trained = run(tmp_path / "off", AdapterOffTeacher, **settings)
    assert same(expected, found)
    assert trained == still_trained
    assert {name: its[name] for name in its if "runtime" not in name and "second" not in name} == {
        name: mine[name] for name in mine if "runtime" not in name and "second" not in name
    }
    start = weights(adapted(base()))
    changed = {name for name in found if not torch.equal(found[name], start[name])}
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)


def test_the_trainer_may_make_the_adapters(tmp_path):
    model = base()
    config = LoraConfig(r=4, target_modules=["query", "value"], modules_to_save=["classifier"])
    teacher = AdapterOffTeacher(model)
    trainer = distillation(tmp_path, model, teacher, LOSSES, peft_config=config)
    assert trainer.train().training_loss > 0


def test_the_answer_is_the_bases_whatever_mode_the_student_is_in(tmp_path):
    student = adapted(base())
    teacher = AdapterOffTeacher(student)
    trainer = distillation(tmp_path, student, teacher, [SoftTargets()])
    with torch.no_grad():
        for weight in student.parameters():
            if weight.requires_grad:
                weight.add_(0.5)  # as if it had learned
    frozen = list(student.parameters())[-1]
    only = next(weight for name, weight in student.named_parameters() if "lora_A" in name)
    only.requires_grad_(False)  # by somebody's own will
    modes = {}
    for training in (True, False):
        student.train(training)
        student.base_model.model.bert.encoder.layer[0].eval()
        modes = [module.training for module in student.modules()]
        batch = next(iter(trainer.get_train_dataloader()))
        seen = teacher.observe(batch_of(batch))[LOGITS]
        with torch.no_grad():
            expected = base()(**{name: value for name, value in batch.items() if name != "labels"}).logits
        torch.testing.assert_close(seen, expected)
        assert modes == [module.training for module in student.modules()]
    assert not only.requires_grad
    assert frozen.requires_grad
    with torch.no_grad():
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        assert not torch.allclose(student.eval()(**inputs).logits, expected)  # the adapters are on again


def batch_of(inputs):
    from hf_distill.batch import Batch
    from hf_distill.tasks import Task

    return Batch(inputs, Task.SINGLE_LABEL)


def test_no_second_copy_exists(tmp_path):
    student = adapted(base())
    teacher = AdapterOffTeacher(student)
    distillation(tmp_path, student, teacher, [SoftTargets()])
    assert teacher.model is anatomy.unwrap(student)


@pytest.mark.parametrize(
    ("student", "said"),
    [
        (base, r"the student \(BertForSequenceClassification\) has no adapters to switch off"),
        (lambda: adapted(base(), bias="all"), r"bias belongs to the base and is trained"),
        (lambda: adapted(base(), init_lora_weights="pissa"), "init_lora_weights='pissa' changes the base"),
    ],
)
def test_a_base_that_would_not_stay_is_refused(tmp_path, student, said):
    made = student()
    with pytest.raises(ValueError, match=said):
        distillation(tmp_path, made, AdapterOffTeacher(made), [SoftTargets()])


def test_a_head_that_somebody_thawed_is_refused(tmp_path):
    student = adapted(base(), modules_to_save=None)
    anatomy.unwrap(student).classifier.requires_grad_(True)
    with pytest.raises(ValueError, match=r"classifier\.weight belongs to the base and is trained"):
        distillation(tmp_path, student, AdapterOffTeacher(student), [SoftTargets()])


def test_another_model_is_refused(tmp_path):
    student = adapted(classifier())
    with pytest.raises(ValueError, match="was made of another BertForSequenceClassification than the student"):
        distillation(tmp_path, student, AdapterOffTeacher(copy.deepcopy(student)), [SoftTargets()])
