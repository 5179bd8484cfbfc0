"""Attention is looked at in the way that each family leaves open; `test_capture` compares what is seen with eager."""

import pytest
import torch
from models import FAMILIES, OTHERS, inputs_of, tiny
from torch import nn

from hf_distill.anatomy import attention

OWN_CODE = ["deberta_v2", *(family for family in OTHERS if family != "gemma2")]


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
def test_a_family_is_recorded_or_hands_out_maps(family):
    model = tiny(family)
    assert attention.hands_out_maps(model) == (family in OWN_CODE)
    assert (attention.why_not_recorded(model) is None) == (family not in OWN_CODE)
    assert attention.has_sdpa(model) == (family not in [*OWN_CODE, "gemma2"])


def test_what_cannot_be_recorded_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"DebertaV2Model does not run its attention .*HiddenMSE"):
        attention.attention_configs(tiny("deberta_v2"))


@pytest.mark.parametrize(
    ("runs", "sdpa", "name"),
    [
        ("sdpa", True, "sdpa_recorded"),
        ("eager", True, "sdpa_recorded"),
        (None, True, "sdpa_recorded"),
        ("eager", False, "eager_recorded"),
    ],
)
def test_the_attention_that_records(runs, sdpa, name):
    assert attention.recording_name(runs, sdpa) == name


def test_capped_scores_are_what_the_softmax_is_of():
    model = tiny("gemma2", sliding_window=64).eval()
    inputs, records = inputs_of(model, rows=1), []
    block = model.layers[1]
    vars(block.self_attn)[attention.SINK] = records
    model.config._attn_implementation_internal = attention.recording_name("eager", False)
    with torch.no_grad():
        model(**inputs)
    (record,) = records
    query, key = record.query[0, 2], record.key[0, 1]  # four heads of queries share two of keys
    by_hand = 2.0 * torch.tanh(query @ key.T * 8**-0.5 / 2.0)
    torch.testing.assert_close(record.signal("attention_scores")[0, 2], by_hand)
    assert by_hand.abs().max() < 2.0
    later = torch.ones(10, 10, dtype=torch.bool).triu(1)
    expected = by_hand.masked_fill(later, float("-inf")).softmax(-1)
    torch.testing.assert_close(record.signal("attention")[0, 2], expected)


class Block(nn.Module):
    def forward(self, hidden, mask=None, output_attentions=False, **kwargs):
        return hidden


def test_a_map_is_asked_for_by_place_or_by_name():
    args, kwargs = attention.ask_for_map(Block(), (1, 2, False), {"cache": None})
    assert (args, kwargs) == ((1, 2, True), {"cache": None})
    args, kwargs = attention.ask_for_map(Block(), (1,), {"mask": 2, "output_attentions": False})
    assert (args, kwargs) == ((1,), {"mask": 2, "output_attentions": True})
    args, kwargs = attention.ask_for_map(Block(), (1,), {})
    assert (args, kwargs) == ((1,), {"output_attentions": True})
