"""A teacher around another one: everything that the trainer says or asks reaches the one inside."""

import pytest
import torch
from models import LABELS
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill import anatomy
from hf_distill.losses import AttentionKL, HiddenMSE, SoftTargets
from hf_distill.signals import LOGITS, ModelShape, attention
from hf_distill.teachers import (
    CachedTeacher,
    EnsembleTeacher,
    ModelTeacher,
    NoisyTeacher,
    PastSelf,
    PermutedTeacher,
    SelectiveTeacher,
    Teacher,
    Wrapper,
)


class Everything(Teacher):
    """Notes what reaches it, and answers something to every question."""

    input_names = ("hint",)
    shape = ModelShape("Everything", 2, 4, 2, LABELS)
    model = torch.nn.Linear(1, 1)
    top_k = 7
    says_trust = True

    def __init__(self) -> None:
        self.called: list[str] = []
        self.loaded = None

    def prepare(self, *arguments):
        self.called.append("prepare")

    def check_training(self, *arguments):
        self.called.append("check_training")

    def check_evaluation(self, *arguments):
        self.called.append("check_evaluation")

    def observe(self, batch):
        return {LOGITS: torch.ones(2)}

    def respond(self, batch, student):
        return {LOGITS: torch.zeros(2)}

    def step(self):
        self.called.append("step")

    def state(self):
        return {"known": torch.ones(1)}

    def load_state(self, state):
        self.loaded = state


def test_every_question_and_every_word_reaches_the_one_inside():
    inside = Everything()
    around = Wrapper(Wrapper(inside))
    around.prepare(None, frozenset(), None, None)
    around.check_training(None)
    around.check_evaluation(None, None)
    around.step()
    around.load_state({"known": torch.zeros(1)})
    around.view = "other_"
    assert inside.view == around.view == "other_"
    around.only_evaluated, around.compared_heads = frozenset({LOGITS}), {attention(0): 1}
    assert inside.called == ["prepare", "check_training", "check_evaluation", "step"]
    assert inside.loaded is not None
    assert (inside.only_evaluated, inside.compared_heads) == (frozenset({LOGITS}), {attention(0): 1})
    for name in ("shape", "input_names", "model", "top_k", "says_trust", "only_evaluated", "compared_heads"):
        assert getattr(around, name) is getattr(inside, name)
    assert around.state() == {"known": torch.ones(1)}
    assert around.observe(None)[LOGITS].tolist() == [1, 1]
    assert around.respond(None, {})[LOGITS].tolist() == [0, 0]
    assert around.members[0].members == (inside,)


def test_no_question_is_forgotten():
    """What a `Teacher` may answer later, a wrapper must hand on too."""
    of_itself = {"members", "models", "how_it_runs"}
    asked = {name for name in vars(Teacher) if not name.startswith("_")} - of_itself
    assert asked <= set(vars(Wrapper))


def test_a_training_is_the_same_with_it(tmp_path):
    losses = [SoftTargets(), HiddenMSE(), AttentionKL()]
    found = []
    for number, wrapped in enumerate((False, True)):
        model = classifier(seed=1)
        student = classifier(seed=2)
        teacher = Wrapper(model) if wrapped else model
        trainer = distillation(tmp_path / str(number), student, teacher, losses, eval_dataset=rows(8))
        trainer.train()
        found.append((weights(student), trainer.evaluate()["eval_agreement"]))
    assert same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_cache_inside_becomes_known_late(tmp_path):
    model = classifier(seed=1)
    cached = CachedTeacher(tmp_path / "cache", model)
    around = Wrapper(cached)
    trainer = distillation(tmp_path, classifier(), around, [SoftTargets()])
    cached.fill(trainer.train_dataset, trainer.data_collator)
    assert trainer.train().training_loss > 0
    assert around.shape == anatomy.describe(model)


def test_the_label_map_of_the_run_reaches_the_one_inside(tmp_path):
    names = ["a", "b", "c"]
    teacher = classifier(seed=1, id2label=dict(enumerate(names)))
    student = classifier(id2label=dict(enumerate(reversed(names))))
    around = Wrapper(teacher)
    trainer = distillation(tmp_path, student, around, [SoftTargets()], label_map="by_name")
    assert isinstance(around.teacher, ModelTeacher)
    assert around.teacher.label_map == "by_name"
    assert trainer.teacher is around


def test_a_teacher_whose_answers_come_too_late_is_refused(tmp_path):
    for wrapped in (NoisyTeacher(PastSelf()), SelectiveTeacher(PastSelf(), wrong=0.5), PermutedTeacher(PastSelf())):
        own = type(wrapped).__name__
        message = (
            f"PastSelf answers once the student has spoken, and {own} could change nothing of it. Leave {own} out."
        )
        with pytest.raises(ValueError, match=exactly(message)):
            distillation(tmp_path, classifier(), wrapped, [SoftTargets()])


def test_trust_around_an_ensemble_is_refused_where_a_loss_looks_at_a_member(tmp_path):
    together = SelectiveTeacher(EnsembleTeacher([classifier(seed=1).eval(), classifier(seed=2).eval()]), wrong=0.5)
    with pytest.raises(ValueError, match="Put a SelectiveTeacher around each member instead"):
        distillation(tmp_path, classifier(), together, [SoftTargets(), SoftTargets().of(0)])
