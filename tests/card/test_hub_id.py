"""Names that the Hub would take, and those that transformers reads from this disk."""

import pytest

from hf_distill.card.hub_id import is_hub_id, is_repository_name


@pytest.mark.parametrize("name", ["data/train.tsv", "runs/checkpoint-500", "a/b/c", "", None, "./x", "x/", "a b/c"])
def test_no_hub_ids(name):
    assert not is_hub_id(name)


@pytest.mark.parametrize("name", ["teacher", "someone/teacher", "someone/emotions-small.v2"])
def test_a_name_is_a_hub_id_unless_it_lies_on_this_disk(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id(name)
    (tmp_path / name).mkdir(parents=True)
    assert not is_hub_id(name)
    assert is_repository_name(name)
