import math

import pytest
import torch
from runs import classifier, distillation, rows

from hf_distill.batch import Batch
from hf_distill.losses import SelfExits, TaskLoss, self_exits
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import Nobody

from .contract import STUDENT, LossContract, PositionContract, randn, refuses


def of_stacked(student, teacher):
    """Logits and features as one tensor each: 5 classes, 6 wide."""
    return self_exits(student[..., :5], teacher[..., :5], student[..., 5:], teacher[..., 5:], hint_weight=0.01)


class TestFunction(PositionContract):
    function = staticmethod(of_stacked)
    shape, positions = (3, 4, 11), (3, 4)
    zero_if_equal = 1e-5


class TestLoss(LossContract):
    def make(self) -> SelfExits:
        return SelfExits(hint_weight=0.01)


def softmax(values, temperature):
    exponents = [math.exp(value / temperature) for value in values]
    return [each / sum(exponents) for each in exponents]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def naive(exits, deepest, features, last, labels, task, alpha, temperature, hint_weight):
    """The seeds' equation, example by example and exit by exit, on lists."""
    total = 0.0
    for logits, feature in zip(exits, features, strict=True):
        for row, taught, label, mine, theirs in zip(logits, deepest, labels, feature, last, strict=True):
            if task is Task.MULTI_LABEL:
                said = [sigmoid(value) for value in row]
                ce = -sum(math.log(p if y else 1 - p) for p, y in zip(said, label, strict=True)) / len(row)
                pairs = [
                    kl(
                        [sigmoid(t / temperature), sigmoid(-t / temperature)],
                        [sigmoid(s / temperature), sigmoid(-s / temperature)],
                    )
                    for s, t in zip(row, taught, strict=True)
                ]
                learned = temperature**2 * sum(pairs) / len(row)
            elif task is Task.REGRESSION:
                ce, learned = (row[0] - label) ** 2, (row[0] - taught[0]) ** 2
            else:
                ce = -math.log(softmax(row, 1.0)[label])
                learned = temperature**2 * kl(softmax(taught, temperature), softmax(row, temperature))
            distance = sum((a - b) ** 2 for a, b in zip(mine, theirs, strict=True))
            total += (1 - alpha) * ce + alpha * learned + hint_weight * distance
    return total / len(labels)


CASES = [
    (Task.SINGLE_LABEL, 5, torch.tensor([0, 4, 2])),
    (Task.MULTI_LABEL, 5, torch.tensor([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])),
    (Task.REGRESSION, 1, torch.tensor([0.5, -1.0, 2.0])),
]


@pytest.mark.parametrize(("task", "classes", "labels"), CASES)
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_the_equation_by_hand(task, classes, labels, pooling):
    torch.manual_seed(0)
    loss = SelfExits(alpha=0.3, temperature=2.0, hint_weight=0.05, pooling=pooling)
    loss.setup(type(STUDENT)("S", layers=3, width=6, heads=2, classes=classes), None, task)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    states = {hidden(layer): randn(3, 4, 6, seed=layer) for layer in range(3)}
    logits = randn(3, classes, seed=9)
    batch = Batch({"input_ids": mask, "attention_mask": mask, "labels": labels}, task)
    found = loss({LOGITS: logits, **states}, {}, batch)

    def pooled(layer):
        kept = [state[: int(length)] for state, length in zip(states[hidden(layer)], mask.sum(1), strict=True)]
        return torch.stack([{"first": each[0], "last": each[-1], "mean": each.mean(0)}[pooling] for each in kept])

    heads = [head(pooled(layer)) for layer, head in enumerate(loss.heads)]
    features, exits = ([each[part].tolist() for each in heads] for part in (0, 1))
    expected = naive(exits, logits.tolist(), features, pooled(2).tolist(), labels.tolist(), task, 0.3, 2.0, 0.05)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_nothing_goes_back_into_the_deepest_answer():
    loss = SelfExits([0])
    loss.setup(STUDENT, None, Task.TOKENS)
    seen = {hidden(0): randn(2, 3, 6), hidden(1): randn(2, 3, 6, seed=1), LOGITS: randn(2, 3, 5, seed=2)}
    seen = {signal: values.requires_grad_() for signal, values in seen.items()}
    loss(seen, {}, Batch({"input_ids": torch.ones(2, 3), "labels": torch.ones(2, 3).long()}, Task.TOKENS)).backward()
    assert seen[hidden(0)].grad.abs().max() > 0
    assert seen[hidden(1)].grad is seen[LOGITS].grad is None
    assert all(weight.grad is not None for weight in loss.parameters())


def test_examples_without_a_label_learn_from_the_last_block_alone():
    loss = SelfExits([0], alpha=0.5, hint_weight=0.0)
    loss.setup(STUDENT, None, Task.SINGLE_LABEL)
    seen = {hidden(0): randn(2, 3, 6), hidden(1): randn(2, 3, 6, seed=1), LOGITS: randn(2, 5, seed=2)}
    ids = torch.ones(2, 3)
    none, one = (
        Batch({"input_ids": ids, "labels": torch.tensor(each)}, Task.SINGLE_LABEL)
        for each in ([-100, -100], [2, -100])
    )
    _, exits = loss.answer(0, seen[hidden(0)], none)
    taught = (
        0.5
        * torch.nn.functional.kl_div((exits / 3).log_softmax(-1), (seen[LOGITS] / 3).softmax(-1), reduction="sum")
        * 9
        / 2
    )
    torch.testing.assert_close(loss(seen, {}, none), taught)
    torch.testing.assert_close(loss(seen, {}, one), taught - 0.5 * exits[0].log_softmax(-1)[2])


def test_the_heads_are_trained_and_go_away(tmp_path):
    trainer = distillation(tmp_path, classifier(), Nobody(), [TaskLoss(), SelfExits()])
    before = {name: weight.clone() for name, weight in trainer.objective.named_parameters()}
    trainer.train()
    assert before
    assert all(not torch.equal(before[name], weight) for name, weight in trainer.objective.named_parameters())
    trainer.save_model()
    assert not [name for name in trainer.model.state_dict() if "exits" in name]


def test_accumulated_it_is_what_it_is_at_once(tmp_path):
    found = []
    for size, accumulated in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_steps": 1}
        trainer = distillation(
            tmp_path, classifier(), Nobody(), [SelfExits(hint_weight=0.1)], data=rows(8), **settings
        )
        trainer.train()
        found.append(trainer.state.log_history[0]["self_exits"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("layers", [[], [1], [1, 0], [0, 0], [-3]])
def test_exits_that_cannot_be_are_refused(layers):
    message = (
        f"SelfExits: layers={layers} must be blocks of SmallModel, upwards, of 0 to 0: the last has its own head."
    )
    refuses(SelfExits(layers), message)


@pytest.mark.parametrize("knobs", [{"alpha": 1.1}, {"alpha": -0.1}, {"temperature": 0.0}, {"hint_weight": -1.0}])
def test_knobs_that_cannot_be_are_refused(knobs):
    with pytest.raises(ValueError, match=r"they must be 0 to 1, above 0, and not below 0"):
        SelfExits(**knobs).setup(STUDENT, None, Task.TOKENS)


def test_a_task_without_classes_of_its_own_is_refused():
    known = "single_label, multi_label, regression, tokens"
    refuses(SelfExits(), f"SelfExits: the task is causal_lm; exits are for {known}.", task=Task.CAUSAL_LM)
    refuses(SelfExits(bottleneck=0), "SelfExits: bottleneck=0 is no width; it must be at least 1.")
    refuses(SelfExits(pooling="max"), 'SelfExits: pooling=\'max\' is not "first", "last" or "mean".')
