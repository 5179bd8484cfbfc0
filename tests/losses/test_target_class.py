import pytest
import torch

from hf_distill.losses.target_class import split_target, target_odds

from .contract import randn


def test_the_target_and_the_others_in_their_order():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0], [1.0, 1.0, 1.0]])
    target, others = split_target(logits, torch.tensor([0, 1, 2, -100]))
    assert target.tolist() == [1.0, 5.0, 9.0, 0.0]
    assert others.tolist() == [[2.0, 3.0], [4.0, 6.0], [7.0, 8.0], [0.0, 0.0]]


def test_any_number_of_axes_in_front():
    logits, labels = randn(2, 3, 4), torch.tensor([[0, 3, 1], [2, -1, 3]])
    target, others = split_target(logits, labels)
    for i in range(2):
        for j in range(3):
            row, label = logits[i, j].tolist(), int(labels[i, j])
            expected = [0.0] * 4 if label < 0 else [row.pop(label), *row]
            torch.testing.assert_close(torch.tensor([target[i, j], *others[i, j]]), torch.tensor(expected))


def test_no_label_no_gradient_whatever_stands_there():
    logits = torch.tensor([[float("nan"), float("inf"), 1.0], [1.0, 2.0, 3.0]]).requires_grad_()
    target, others = split_target(logits, torch.tensor([-100, 1]))
    (target.sum() + others.square().sum()).backward()
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [2.0, 1.0, 6.0]]


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_odds_are_the_logit_of_the_softmax(scale):
    logits, labels = randn(6, 5) * scale, torch.tensor([0, 1, 2, 3, 4, 0])
    expected = logits.softmax(-1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(target_odds(*split_target(logits, labels)).sigmoid(), expected)
