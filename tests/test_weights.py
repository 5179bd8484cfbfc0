"""What a weight is kept as."""

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from hf_distill.weights import digest, stored


def test_a_plain_weight_is_itself():
    weight = nn.Parameter(torch.randn(3, 2))
    (found,) = stored(weight)
    assert found is weight


def test_a_quantised_weight_is_integers_and_scales():
    layer = nn.Linear(32, 16)
    plain = layer.weight.detach().clone()
    quantize_(layer, Int8DynamicActivationInt8WeightConfig())
    integers, scales, *rest = stored(layer.weight)
    assert integers.dtype is torch.int8
    assert integers.shape == (16, 32)
    torch.testing.assert_close(integers * scales.view(16, 1), plain, rtol=0, atol=float(scales.max()))
    assert all(type(each) is torch.Tensor for each in (integers, scales, *rest))


def test_a_digest_tells_weights_apart_and_leaves_out_what_it_is_told_to():
    model = nn.ModuleDict({"body": nn.Linear(3, 2), "objective": nn.Linear(1, 1)})
    before, body = digest(model), digest(model, leave_out="objective.")
    with torch.no_grad():
        model["objective"].weight += 1
    assert digest(model) != before
    assert digest(model, leave_out="objective.") == body
    with torch.no_grad():
        model["body"].bias[1] += 1e-6
    assert digest(model, leave_out="objective.") != body
    assert digest(model.to("meta")) is None
