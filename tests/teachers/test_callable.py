"""A function as the teacher: what it may answer, what it may not, and that a training is that with a model."""

import numpy as np
import pytest
import torch
from models import LABELS, tiny
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import CallableTeacher


def model():
    return classifier(seed=1)


def logits_of(batch):
    known = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
    return model()(**known).logits


def trained(folder, teacher, losses=None):
    student = classifier()
    distillation(folder, student, teacher, losses or [SoftTargets()], eval_dataset=rows(8)).train()
    return weights(student)


@pytest.mark.parametrize(
    "form",
    [
        logits_of,
        lambda batch: {LOGITS: logits_of(batch)},
        lambda batch: logits_of(batch).detach().numpy(),
        lambda batch: logits_of(batch).tolist(),
        lambda batch: np.float64(logits_of(batch).detach().numpy()),
    ],
)
def test_a_training_is_that_with_the_model(tmp_path, form):
    expected = trained(tmp_path / "model", model())
    assert same(trained(tmp_path / "function", CallableTeacher(form)), expected)


def test_layers_may_be_answered_too(tmp_path):
    def both(batch):
        known = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
        outputs = model()(**known, output_hidden_states=True)
        return {LOGITS: outputs.logits, hidden(0): outputs.hidden_states[1], hidden(1): outputs.hidden_states[2]}

    losses = [SoftTargets(), HiddenMSE()]
    expected = trained(tmp_path / "model", model(), losses)
    found = trained(tmp_path / "function", CallableTeacher(both, shape=anatomy.describe(model())), losses)
    assert same(found, expected)


def test_its_columns_reach_it(tmp_path):
    seen = []

    def rules(batch):
        seen.append(batch.inputs["hint"])
        return torch.nn.functional.one_hot(batch.inputs["hint"], LABELS)

    data = rows(16, hint=[index % LABELS for index in range(16)])
    trainer = distillation(tmp_path, classifier(), CallableTeacher(rules, input_names=["hint"]), None, data)
    trainer.train()
    assert len(seen) == 3
    answer = trainer.teacher.observe(Batch({"hint": seen[0]}, Task.SINGLE_LABEL))[LOGITS]
    assert (answer.dtype, answer.requires_grad) == (torch.float32, False)


def asked(function, task=Task.SINGLE_LABEL, student=None, wanted=frozenset({LOGITS})):
    teacher = CallableTeacher(function)
    teacher.prepare(student or classifier(), wanted, torch.device("cpu"), None)
    inputs = {"input_ids": torch.ones(4, 6, dtype=torch.long), "attention_mask": torch.ones(4, 6)}
    inputs["attention_mask"][0, 3:] = 0
    return teacher.observe(Batch(inputs, task, seed=7))


def test_an_error_of_the_function_is_one_line_with_the_first_cause_behind_it():
    def service(batch):
        raise TimeoutError("no answer\nin 60 s")

    said = "the teacher's function service failed on 4 rows at step 7: TimeoutError: no answer in 60 s"
    with pytest.raises(RuntimeError, match=exactly(said)) as raised:
        asked(service)
    assert isinstance(raised.value.__cause__, TimeoutError)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (torch.zeros(3, LABELS), r"answered \(3, 3\) for logits of a batch of 4 rows; expected \(4, 3\)"),
        (torch.zeros(4, 1), r"answered \(4, 1\) for logits .*; expected \(4, 3\)"),
        (torch.full((4, LABELS), torch.nan), "answered logits that is not finite at step 7"),
        ("admiration", "answered a str for logits, which is no tensor"),
        ([[1.0], [1.0, 2.0]], "answered a list for logits, which is no tensor"),
        ({hidden(0): torch.zeros(4, 6, 2)}, r"answered hidden\(0\), and the losses ask for logits too"),
        (None, "answered a NoneType for logits"),
    ],
)
def test_another_answer_than_asked_for_is_refused(answer, said):
    with pytest.raises(ValueError, match=said):
        asked(lambda batch: answer)


def test_tokens_have_a_row_each_and_what_stands_in_padding_is_not_looked_at():
    student = tiny("bert", "ForTokenClassification", num_labels=LABELS)
    answer = torch.zeros(4, 6, LABELS)
    answer[0, 4] = torch.nan
    assert asked(lambda batch: answer, Task.TOKENS, student)[LOGITS].shape == (4, 6, LABELS)
    with pytest.raises(ValueError, match=r"expected \(4, 6, 3\)"):
        asked(lambda batch: answer[:, :5], Task.TOKENS, student)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match=exactly("CallableTeacher needs a function of a batch, not a str.")):
        CallableTeacher("http://localhost")
