import pytest
import torch
from torch import nn

from hf_distill.balance import LARGEST, gradient_norms, multipliers


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)])


def layers(net):
    return [list(layer.parameters()) for layer in net]


def test_the_norm_is_that_of_the_gradient_at_the_last_layer_that_all_reach(net):
    first = net[0](torch.randn(5, 3))
    second = net[1](first.tanh())
    last = net[2](second.tanh())
    terms = {"late": last.square().sum(), "middle": second.abs().sum()}
    found = gradient_norms(terms, layers(net))
    for norm, term in zip(found, terms.values(), strict=True):
        gradients = torch.autograd.grad(term, list(net[1].parameters()), retain_graph=True)
        expected = sum(float(each.square().sum()) for each in gradients) ** 0.5
        assert norm.item() == pytest.approx(expected, rel=1e-5)
    early = gradient_norms({**terms, "early": first.sum()}, layers(net))
    assert len(early) == 3
    assert early[1] != found[1]  # measured one layer further down
    sum(terms.values()).backward()  # the graph is still there
    assert net[0].weight.grad is not None


def test_frozen_layers_are_passed_over(net):
    net[2].requires_grad_(False)
    out = net[2](net[1](net[0](torch.randn(5, 3))))
    trainable = [[weight for weight in layer if weight.requires_grad] for layer in layers(net)]
    found = gradient_norms({"a": out.sum(), "b": out.square().sum()}, trainable)
    (gradient,) = torch.autograd.grad(out.sum(), [net[1].bias], retain_graph=True)
    assert found[0] >= gradient.norm()


def test_terms_that_share_no_layer_are_refused(net):
    terms = {"one": net[0](torch.randn(5, 3)).sum(), "other": net[1](torch.randn(5, 4)).sum()}
    with pytest.raises(ValueError, match=r"one, other have none in common. Leave balance out"):
        gradient_norms(terms, layers(net))
    with pytest.raises(ValueError, match="constant have none in common"):
        gradient_norms({"constant": torch.zeros(())}, layers(net))


def test_gradients_get_the_ratios_and_keep_their_sum():
    norms, weights = torch.tensor([4.0, 1.0, 1.0]), torch.tensor([1.0, 1.0, 2.0])
    found = multipliers(norms, weights) * weights * norms
    torch.testing.assert_close(found, torch.tensor([1.75, 1.75, 3.5]))  # the weights alone: 4, 1, 2


def test_what_does_not_pull_is_left_alone():
    found = multipliers(torch.tensor([2.0, 0.0, 4.0, 1e-9]), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 0.25, LARGEST]))  # those with a weight pull 1 on average
    assert multipliers(torch.zeros(2), torch.zeros(2)).tolist() == [1, 1]


@pytest.mark.parametrize("broken", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_changes_no_other(broken):
    found = multipliers(torch.tensor([broken, 2.0, 4.0]), torch.ones(3))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.5, 0.75]))


def test_a_term_that_is_warmed_up_is_balanced_before_its_weight_is_above_0():
    torch.testing.assert_close(
        multipliers(torch.tensor([4.0, 2.0]), torch.tensor([0.0, 1.0])), torch.tensor([0.5, 1.0])
    )
    torch.testing.assert_close(multipliers(torch.tensor([4.0, 2.0]), torch.zeros(2)), torch.tensor([0.75, 1.5]))


def test_the_norm_is_of_the_gradient_of_all_processes(net):
    """Not the mean of their norms: two that pull against each other do not pull."""
    term = net[0](torch.randn(5, 3)).sum()
    assert gradient_norms({"a": term}, layers(net), lambda gradient: gradient - gradient) == 0
