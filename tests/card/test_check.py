"""What the Hub would refuse is found without it, and no message repeats a secret."""

import pytest
from card_facts import full
from huggingface_hub import ModelCard

from hf_distill import card
from hf_distill.card.check import check


def broken(change):
    content = str(card.render(full()))
    before, after = change
    assert before in content
    return ModelCard(content.replace(before, after, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("base_model: someone/encoder", "base_model: /srv/encoder"), "base_model 'encoder' is no Hub id"),
        (("- someone/emotions\n", "- ./data/emotions\n"), "datasets .* is no Hub id"),
        (("base_model_relation: finetune\n", ""), "base_model_relation is None"),
        (("base_model_relation: finetune", "base_model_relation: distilled"), "'distilled'; the Hub knows"),
        (("config: simplified", "config: 3"), "dataset.config is 3, no string"),
        (("value: 0.54", "value: high"), "mean_average_precision is 'high', no number"),
        (("type: someone/emotions", "type: ./data"), "model-index dataset .* is no Hub id"),
        (("## Limits", "## Limits of /home/alice/x"), "the text contains an absolute path"),
        (("## Limits", "## Limits hf_" + "aB3" * 11), "the text contains a secret"),
    ],
)
def test_check_finds_what_the_hub_refuses_and_repeats_no_secret(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        check(broken(change))
    assert "alice" not in str(caught.value)
    assert "aB3" not in str(caught.value)
