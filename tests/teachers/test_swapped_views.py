import torch
from runs import classifier, distillation, rows

from hf_distill.batch import Batch
from hf_distill.losses import SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, hidden, pooled
from hf_distill.tasks import Task
from hf_distill.teachers import SwappedViews
from hf_distill.teachers.swapped_views import ROW


def test_every_row_hears_the_other_view_of_its_example():
    teacher = SwappedViews()
    teacher.prepare(classifier(), frozenset({LOGITS, pooled()}), torch.device("cpu"), None)
    inputs = {"input_ids": torch.ones(6, 2, dtype=torch.long)}
    student = {LOGITS: torch.arange(6.0)[:, None].requires_grad_(), pooled(): torch.arange(6.0)[:, None] + 10}
    student[hidden(0)] = torch.ones(6, 2, 3)
    views = Batch({**inputs, ROW: torch.tensor([5, 8, 2] * 2)}, Task.SINGLE_LABEL)
    assert teacher.observe(views) == {}
    said = teacher.respond(views, student)
    assert said[LOGITS].flatten().tolist() == [3, 4, 5, 0, 1, 2]
    assert said[pooled()].flatten().tolist() == [13, 14, 15, 10, 11, 12]
    assert set(said) == {LOGITS, pooled()}
    assert not said[LOGITS].requires_grad
    assert teacher.respond(Batch(inputs, Task.SINGLE_LABEL), student)[LOGITS].flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_in_an_evaluation_its_term_is_0(tmp_path):
    losses = [TaskLoss(), SoftTargets()]
    trainer = distillation(tmp_path, classifier(), SwappedViews(), losses, eval_dataset=rows(8))
    assert trainer.evaluate()["eval_soft_targets"] == 0
