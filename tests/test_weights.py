"""What a weight is kept as."""

import torch
from torch import nn
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from hf_distill.weights import stored


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
