"""The average of the student: what it is, that it teaches, and that it goes on after a resume."""

import copy

import pytest
import torch
from peft import LoraConfig
from runs import classifier, distillation, exactly, rows, same, weights
from transformers import TrainerCallback

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, hidden
from hf_distill.teachers import EMATeacher


def learning(folder, student, teacher, **settings):
    return distillation(folder, student, teacher, [TaskLoss(), SoftTargets(), HiddenMSE()], **settings)


class Noting(TrainerCallback):
    """The student's weights after every step."""

    def __init__(self):
        self.after = []

    def on_step_end(self, args, state, control, model, **kwargs):
        self.after.append(weights(model))


def test_it_is_the_plain_mean_at_first_and_then_the_exponential_one(tmp_path):
    student = classifier()
    start, noting = weights(student), Noting()
    teacher = EMATeacher(student, decay=0.7)
    trainer = learning(tmp_path, student, teacher, max_steps=6)
    trainer.add_callback(noting)
    trainer.train()
    assert len(noting.after) == 6
    for name, average in teacher.model.named_parameters():
        expected = start[name].double()
        for step, after in enumerate(noting.after, start=1):
            kept = min(0.7, step / (step + 1))  # 1/2, 2/3, then 0.7
            expected = kept * expected + (1 - kept) * after[name]
        assert torch.allclose(average, expected.float(), atol=1e-6), name
    moved = [not torch.equal(average, start[name]) for name, average in teacher.model.named_parameters()]
    assert all(moved)


def test_it_teaches_with_every_signal_and_stands_still_within_a_step(tmp_path):
    student = classifier()
    trainer = learning(tmp_path, student, EMATeacher(student), max_steps=3, eval_dataset=rows(8))
    trainer.train()
    logs = [each for each in trainer.state.log_history if "hidden_mse" in each]
    assert logs[0]["soft_targets"] == logs[0]["hidden_mse"] == pytest.approx(0, abs=1e-7)  # it is the student
    assert logs[2]["soft_targets"] > 1e-6
    assert logs[2]["hidden_mse"] > 1e-6
    assert "eval_agreement" in trainer.evaluate()


def test_it_answers_as_the_averaged_model_does(tmp_path):
    student, data = classifier(), rows(4)
    teacher = EMATeacher(student)
    trainer = learning(tmp_path, student, teacher, max_steps=4)
    trainer.train()
    batch = trainer.data_collator([data[index] for index in range(4)])
    other = copy.deepcopy(teacher.model).eval()
    with torch.no_grad():
        outputs = other(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)

    seen = teacher.observe(Batch(batch, trainer.task))
    assert torch.allclose(seen[LOGITS], outputs.logits, atol=1e-6)
    assert torch.allclose(seen[hidden(1)], outputs.hidden_states[2], atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}

    def trainer(folder):
        student = classifier()
        return learning(folder, student, EMATeacher(student, decay=0.6), **settings)

    whole, part = trainer(tmp_path), trainer(tmp_path)
    whole.train()
    part.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same(weights(whole.model), weights(part.model))
    assert same(whole.teacher.state(), part.teacher.state())


def test_of_adapters_only_the_trained_weights_are_kept(tmp_path):
    student = classifier()
    teacher = EMATeacher(student, decay=0.5)
    adapters = LoraConfig(task_type="SEQ_CLS", r=2, lora_dropout=0.0)
    trainer = distillation(tmp_path, student, teacher, [TaskLoss(), SoftTargets()], peft_config=adapters)
    trainer.train()
    names = set(teacher.state()) - {"steps"}
    assert names == {name for name, each in trainer.model.named_parameters() if each.requires_grad}
    assert any("lora_A" in name for name in names)
    average, student = dict(teacher.model.named_parameters()), dict(trainer.model.named_parameters())
    for name in average:
        assert torch.equal(average[name], student[name]) == (name not in names), name


def test_buffers_are_the_students(tmp_path):
    student = classifier()
    student.register_buffer("seen", torch.zeros(1))
    teacher = EMATeacher(student)
    learning(tmp_path, student, teacher)
    student.seen.fill_(7.0)
    teacher.step()
    assert teacher.model.seen.item() == 7.0


def test_a_half_precision_student_is_averaged_in_float32(tmp_path):
    student = classifier().bfloat16()
    teacher = EMATeacher(student)
    learning(tmp_path, student, teacher)
    assert {each.dtype for each in teacher.model.parameters()} == {torch.float32}


def test_a_student_that_is_made_anew_is_averaged_anew(tmp_path):
    teacher = EMATeacher(classifier())
    made = []

    def make():
        made.append(classifier(seed=len(made)))
        return made[-1]

    trainer = distillation(tmp_path, None, teacher, [TaskLoss(), SoftTargets()], model_init=make)
    trainer.train()
    assert teacher.student is made[-1]
    fresh = weights(classifier(seed=len(made) - 1))
    assert all(torch.allclose(each, fresh[name], atol=0.1) for name, each in teacher.model.named_parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_is_none_is_refused(decay):
    message = f"EMATeacher: decay={decay} keeps too much or too little; it must be 0 to below 1."
    with pytest.raises(ValueError, match=exactly(message)):
        EMATeacher(classifier(), decay)


def test_a_checkpoint_of_another_teacher_is_refused(tmp_path):
    student = classifier()
    teacher = EMATeacher(student)
    learning(tmp_path, student, teacher)
    with pytest.raises(ValueError, match="holds no average of this student: steps is missing there and \\(\\) here"):
        teacher.load_state({})
    with pytest.raises(ValueError, match="holds no average of this student: other is \\(1,\\) there"):
        teacher.load_state({**teacher.state(), "other": torch.zeros(1)})
