"""A teacher of the user's own: what it is told, what it may say, and when it is called."""

import pytest
import torch
from models import LABELS
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill.losses import HiddenMSE, LogitMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS
from hf_distill.teachers import Teacher


class Rules(Teacher):
    """Reads a column that no model knows, and notes what happens to it."""

    input_names = ("hint",)

    def __init__(self) -> None:
        self.prepared: list[tuple] = []
        self.seen: list[set[str]] = []
        self.steps = 0

    def prepare(self, student, wanted, device, tokenizer):
        self.prepared.append((type(student).__name__, wanted, device.type, tokenizer))

    def observe(self, batch):
        self.seen.append(set(batch.inputs))
        return {LOGITS: 5.0 * torch.nn.functional.one_hot(batch.inputs["hint"], LABELS).float()}

    def step(self):
        self.steps += 1


def hinted(count: int = 16):
    return rows(count, hint=[index % LABELS for index in range(count)])


def test_it_is_asked_once_a_batch_and_its_columns_reach_it(tmp_path):
    teacher, data = Rules(), hinted()
    trainer = distillation(tmp_path, classifier(), teacher, None, data, eval_dataset=data)
    assert teacher.prepared == [("BertForSequenceClassification", frozenset({LOGITS}), "cpu", None)]
    trainer.train()
    assert len(teacher.seen) == 3
    assert all({"hint", "input_ids", "labels"} <= names for names in teacher.seen)
    assert 0 <= trainer.evaluate()["eval_agreement"] <= 1


def test_the_student_follows_it(tmp_path):
    data = hinted()
    trainer = distillation(tmp_path, classifier(), Rules(), [SoftTargets()], data, max_steps=40, eval_dataset=data)
    before = trainer.evaluate()["eval_soft_targets"]
    trainer.train()
    assert trainer.evaluate()["eval_soft_targets"] < 0.5 * before


@pytest.mark.parametrize("accumulated", [1, 2])
def test_step_comes_once_an_optimizer_step(tmp_path, accumulated):
    teacher = Rules()
    settings = {"max_steps": -1, "num_train_epochs": 2, "gradient_accumulation_steps": accumulated}
    settings |= {"eval_strategy": "epoch", "eval_dataset": hinted()}
    trainer = distillation(tmp_path, classifier(), teacher, None, hinted(), **settings)
    trainer.train()
    assert teacher.steps == trainer.state.global_step == 8 // accumulated


def test_it_is_told_the_settings_before_the_first_step(tmp_path):
    class Told(Rules):
        def begin(self, args, steps):
            self.told = (args.learning_rate, steps, self.seen == [])

    class Around(Rules):
        def __init__(self):
            super().__init__()
            self.members = (Told(),)

    teacher = Around()
    settings = {"max_steps": -1, "num_train_epochs": 2, "learning_rate": 0.5}
    distillation(tmp_path, classifier(), teacher, None, hinted(), **settings).train()
    assert teacher.members[0].told == (0.5, 8, True)


def test_a_teacher_that_changes_is_heard(tmp_path):
    class Ageing(Rules):
        def observe(self, batch):
            return {LOGITS: super().observe(batch)[LOGITS] * (self.steps + 1)}

    one, other = (distillation(tmp_path, classifier(), each, None, hinted()) for each in (Rules(), Ageing()))
    for trainer in (one, other):
        trainer.train()
    terms = [[each["soft_targets"] for each in t.state.log_history if "soft_targets" in each] for t in (one, other)]
    assert terms[0][0] == terms[1][0]
    assert terms[0][1] < terms[1][1]


def test_its_prepare_may_refuse(tmp_path):
    class Picky(Rules):
        def prepare(self, student, wanted, device, tokenizer):
            raise ValueError("no")

    with pytest.raises(ValueError, match=exactly("no")):
        distillation(tmp_path, classifier(), Picky(), None, hinted())


def test_losses_on_layers_need_a_model(tmp_path):
    message = "HiddenMSE needs the layers of a teacher model, and this teacher is not one. Leave it out."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), Rules(), [HiddenMSE()], hinted())


def test_a_student_by_name_needs_a_head_to_copy(tmp_path):
    classifier().save_pretrained(tmp_path / "student")
    with pytest.raises(ValueError, match="cannot be loaded by id: this teacher has no head to copy"):
        distillation(tmp_path, str(tmp_path / "student"), Rules(), None, hinted())


def test_a_student_that_is_made_anew_is_shown_to_it(tmp_path):
    teacher = Rules()
    made = []

    def make():
        made.append(classifier(seed=3))
        return made[-1]

    losses = (each for each in [TaskLoss(), SoftTargets()])  # an iterator ends, and is asked for twice
    trainer = distillation(tmp_path, None, teacher, losses, hinted(), model_init=make)
    trainer.train()
    assert len(made) == len(teacher.prepared) == 2
    assert trainer.model is made[-1]
    assert not same(weights(trainer.model), weights(classifier(seed=3)))


class Counting(Teacher):
    """Answers zeros, and in `respond` how often the student has spoken; remembers that in checkpoints."""

    def __init__(self):
        self.seen = torch.zeros(1)
        self.evaluated = 0

    def observe(self, batch):
        return {LOGITS: torch.zeros(batch.rows, LABELS)}

    def respond(self, batch, student):
        if not torch.is_grad_enabled():
            self.evaluated += 1
            return {}
        self.seen += 1
        return {LOGITS: self.seen + torch.arange(LABELS) + 0 * student[LOGITS].detach()}

    def state(self):
        return {"seen": self.seen}

    def load_state(self, state):
        self.seen = state["seen"]


def test_a_teacher_may_answer_once_the_student_has_spoken(tmp_path):
    teacher = Counting()
    trainer = distillation(tmp_path / "a", classifier(), teacher, [LogitMSE()], eval_dataset=rows(8))
    trainer.train()
    trainer.evaluate()
    assert teacher.seen == 3
    assert teacher.evaluated == 2
    plain = distillation(tmp_path / "b", classifier(), Constant(), [LogitMSE()])
    plain.train()
    assert not same(weights(trainer.model), weights(plain.model))


class Constant(Teacher):
    def observe(self, batch):
        return {LOGITS: torch.zeros(batch.rows, LABELS)}


def test_what_a_teacher_learned_is_in_the_checkpoint(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = distillation(tmp_path / "whole", classifier(), Counting(), [LogitMSE()], **saving)
    whole.train()
    resumed = distillation(tmp_path / "whole", classifier(), Counting(), [LogitMSE()], **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.teacher.seen == 4
    assert same(weights(whole.model), weights(resumed.model))
    forgetful = distillation(tmp_path / "whole", classifier(), Constant(), [LogitMSE()], **saving)
    with pytest.raises(ValueError, match=r"the checkpoint holds what a teacher learned \(seen\), and Constant keeps"):
        forgetful.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
