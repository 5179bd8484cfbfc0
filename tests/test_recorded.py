"""Attention that was recorded is computed by nobody who does not touch it; `test_capture` compares it with eager."""

from dataclasses import replace

import torch
from torch import Tensor

from hf_distill.recorded import AttentionRecord, RecordedMap, rows_of


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def record_of(queries: int = 5, **more: object) -> AttentionRecord:
    query, key, value = (randn(3, heads, queries, 4, seed=heads) for heads in (6, 2, 2))
    return replace(AttentionRecord(query.requires_grad_(), key, value, None, None, False, None), **more)


def test_a_map_is_known_and_not_made_until_it_is_touched():
    for kind in ("attention", "attention_scores"):
        found = record_of().signal(kind)
        assert isinstance(found, RecordedMap)
        assert (found.shape, found.dtype, len(found)) == ((3, 6, 5, 5), torch.float32, 3)
        assert found.untouched
        assert found.record.value is None  # nothing of it is needed for a map
        made = found + 0
        assert not found.untouched
        assert made.grad_fn is not None


def test_a_map_by_hand():
    record = record_of()
    scores = torch.stack([record.query[:, head] @ record.key[:, head // 3].mT / 2.0 for head in range(6)], dim=1)
    torch.testing.assert_close(record.signal("attention_scores") + 0, scores)
    torch.testing.assert_close(record.signal("attention") + 0, scores.softmax(-1))


def test_what_was_cleaned_is_0_there_and_the_map_is_made_once_for_all():
    found = record_of().signal("attention")
    assert isinstance(found, RecordedMap)
    kept = torch.tensor([1, 1, 0, 1, 0]).bool()[None, None, :, None]
    one, other = found.cleaned(kept), found.cleaned(kept)
    assert one.untouched
    torch.testing.assert_close(one + 0, found.whole() * kept)
    assert not one.untouched
    assert not other.untouched  # its source was made
    assert other.source is found
    assert found.whole() is found.made


def test_a_map_that_was_made_without_gradient_has_one_where_it_should():
    found = record_of().signal("attention")
    with torch.no_grad():
        assert not (found + 0).requires_grad
    assert (found + 0).requires_grad
    with torch.no_grad():
        kept = record_of(query=randn(3, 6, 5, 4)).signal("attention").whole()
    assert not kept.requires_grad


def test_a_part_is_a_part_of_the_whole():
    generator = torch.Generator().manual_seed(5)
    mask = torch.rand(3, 1, 5, 5, generator=generator) > 0.3
    for more in (
        {},
        {"mask": mask},
        {"mask": torch.where(mask, 0.25, torch.finfo(torch.float32).min)},
        {"mask": mask[:, 0, 0]},
        {"mask": mask[:1]},
        {"bias": randn(1, 6, 5, 5)},
        {"causal": True},
        {"causal": True, "window": 2},
        {"window": 2, "cap": 0.5},
    ):
        record = record_of(**more)
        for examples, queries in ((slice(1, 2), slice(2, 4)), (slice(0, 3), slice(0, 5)), (slice(2, 3), slice(4, 5))):
            part = record.part(examples, queries)
            torch.testing.assert_close(part.scores(), record.scores()[examples, :, queries])
            torch.testing.assert_close(part.probabilities(), record.probabilities()[examples, :, queries])


def test_rows_where_one_stands_for_all():
    tensor = randn(1, 2, 4, 3)
    assert torch.equal(rows_of(tensor, slice(2, 3), slice(1, 3)), tensor[:, :, 1:3])
    assert torch.equal(rows_of(tensor[:, :, :1], slice(2, 3), slice(1, 3)), tensor[:, :, :1])
    assert rows_of(tensor, slice(2, 3), slice(1, 3)).data_ptr() == tensor[:, :, 1:].data_ptr()


def test_double_precision_stays():
    record = record_of(query=randn(3, 6, 5, 4).double(), key=randn(3, 2, 5, 4).double())
    assert record.signal("attention").dtype is torch.float64
    assert record.probabilities().dtype is torch.float64
