"""Logits that were not computed yet are a tensor like any other to whoever touches them."""

import torch
import torch.nn.functional as F
from accelerate.utils.operations import convert_to_fp32
from transformers.modeling_outputs import MaskedLMOutput

from hf_distill.heads import HeadLogits

ROWS = torch.tensor([1, 2, 5])


def layer(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((1, 3, 4), (7, 4), (7,)))
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), bias.to(dtype)


def placed(*linear: torch.Tensor) -> HeadLogits:
    return HeadLogits.placed(HeadLogits.of(*linear), ROWS, torch.Size((2, 3)))


def test_shape_dtype_and_device_are_known_without_computing():
    logits = placed(*layer())
    assert (logits.shape, logits.dim(), logits.size(-1), logits.ndim) == ((2, 3, 7), 3, 7, 3)
    assert (logits.dtype, logits.device, logits.is_floating_point()) == (torch.float32, torch.device("cpu"), True)
    assert isinstance(logits, torch.Tensor)
    assert logits.made is None


def test_any_operation_gets_the_logits_of_the_rows_and_0_elsewhere():
    hidden, weight, bias = layer()
    expected = torch.zeros(6, 7)
    expected[ROWS] = F.linear(hidden[0], weight, bias).detach()
    for operation in (torch.clone, torch.exp, lambda x: torch.cat([x, x]), lambda x: x[:, :-1], lambda x: 2 * x):
        found = operation(placed(hidden, weight, bias))
        assert type(found) is torch.Tensor
        torch.testing.assert_close(found.detach(), operation(expected.view(2, 3, 7)))
    (gradient,) = torch.autograd.grad(placed(hidden, weight, bias).square().sum(), weight)
    (plain,) = torch.autograd.grad(F.linear(hidden, weight, bias).square().sum(), weight)
    torch.testing.assert_close(gradient, plain)


def test_a_model_that_goes_on_with_its_logits_has_them():
    hidden, weight, bias = layer()
    capped = torch.tanh(HeadLogits.of(hidden, weight, bias) / 3) * 3
    found = HeadLogits.placed(capped, ROWS, torch.Size((2, 3)))
    assert found.weight is None
    torch.testing.assert_close(found.kept(), (F.linear(hidden, weight, bias)[0] / 3).tanh() * 3)


def test_what_was_changed_in_place_stays_changed():
    logits = HeadLogits.of(*layer())
    logits[..., 0] = 5.0
    assert HeadLogits.placed(logits, ROWS, torch.Size((2, 3))).kept()[:, 0].tolist() == [5.0] * 3


def test_the_conversion_of_a_models_answer_to_float32_does_not_compute_it():
    output = convert_to_fp32(MaskedLMOutput(logits=HeadLogits.of(*layer(torch.bfloat16))))
    assert isinstance(output.logits, HeadLogits)
    assert output.logits.made is None
    assert (output.logits + 0).dtype == torch.float32
