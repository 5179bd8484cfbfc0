import pytest
import torch
from torch import nn

from hf_distill.batch import Batch
from hf_distill.derivatives import input_gradient
from hf_distill.signals import input_gradient as signal
from hf_distill.tasks import Task


class Small(nn.Module):
    """logits = tanh(sum over tokens of e) W, so that every derivative can be written down."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3).double())

    def forward(self, embedded, mask):
        return (embedded * mask[..., None]).sum(1).tanh() @ self.weight


@pytest.fixture
def embedded():
    torch.manual_seed(1)
    return (torch.randn(2, 3, 4).double() / 3).requires_grad_()


def batch_of(labels=None, seed=5):
    inputs = {"input_ids": torch.ones(2, 3), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    return Batch(inputs if labels is None else {**inputs, "labels": labels}, Task.SINGLE_LABEL, seed=seed)


def test_along_a_direction_it_is_the_jacobian_projected(embedded):
    net, batch = Small(), batch_of()
    logits = net(embedded, batch.tokens)
    found = input_gradient(logits, embedded, batch, signal(0), create_graph=False)
    jacobian = torch.autograd.functional.jacobian(lambda each: net(each, batch.tokens), embedded)
    along = batch.random_direction("logits 0", 3).double()
    own = torch.stack([jacobian[i, :, i] for i in range(2)])  # an example's answer by its own tokens
    torch.testing.assert_close(found, torch.einsum("bcnd,c->bnd", own, along))
    assert (found[1, 2] == 0).all()  # padding


def test_along_the_loss_it_is_the_gradient_of_each_examples_own_loss(embedded):
    labels = torch.tensor([2, 0])
    net, batch = Small(), batch_of(labels)
    found = input_gradient(net(embedded, batch.tokens), embedded, batch, signal("loss"), create_graph=False)
    for row in range(2):
        own = embedded[row : row + 1].detach().requires_grad_()
        loss = nn.functional.cross_entropy(net(own, batch.tokens[row : row + 1]).float(), labels[row : row + 1])
        (expected,) = torch.autograd.grad(loss, own)
        torch.testing.assert_close(found[row : row + 1], expected)


def test_order_two_is_the_derivative_of_the_first_along_a_direction(embedded):
    net, batch = Small(), batch_of()
    found = input_gradient(net(embedded, batch.tokens), embedded, batch, signal(0, 2), create_graph=False)
    along = batch.random_direction("embeddings 0", 4).double()

    def first(at):
        at = at.detach().requires_grad_()
        return input_gradient(net(at, batch.tokens), at, batch, signal(0), create_graph=False)

    step = 1e-5  # a central difference along the same direction at every attended token
    moved = along * batch.tokens[..., None]
    expected = (first(embedded + step * moved) - first(embedded - step * moved)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert found.abs().max() > 1e-3


def test_it_can_be_differentiated_again_and_gradients_need_not_be_on(embedded):
    net, batch = Small(), batch_of()
    logits = net(embedded, batch.tokens)
    with torch.no_grad():
        plain = input_gradient(logits, embedded, batch, signal(0), create_graph=False)
    assert not plain.requires_grad
    again = input_gradient(logits, embedded, batch, signal(0), create_graph=True)
    torch.testing.assert_close(again.detach(), plain)
    (gradient,) = torch.autograd.grad(again.square().sum(), net.weight)
    assert gradient.abs().max() > 0


def test_directions_are_of_the_step(embedded):
    one, same, other = (batch_of(seed=seed).random_direction("logits 0", 3) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, batch_of(seed=1).random_direction("logits 1", 3))
    torch.testing.assert_close(one.norm(), torch.tensor(1.0))


def test_without_labels_there_is_no_loss(embedded):
    batch = batch_of()
    with pytest.raises(
        ValueError, match=r"^input_gradient along the loss needs a labels column, and the batch has none"
    ):
        input_gradient(Small()(embedded, batch.tokens), embedded, batch, signal("loss"), create_graph=False)
