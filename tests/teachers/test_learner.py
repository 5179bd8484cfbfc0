"""What a model that is trained beside the student keeps of its optimizer; how it learns is in test_peer.py."""

import pytest
import torch
from runs import classifier, rows
from transformers import DefaultDataCollator

from hf_distill import DistillationConfig
from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers.learner import Learner, weight_like_labels


def learner(folder, steps=10, **settings):
    made = Learner(classifier(), [TaskLoss()])
    made.prepare(classifier(seed=1), frozenset(), torch.device("cpu"), None, made.shape)
    made.begin(DistillationConfig(str(folder), use_cpu=True, **settings), steps)
    return made


def one_step(made, max_grad_norm=0.0, teacher=None):
    batch = Batch(DefaultDataCollator()([rows()[index] for index in range(4)]), Task.SINGLE_LABEL)
    made.learn(made.look(batch, True), teacher or {}, batch, 0.0)
    made.step(max_grad_norm, 1)
    return batch


def test_the_schedule_is_the_trainings(tmp_path):
    made = learner(tmp_path, 10, learning_rate=1.0, warmup_steps=4, lr_scheduler_type="linear", optim="sgd")
    rates = []
    for _ in range(10):
        rates.append(made._optimizer.param_groups[0]["lr"])
        made.step(0.0, 1)
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_it_goes_on_from_its_state(tmp_path):
    settings = {"learning_rate": 1e-2, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    one, other = learner(tmp_path, **settings), learner(tmp_path, **settings)
    for _ in range(3):
        one_step(one)
    state = {name: tensor.clone() for name, tensor in one.state().items()}
    other.load_weights(state)
    other.load_optimizer(state, 3)
    for made in (one, other):
        one_step(made)
    assert one.state().keys() == other.state().keys()
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


def test_norms_and_biases_are_not_decayed(tmp_path):
    made = learner(tmp_path, weight_decay=0.1)
    names = {id(weight): name for name, weight in made._parts.named_parameters()}
    decayed, free = made._optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all("bias" in names[id(each)] or "LayerNorm" in names[id(each)] for each in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)


def test_gradients_are_clipped(tmp_path):
    one, other = (learner(tmp_path, optim="sgd", learning_rate=1.0, lr_scheduler_type="constant") for _ in range(2))
    start = [weight.detach().clone() for weight in one.model.parameters()]
    one_step(one)
    one_step(other, max_grad_norm=1e-3)
    moved = []
    for made in (one, other):
        pairs = zip(made.model.parameters(), start, strict=True)
        moved.append(float(torch.cat([(now.detach() - then).flatten() for now, then in pairs]).norm()))
    assert moved[0] > 1e-2
    assert moved[1] == pytest.approx(1e-3, rel=0.02)


def test_its_projections_are_trained(tmp_path):
    narrow = classifier(hidden_size=16)
    made = Learner(narrow, [HiddenMSE()])
    made.prepare(classifier(seed=1), frozenset(), torch.device("cpu"), None, learner(tmp_path).shape)
    made.begin(DistillationConfig(str(tmp_path), use_cpu=True, learning_rate=0.1), 10)
    before = {name: tensor.clone() for name, tensor in made.state().items() if name.startswith("objective.")}
    wide = {hidden(layer): torch.randn(4, 6, 32) for layer in range(2)}
    one_step(made, teacher=wide)
    assert before
    assert all(not torch.equal(tensor, made.state()[name]) for name, tensor in before.items())


def test_quantised_weights_are_refused():
    model = classifier()
    model.is_quantized = True
    with pytest.raises(ValueError, match="BertForSequenceClassification is quantised or spread over devices"):
        Learner(model, [TaskLoss()]).prepare(classifier(), frozenset(), torch.device("cpu"), None, None)


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_soft_targets_that_say_the_label_count_as_it_does(kind):
    """Certain soft targets are labels, and then the two losses are one."""
    several = kind.startswith("multi")
    task = Task.MULTI_LABEL if several else Task.SINGLE_LABEL
    model = classifier(problem_type=kind)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]) if several else torch.tensor([2, 0])
    batch = Batch({"labels": labels}, task)
    student = {LOGITS: torch.tensor([[0.3, -1.0, 2.0], [0.5, 0.1, -0.4]])}
    hard = labels if several else torch.nn.functional.one_hot(labels, 3)
    certain = {LOGITS: (hard * 2.0 - 1) * 1e4}
    by_label, by_target = TaskLoss(), SoftTargets(temperature=1.0)
    weighed = weight_like_labels(model) * by_target(student, certain, batch)
    assert float(weighed) == pytest.approx(float(by_label(student, {}, batch)))
