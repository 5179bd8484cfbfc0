"""The student's own predictions of the epoch before: what is answered, for which example, and after a resume."""

import pytest
import torch
import torch.nn.functional as F
from distributed import collate
from distributed import rows as ragged
from models import LABELS, tiny
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill.batch import IGNORED, Batch
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import PastSelf

EPOCHS = {"max_steps": -1, "num_train_epochs": 3}


class Noted(PastSelf):
    """Keeps what was answered for which example, and what the student said to it, step by step."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def respond(self, batch, student):
        said = super().respond(batch, student)
        if torch.is_grad_enabled():
            texts = [
                tuple(ids[mask.bool()].tolist())
                for ids, mask in zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
            ]
            self.heard.append((texts, said[LOGITS].clone(), student[LOGITS].detach().clone(), batch.labels))
        return said


def prepared(task="single_label_classification", head="ForSequenceClassification", classes=LABELS):
    teacher = PastSelf()
    model = tiny("bert", head, num_labels=classes, problem_type=task)
    teacher.prepare(model, frozenset({LOGITS}), torch.device("cpu"), None)
    return teacher


def batch_of(ids, labels, task, padding=0, left=False):
    ids = torch.tensor(ids)
    mask = torch.ones_like(ids)
    sides = (padding, 0) if left else (0, padding)
    inputs = {"input_ids": F.pad(ids, sides), "attention_mask": F.pad(mask, sides)}
    return Batch(inputs if labels is None else {**inputs, "labels": labels}, task)


def answer(teacher, batch, student):
    seen = teacher.observe(batch).get(LOGITS)
    return seen, teacher.respond(batch, {LOGITS: student})[LOGITS]


@pytest.mark.parametrize("accumulated", [1, 2])
def test_every_example_hears_what_was_said_of_it_in_the_epoch_before(tmp_path, accumulated):
    """Ragged rows are shuffled and padded otherwise in each epoch."""
    teacher, data = Noted(), ragged(16, "one label")
    settings = {**EPOCHS, "gradient_accumulation_steps": accumulated, "data_collator": collate}
    distillation(tmp_path, classifier(), teacher, [TaskLoss(), SoftTargets(1.0)], data, **settings).train()
    said = {}
    widths = set()
    for texts, answers, student, labels in teacher.heard:
        for text, answered, own, label in zip(texts, answers, student, labels, strict=True):
            if text in said:
                assert torch.equal(answered, said[text])
            elif label >= 0:
                assert torch.equal(answered.softmax(-1), F.one_hot(label, LABELS).float())
            else:
                assert torch.equal(answered, own)
            said[text] = own
        widths.add(max(map(len, texts)))
    assert len(said) == 16
    assert len(teacher.heard) == 12
    assert len(widths) > 1


def test_in_the_first_epoch_the_term_is_the_cross_entropy(tmp_path):
    settings = {"max_steps": -1, "num_train_epochs": 2}
    trainer = distillation(tmp_path, classifier(), PastSelf(), [TaskLoss(), SoftTargets(1.0)], **settings)
    trainer.train()
    logs = [each for each in trainer.state.log_history if "soft_targets" in each]
    for each in logs[:4]:
        assert each["soft_targets"] == pytest.approx(each["task_loss"], rel=1e-5)
    for each in logs[4:]:
        assert each["soft_targets"] != pytest.approx(each["task_loss"], rel=1e-2)


def test_several_labels_each_of_its_own():
    teacher = prepared("multi_label_classification")
    labels = torch.tensor([[1.0, 0.0, 0.25], [float(IGNORED)] * 3, [1.0, IGNORED, 0.0]])
    student = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    batch = batch_of([[5, 6], [7, 8], [9, 9]], labels, Task.MULTI_LABEL)
    _, answered = answer(teacher, batch, student)
    assert answered[0].sigmoid().tolist() == [1.0, 0.0, pytest.approx(0.25)]
    assert answered[1].tolist() == student[1].tolist()
    assert answered[2, 1] == 8.0
    assert answered[2].sigmoid()[[0, 2]].tolist() == [1.0, 0.0]
    again, _ = answer(teacher, batch, torch.zeros(3, 3))
    assert torch.equal(again, student)


def test_tokens_are_told_beside_their_own_place_wherever_the_padding_is():
    teacher = prepared(head="ForTokenClassification")
    labels = torch.tensor([[0, IGNORED, 2]])
    student = torch.arange(9.0).reshape(1, 3, 3)
    answer(teacher, batch_of([[5, 6, 7]], labels, Task.TOKENS), student)
    for left, place in ((False, slice(0, 3)), (True, slice(2, 5))):
        sides = (2, 0) if left else (0, 2)
        batch = batch_of([[5, 6, 7]], F.pad(labels, sides, value=IGNORED), Task.TOKENS, 2, left)
        with torch.no_grad():
            _, answered = answer(teacher, batch, torch.zeros(1, 5, 3))
        assert torch.equal(answered[:, place], student)


def test_numbers_are_told_as_numbers():
    teacher = prepared("regression", classes=1)
    batch = batch_of([[5, 6], [7, 8]], torch.tensor([0.5, -2.0]), Task.REGRESSION)
    seen, answered = answer(teacher, batch, torch.tensor([[3.0], [4.0]]))
    assert seen.tolist() == answered.tolist() == [[0.5], [-2.0]]
    assert teacher.observe(batch)[LOGITS].tolist() == [[3.0], [4.0]]


def test_without_labels_nothing_is_learned_until_something_was_said():
    teacher = prepared()
    batch = batch_of([[5, 6]], None, Task.SINGLE_LABEL)
    first, second = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, 9.0]])
    assert torch.equal(answer(teacher, batch, first)[1], first)
    assert torch.equal(answer(teacher, batch, second)[1], first)


def test_an_evaluation_is_not_remembered(tmp_path):
    trainer = distillation(tmp_path, classifier(), PastSelf(), [SoftTargets(1.0)], eval_dataset=rows(8))
    found = [trainer.evaluate() for _ in range(2)]
    assert found[0]["eval_soft_targets"] == found[1]["eval_soft_targets"] > 0
    assert "eval_agreement" not in found[0]  # with whom?
    assert trainer.teacher.state() == {}


@pytest.mark.parametrize("step", [3, 6])  # in the middle of the first epoch of 4 steps, and of the second
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, step):
    def trainer():
        settings = {**EPOCHS, "save_strategy": "steps", "save_steps": 3}
        return distillation(tmp_path, classifier(), PastSelf(), [TaskLoss(0.1), SoftTargets(1.0)], **settings)

    whole, part = trainer(), trainer()
    whole.train()
    part.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert same(weights(whole.model), weights(part.model))
    assert len(whole.teacher.state()["keys"]) == 16


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification"])
def test_what_is_kept_is_the_same_after_a_checkpoint(head):
    one, other = prepared(head=head), prepared(head=head)
    task = Task.TOKENS if "Token" in head else Task.SINGLE_LABEL
    student = torch.randn(2, 3, 3) if task is Task.TOKENS else torch.randn(2, 3)
    labels = torch.zeros(2, 3, dtype=torch.long) if task is Task.TOKENS else torch.tensor([0, 1])
    batch = batch_of([[5, 6, 7], [8, 9, 3]], labels, task)
    answer(one, batch, student)
    other.load_state(one.state())
    assert torch.equal(other.observe(batch)[LOGITS], student)
    assert same(one.state(), other.state())


def test_what_cannot_be_kept_is_refused(tmp_path):
    message = (
        "PastSelf keeps the logits of every example, and those of a masked_lm model are none or too many. Use "
        "EMATeacher."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, tiny("bert", "ForMaskedLM"), PastSelf(), [SoftTargets()])
    with pytest.raises(ValueError, match="HiddenMSE needs the layers of a teacher model"):
        distillation(tmp_path, classifier(), PastSelf(), [HiddenMSE()])
    with pytest.raises(
        ValueError, match="the checkpoint holds keys, logits, rows, which is no memory of a student wi"
    ):
        prepared(classes=4).load_state(
            {"keys": torch.zeros(0, 2), "rows": torch.zeros(0), "logits": torch.zeros(0, 3)}
        )
    with pytest.raises(ValueError, match="the checkpoint holds steps, which is no memory of a student with 3 classes"):
        prepared().load_state({"steps": torch.tensor(1)})
