import pytest
from distributed import student, teacher
from models import tiny
from torch import nn

from hf_distill import DistillationConfig
from hf_distill.losses import AttentionKL, AttentionMSE, HiddenMSE, RKDDistance, SoftTargets
from hf_distill.pairing import check_student, pair
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher


def config(tmp_path, **fields):
    return DistillationConfig(str(tmp_path), use_cpu=True, report_to="none", **fields)


def test_answers_are_always_looked_at_so_that_agreement_can_be_told(tmp_path):
    master = ModelTeacher(teacher())
    found = pair(student(), master, lambda task: [HiddenMSE({1: 3})], config(tmp_path), None)
    assert found.task is Task.MULTI_LABEL
    assert found.capture.wanted == {LOGITS, hidden(1)}
    assert not found.causal
    assert not any(weight.requires_grad for weight in master.model.parameters())


def test_a_teacher_without_answers_is_not_asked_for_them(tmp_path):
    master = ModelTeacher(tiny("bert", seed=1))
    pair(student(), master, lambda task: [HiddenMSE()], config(tmp_path), None)
    assert LOGITS not in master._capture.wanted


def test_the_losses_are_those_of_the_task(tmp_path):
    asked = []

    def losses_for(task):
        asked.append(task)
        return [SoftTargets()]

    pair(student("tokens"), ModelTeacher(teacher("tokens")), losses_for, config(tmp_path), None)
    assert asked == [Task.TOKENS]


def test_decoders_see_backwards_only_whatever_their_head(tmp_path):
    kind = {"num_labels": 3, "problem_type": "single_label_classification"}
    mine, theirs = (tiny("gpt2", "ForSequenceClassification", seed=seed, **kind) for seed in (0, 1))
    assert pair(mine, ModelTeacher(theirs), lambda task: [AttentionMSE()], config(tmp_path), None).causal
    with pytest.raises(ValueError, match=r"the first token of GPT2ForSequenceClassification sees no other"):
        pair(mine, ModelTeacher(theirs), lambda task: [RKDDistance()], config(tmp_path), None)


def test_a_term_that_chooses_the_best_model_is_the_smaller_the_better(tmp_path):
    for metric, greater in (("soft_targets", False), ("eval_soft_targets", False), ("near_soft_targets", False),
                            ("macro_f1", True)):  # fmt: skip
        args = config(tmp_path, metric_for_best_model=metric, greater_is_better=True)
        pair(student(), ModelTeacher(teacher()), lambda task: [SoftTargets()], args, None)
        assert args.greater_is_better == greater


def test_what_is_no_student_is_refused():
    with pytest.raises(ValueError, match=r"^the student is a Linear; it must be a PreTrainedModel or a PeftModel\.$"):
        check_student(nn.Linear(2, 2))
    check_student(student())


def test_maps_after_dropout_are_refused_and_of_a_teacher_they_are_fine(tmp_path):
    def paired(dropout, **fields):
        mine, theirs = (
            tiny("deberta_v2", "ForSequenceClassification", seed, num_labels=3, attention_probs_dropout_prob=share)
            for seed, share in ((0, dropout), (1, 0.1))
        )
        return pair(mine, ModelTeacher(theirs), lambda task: [AttentionKL()], config(tmp_path), None)

    with pytest.raises(ValueError, match=r"after a dropout of 0\.1, .* with attention_probs_dropout_prob=0\.0\."):
        paired(0.1)
    assert paired(0.0).task is Task.SINGLE_LABEL
