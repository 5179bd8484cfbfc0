"""In blocks or not, from queries and keys or from maps: one value and one gradient, those of the formula by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.losses import AttentionKL, AttentionMSE, Loss, MiniLM, attention_kl, recorded_maps
from hf_distill.losses.recorded_maps import recorded_kl, recorded_mse
from hf_distill.recorded import AttentionRecord, RecordedMap
from hf_distill.signals import attention, attention_scores, value
from hf_distill.tasks import Task

from .contract import STUDENT, TEACHER, memory

ROWS, QUERIES, WIDTH = 3, 6, 4
PADDING = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
SEEN = (PADDING[:, None, None, :].bool() & torch.ones(QUERIES, QUERIES).tril().bool()).clone()
LOWEST = torch.finfo(torch.float32).min


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


KINDS = {
    "bare": {},
    "keys that are padding": {"mask": PADDING[:, None, None, :].bool()},
    "left padding, causal": {"mask": SEEN},
    "additive": {"mask": torch.where(SEEN, 0.5, LOWEST)},
    "of heads": {"mask": torch.where(SEEN, randn(1, 4, 6, 6, seed=9).float(), LOWEST)},
    "causal": {"causal": True},
    "windowed": {"causal": True, "window": 3},
    "flash, padded": {"mask": PADDING, "window": 4},
    "biased": {"bias": randn(1, 4, QUERIES, QUERIES, seed=7), "scaling": 1.0},
    "capped": {"cap": 0.7},
}


def record_of(heads: int = 4, key_heads: int = 4, seed: int = 0, **more: object) -> AttentionRecord:
    query, key = (randn(ROWS, many, QUERIES, WIDTH, seed=seed + i) for i, many in enumerate((heads, key_heads)))
    return replace(AttentionRecord(query * 2, key, None, None, None, False, None), **more)


def trained(record: AttentionRecord) -> tuple[AttentionRecord, list[Tensor]]:
    """The same, with the parts that have a gradient."""
    parts = {name: getattr(record, name) for name in ("query", "key", "bias") if getattr(record, name) is not None}
    parts = {name: part.clone().requires_grad_() for name, part in parts.items()}
    return replace(record, **parts), list(parts.values())


def by_hand(record: AttentionRecord) -> tuple[Tensor, Tensor]:
    """Scores and log-probabilities, -inf where a key is not seen, with nothing but the definition."""
    shared = record.query.shape[1] // record.key.shape[1]
    rows = []
    for head in range(record.query.shape[1]):
        products = record.query[:, head] @ record.key[:, head // shared].mT
        scores = products * (record.scaling or WIDTH**-0.5)
        rows.append(scores if record.cap is None else record.cap * torch.tanh(scores / record.cap))
    scores = torch.stack(rows, dim=1)
    scores = scores if record.bias is None else scores + record.bias
    seen = torch.ones_like(scores, dtype=torch.bool)
    masked = scores
    if record.mask is not None and record.mask.dim() == 4:
        if record.mask.dtype is torch.bool:
            seen = seen & record.mask
        else:
            seen = seen & (record.mask > LOWEST / 2)
            masked = scores + torch.where(seen, record.mask, 0.0)
    else:
        seen = seen if record.mask is None else seen & record.mask[:, None, None].bool()
        for query in range(QUERIES):
            for key in range(QUERIES):
                later, far = key > query, abs(query - key) >= (record.window or QUERIES)
                if far or (record.causal and later):
                    seen[:, :, query, key] = False
    return scores, torch.log_softmax(masked.masked_fill(~seen, -1e30), -1).masked_fill(~seen, -math.inf)


def mean_of_heads(values: Tensor, groups: int) -> Tensor:
    return values.view(len(values), groups, -1, QUERIES, QUERIES).mean(2)


def kl_by_hand(student: AttentionRecord, teacher: AttentionRecord, tokens: Tensor, groups: int) -> Tensor:
    q, p = (mean_of_heads(by_hand(side)[1].exp(), groups) for side in (student, teacher))
    smallest = torch.finfo(torch.float32).tiny
    logs = [torch.where(side > 0, side, smallest).log() for side in (p, q)]
    rows = (p * (logs[0] - logs[1])).sum(-1).mean(1)
    return rows[tokens.bool()].sum() / tokens.sum()


def mse_by_hand(student: AttentionRecord, teacher: AttentionRecord, tokens: Tensor, groups: int) -> Tensor:
    mine, theirs = (mean_of_heads(by_hand(side)[0], groups) for side in (student, teacher))
    pairs = tokens[:, :, None].bool() & tokens[:, None, :].bool()
    return (mine - theirs).square().mean(1)[pairs].mean()


def batch_of(tokens: Tensor | None = PADDING) -> Batch:
    if tokens is None:
        return Batch({"pixel_values": torch.ones(ROWS, 1)}, Task.SINGLE_LABEL)
    return Batch({"input_ids": tokens, "attention_mask": tokens}, Task.TOKENS)


def blocks_of(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    monkeypatch.setattr(recorded_maps, "BLOCK_ELEMENTS", elements)


FUNCTIONS = [(recorded_kl, kl_by_hand, False), (recorded_mse, mse_by_hand, True)]
SIZES = [2**20, 2 * 4 * 36, 4 * 6 * 4, 1]  # all at once, two examples of three, four rows of six, row by row


@pytest.mark.parametrize("made", [False, True], ids=["recorded teacher", "teacher's map"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("function", "expected", "scores"), FUNCTIONS, ids=["kl", "mse"])
def test_value_and_gradients_are_those_by_hand(function, expected, scores, kind, size, made, monkeypatch):
    blocks_of(monkeypatch, size)
    student, parts = trained(record_of(**KINDS[kind]))
    teacher = record_of(seed=20, **KINDS[kind])
    wanted = expected(student, teacher, PADDING, 4)
    theirs = RecordedMap.of(teacher, scores)
    found = function(RecordedMap.of(student, scores), theirs.whole() if made else theirs, batch_of())
    torch.testing.assert_close(found, wanted)
    assert found > 0
    for one, other in zip(*(torch.autograd.grad(each, parts) for each in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)
        assert one.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("groups", "mine", "theirs"), [(1, 4, 6), (2, 2, 4), (2, 4, 2), (4, 4, 4)])
@pytest.mark.parametrize(("function", "expected", "scores"), FUNCTIONS, ids=["kl", "mse"])
def test_averages_over_heads_and_shared_keys(function, expected, scores, groups, mine, theirs, size, monkeypatch):
    blocks_of(monkeypatch, size)
    student, parts = trained(record_of(mine, 2, mask=SEEN))
    teacher = record_of(theirs, 1, seed=20, mask=SEEN)
    wanted = expected(student, teacher, PADDING, groups)
    found = function(RecordedMap.of(student, scores), RecordedMap.of(teacher, scores), batch_of(), groups)
    torch.testing.assert_close(found, wanted)
    for one, other in zip(*(torch.autograd.grad(each, parts) for each in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("function", "scores"), [(recorded_kl, False), (recorded_mse, True)])
def test_gradients_are_those_of_finite_differences(function, scores, monkeypatch):
    blocks_of(monkeypatch, 50)
    record = record_of(2, 1, bias=randn(1, 2, QUERIES, QUERIES), cap=2.0, mask=SEEN)
    teacher = RecordedMap.of(record_of(2, 1, seed=20, mask=SEEN), scores)

    def value_of(query: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        return function(RecordedMap.of(replace(record, query=query, key=key, bias=bias), scores), teacher, batch_of())

    parts = [part.clone().requires_grad_() for part in (record.query, record.key, record.bias)]
    assert torch.autograd.gradcheck(value_of, parts)


LOSSES = [
    (AttentionKL({0: 1}), attention),
    (AttentionKL({0: 1}, heads="mean"), attention),
    (AttentionKL({0: 1}, heads="grouped"), attention),
    (AttentionMSE({0: 1}), attention_scores),
    (MiniLM({0: 1}), attention),
]


@pytest.mark.parametrize("tokens", [PADDING, None], ids=["padded", "no tokens"])
@pytest.mark.parametrize(("loss", "kind"), LOSSES, ids=[repr(loss) for loss, _ in LOSSES])
def test_losses_say_the_same_of_recorded_maps_as_of_made_ones(loss: Loss, kind, tokens, monkeypatch):
    blocks_of(monkeypatch, 100)
    loss.setup(replace(STUDENT, heads=4, key_heads=4), replace(TEACHER, heads=4, key_heads=4), Task.TOKENS)
    name = "attention_scores" if isinstance(loss, AttentionMSE) else "attention"
    batch, found = batch_of(tokens), []
    for made in (False, True):
        student, parts = trained(record_of(mask=SEEN))
        sides = [side.signal(name) for side in (student, record_of(seed=20, mask=SEEN))]
        mine, theirs = (side.whole() if made else side for side in sides)
        values = [randn(ROWS, 4, QUERIES, WIDTH, seed=seed) for seed in (30, 31)]
        term = loss({kind(0): mine, value(0): values[0]}, {kind(1): theirs, value(1): values[1]}, batch)
        found.append([term.float(), *torch.autograd.grad(term, parts)])
        assert all(side.untouched != made for side in sides)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def test_what_a_loss_of_ones_own_touches_is_a_map_and_its_gradient_arrives():
    student, parts = trained(record_of(mask=SEEN))
    mine, theirs = student.signal("attention"), record_of(seed=20, mask=SEEN).signal("attention")
    own = batch_of().clean(attention(0), mine)
    assert torch.equal(own.sum(-1).gt(0.5), PADDING.bool()[:, None].expand(ROWS, 4, QUERIES))
    loss = AttentionKL({0: 1})
    loss.setup(replace(STUDENT, heads=4), replace(TEACHER, heads=4), Task.TOKENS)
    found = loss({attention(0): mine}, {attention(1): theirs}, batch_of())  # the map is there: it is taken
    torch.testing.assert_close(found.double(), kl_by_hand(student, record_of(seed=20, mask=SEEN), PADDING, 4))
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(found, parts))


def test_a_mask_that_is_learned_has_its_gradient():
    mask = torch.where(SEEN, randn(1, 4, 6, 6), LOWEST).requires_grad_()
    student, teacher = record_of(mask=mask), record_of(seed=20, mask=SEEN)
    loss = AttentionKL({0: 1})
    loss.setup(replace(STUDENT, heads=4), replace(TEACHER, heads=4), Task.TOKENS)
    found = loss({attention(0): student.signal("attention")}, {attention(1): teacher.signal("attention")}, batch_of())
    gradients = [torch.autograd.grad(each, mask)[0] for each in (found, kl_by_hand(student, teacher, PADDING, 4))]
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_keys_with_probability_zero_cost_nothing_or_a_finite_amount():
    """Of four keys the teacher sees two, the student the first and two others; scores are far apart too."""
    place = torch.tensor([[[[0.0, 300.0, 0.0, 0.0]]]]).mT
    query = torch.ones(1, 1, 4, 1)
    mine = AttentionRecord(query, place, None, torch.tensor([1, 0, 1, 1]).bool()[None, None, None], 1.0, False, None)
    theirs = replace(mine, key=place * 0, mask=torch.tensor([1, 1, 0, 0]).bool()[None, None, None])
    student, parts = trained(mine)
    batch = Batch({"input_ids": torch.ones(1, 4)}, Task.TOKENS)
    found = recorded_kl(RecordedMap.of(student), RecordedMap.of(theirs), batch)
    finite = math.log(torch.finfo(torch.float32).tiny)
    expected = 0.5 * (math.log(0.5) + math.log(3)) + 0.5 * (math.log(0.5) - finite)
    torch.testing.assert_close(found, torch.tensor(expected))
    plain = attention_kl(RecordedMap.of(student).whole(), RecordedMap.of(theirs).whole()).mean()
    for one, other in zip(*(torch.autograd.grad(each, parts) for each in (found, plain)), strict=True):
        torch.testing.assert_close(one, other)
        assert one.isfinite().all()
    far, parts = trained(
        replace(mine, mask=None)
    )  # a probability of exp(-300) is 0 in float32, its logarithm is there
    found = recorded_kl(RecordedMap.of(far), RecordedMap.of(replace(theirs, key=place[:, :, [1, 0, 2, 3]])), batch)
    torch.testing.assert_close(found, torch.tensor(300.0))
    assert torch.autograd.grad(found, parts)[1].abs().max() > 0.1


def test_a_query_that_sees_no_key_adds_nothing():
    nothing = torch.ones(QUERIES, QUERIES).bool().tril(-1)  # the first one
    student, parts = trained(record_of())
    batch = Batch({"input_ids": torch.ones(ROWS, QUERIES)}, Task.TOKENS)
    teacher = record_of(seed=20, mask=nothing[None, None])
    found = recorded_kl(RecordedMap.of(student), RecordedMap.of(teacher), batch)
    (gradient, _) = torch.autograd.grad(found, parts)
    assert gradient[:, :, 0].abs().max() == 0 < gradient[:, :, 1].abs().min()
    torch.testing.assert_close(found, kl_by_hand(student, teacher, torch.ones(3, 6), 4))


def test_halves_are_compared_in_float32_and_gradients_have_their_type(monkeypatch):
    blocks_of(monkeypatch, 1)
    student = trained(record_of(mask=SEEN))[0]
    half = replace(student, query=student.query.half(), key=student.key.half())
    teacher = RecordedMap.of(record_of(seed=20, mask=SEEN))
    with torch.autocast("cpu", torch.bfloat16):
        found = recorded_kl(RecordedMap.of(half), teacher, batch_of())
    whole = replace(half, query=half.query.float(), key=half.key.float())
    full = recorded_kl(RecordedMap.of(whole), teacher, batch_of())
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, full)
    for one, other in ((half.query, whole.query), (half.key, whole.key)):  # rounded once, not row by row
        (rounded,) = torch.autograd.grad(found, one, retain_graph=True)
        assert torch.equal(rounded, torch.autograd.grad(full, other, retain_graph=True)[0].half())


def test_nothing_of_the_size_of_a_map_is_made_and_only_gradients_are_kept(monkeypatch):
    size = 128
    blocks_of(monkeypatch, 2 * size * 8)
    query, key = (torch.randn(2, 2, size, 4) for _ in range(2))
    student, parts = trained(AttentionRecord(query, key, None, None, None, True, None))
    teacher = RecordedMap.of(AttentionRecord(key, query, None, None, None, True, None))
    batch = Batch({"input_ids": torch.ones(2, size)}, Task.TOKENS)
    mine = RecordedMap.of(student)
    largest, kept = memory(lambda: recorded_kl(mine, teacher, batch))
    assert largest <= 2 * size * 8
    assert kept <= 4 * sum(part.numel() for part in parts) == 2 * 2 * size**2 // 4
    assert mine.untouched
    assert teacher.untouched


def test_it_may_go_backward_twice_and_computes_no_gradient_that_nobody_wants(monkeypatch):
    student, parts = trained(record_of())
    teacher = RecordedMap.of(record_of(seed=20))
    found = recorded_kl(RecordedMap.of(student), teacher, batch_of())
    first = torch.autograd.grad(3 * found, parts, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(found, parts), strict=True):
        torch.testing.assert_close(one, 3 * other)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was made")

    with torch.no_grad():
        monkeypatch.setattr(torch.autograd, "grad", refuse)
        torch.testing.assert_close(recorded_kl(RecordedMap.of(student), teacher, batch_of()), found)


def test_what_would_be_broadcast_is_refused():
    student = RecordedMap.of(record_of())
    said = r"the student's attention map is \(3, 4, 6, 6\), the teacher's \(3, 2, 6, 6\)"
    with pytest.raises(ValueError, match=said):
        recorded_kl(student, RecordedMap.of(record_of(2, 2)), batch_of())
    with pytest.raises(ValueError, match=r"the teacher's \(3, 4, 1, 6\)"):
        recorded_kl(student, torch.ones(3, 4, 1, 6), batch_of(), 1)
    with pytest.raises(ValueError, match="values of 2 rows, got 3"):
        recorded_kl(student, student, Batch({"pixel_values": torch.ones(2, 1)}, Task.SINGLE_LABEL))
