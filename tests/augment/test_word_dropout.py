import pytest
import torch

from hf_distill.augment import word_dropout


def hidden(ids, share, seed=0, special=(1, 2)):
    return word_dropout(ids, share, 99, special, torch.Generator().manual_seed(seed))


def test_that_share_is_hidden_and_special_tokens_are_not():
    ids = torch.randint(3, 50, (10_000,))
    ids[::10] = 1
    ids[1::10] = 2
    before = ids.clone()
    found = hidden(ids, 0.3)
    assert torch.equal(ids, before)
    special = (ids == 1) | (ids == 2)
    assert torch.equal(found[special], ids[special])
    changed = found != ids
    assert (found[changed] == 99).all()
    assert changed[~special].float().mean() == pytest.approx(0.3, abs=0.02)


def test_one_seed_hides_the_same():
    ids = torch.arange(3, 50)
    assert torch.equal(hidden(ids, 0.5), hidden(ids, 0.5))
    assert not torch.equal(hidden(ids, 0.5), hidden(ids, 0.5, seed=1))
    assert torch.equal(hidden(ids, 0.0), ids)
