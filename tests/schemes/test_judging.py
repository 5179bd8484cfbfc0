"""A teacher is measured as a student is."""

import json

import pytest
import torch
from runs import QUICK, classifier, exactly, rows

from hf_distill import DistillationConfig, schemes
from hf_distill.losses import SoftTargets
from hf_distill.schemes.judging import Judge
from hf_distill.signals import LOGITS
from hf_distill.teachers import EnsembleTeacher, Teacher

from .arranged import plan


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def right_by_hand(models, data):
    inputs = {name: torch.tensor(data[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mean = sum(model(**inputs).logits for model in models) / len(models)
    return (mean.argmax(-1) == torch.tensor(data["labels"])).float().mean().item()


def test_what_is_measured_are_the_teachers_answers(tmp_path):
    teachers = [classifier(seed=1), classifier(seed=4)]
    args = DistillationConfig(str(tmp_path), **QUICK)
    data = rows(18)
    judge = Judge(classifier(), EnsembleTeacher(teachers), [SoftTargets()], args, train_dataset=data,
                  eval_dataset=data, compute_metrics=accuracy)  # fmt: skip
    found = judge.evaluate()["eval_accuracy"]
    assert found == pytest.approx(right_by_hand(teachers, data))
    assert found != pytest.approx(right_by_hand([classifier()], data))


def test_it_is_a_row_among_the_stages(tmp_path):
    @schemes.scheme
    def judged(plan):
        plan.judge("before", plan.need_teacher(), plan.fresh())
        return plan.stage("only", plan.fresh(), plan.teacher)

    teacher = classifier(seed=4).eval()
    judged(plan(tmp_path, teacher=teacher, eval_dataset=rows(18), compute_metrics=accuracy))
    before, only = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert before["metrics"] == {"accuracy": pytest.approx(right_by_hand([teacher], rows(18)))}
    assert before["steps"] is None
    assert set(only["metrics"]) == {"accuracy", "agreement"}
    assert not (tmp_path / "before").exists()
    judged(plan(tmp_path / "unmeasured", teacher=teacher))
    assert len(json.loads((tmp_path / "unmeasured" / "stages.json").read_text())["stages"]) == 1


def test_a_teacher_without_logits_cannot_be_judged(tmp_path):
    class Silent(Teacher):
        def observe(self, batch):
            return {}

        def respond(self, batch, student):
            return {LOGITS: student[LOGITS].detach()}

    args = DistillationConfig(str(tmp_path), **QUICK)
    data = {"train_dataset": rows(), "eval_dataset": rows(), "compute_metrics": accuracy}
    with pytest.raises(ValueError, match=exactly("Silent gives no logits, so it cannot be judged by them.")):
        Judge(classifier(), Silent(), [SoftTargets()], args, **data).evaluate()
