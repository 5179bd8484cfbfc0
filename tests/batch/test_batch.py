import math
import socket
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hf_distill.batch import COUNTED, Batch, count, count_step
from hf_distill.losses import rkd_angle
from hf_distill.signals import LOGITS, attention, attention_scores, hidden, key, pooled, query, value
from hf_distill.tasks import Task

NAN = float("nan")
CLASSES = 3


def collate(task, lengths, side="right", labelled=True, seed=0):
    """Ragged inputs for a task, each row the same whatever it is batched with; lengths name the rows."""
    width = max(lengths)
    inputs = {name: torch.zeros(len(lengths), width, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    labels = torch.full((len(lengths), width), -100)
    answers, starts, ends, many = [], [], [], []
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed + length)
        where = slice(0, length) if side == "right" else slice(width - length, width)
        inputs["attention_mask"][row, where] = 1
        inputs["input_ids"][row, where] = torch.randint(1, 9, (length,), generator=generator)
        own = torch.randint(0, CLASSES, (length,), generator=generator)
        labels[row, where] = own.masked_fill(torch.rand(length, generator=generator) < 0.3, -100)
        answers.append(int(torch.randint(0, CLASSES, (), generator=generator)))
        starts.append(where.start + int(torch.randint(0, length, (), generator=generator)))
        ends.append(where.stop + 1 if length % 2 else where.stop - 1)  # cut off, or in padding, in every second row
        many.append(torch.tensor([1, 0, -1] if length % 3 else [-100, -1, -1]))
    by_task = {
        Task.SINGLE_LABEL: {"labels": torch.tensor(answers)},
        Task.MULTI_LABEL: {"labels": torch.stack(many)},
        Task.REGRESSION: {"labels": torch.tensor(answers).float()},
        Task.SPAN: {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)},
    }
    return inputs | (by_task.get(task, {"labels": labels}) if labelled else {})


def counted(inputs, task, over):
    """Which entries count, by loops: a list of index tuples."""
    mask, labels = inputs["attention_mask"].tolist(), inputs.get("labels")
    rows, found = range(len(mask)), []
    for b in rows:
        tokens = [t for t, on in enumerate(mask[b]) if on]
        if over == "examples":
            found.append((b,))
        elif over == "tokens":
            found += [(b, t) for t in tokens]
        elif over == "pairs":
            found += [(b, q, k) for q in tokens for k in tokens if task is not Task.CAUSAL_LM or k <= q]
        elif task is Task.SPAN:
            ends = (inputs["start_positions"][b], inputs["end_positions"][b])
            found += [(b, i) for i, at in enumerate(ends) if over == "predictions" or at in tokens]
        elif not task.per_token:
            unknown = over == "targets" and task is Task.MULTI_LABEL and all(each < 0 for each in labels[b])
            found += [] if unknown else [(b,)]
        else:
            shift = 1 if task is Task.CAUSAL_LM else 0
            for t in tokens:
                seen = t - shift in tokens  # a first token is predicted from nothing
                if seen and (labels is None or labels[b, t] >= 0):
                    found.append((b, t - shift))
    return found


def shape_of(inputs, task, over):
    rows, width = inputs["attention_mask"].shape
    if over == "examples" or (over in ("predictions", "targets") and task.per_example):
        return (rows,)
    if over == "pairs":
        return (rows, width, width)
    if over == "tokens":
        return (rows, width)
    return (rows, 2) if task is Task.SPAN else (rows, width - (task is Task.CAUSAL_LM))


TASKS = [task for task in Task if task not in (Task.SEQ2SEQ, Task.EMBEDDING)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("over", COUNTED)
@pytest.mark.parametrize("task", TASKS)
def test_the_mean_is_that_of_a_loop_over_what_counts(task, over, side):
    inputs = collate(task, [5, 3, 4, 6], side)
    shape = shape_of(inputs, task, over)
    kept = counted(inputs, task, over)
    values = torch.full(shape, NAN)
    for place, number in zip(kept, torch.randn(len(kept)).tolist(), strict=True):
        values[place] = number
    expected = sum(values[place].item() for place in kept) / len(kept)
    torch.testing.assert_close(Batch(inputs, task).mean(values, over), torch.tensor(expected))
    assert count(inputs, task)[over] == len(kept)


@pytest.mark.parametrize("over", COUNTED)
@pytest.mark.parametrize("task", TASKS)
def test_shares_of_micro_batches_add_up_to_the_mean_of_all(task, over):
    """Each micro-batch is padded to its own length, as a collator does it."""
    lengths = [5, 3, 4, 6, 2, 7, 3, 1]
    whole = collate(task, lengths)
    values = torch.randn(shape_of(whole, task, over))
    expected = Batch(whole, task).mean(values, over)
    parts = [collate(task, lengths[i : i + 2]) for i in range(0, 8, 2)]
    counts = count_step(parts, task)
    shares = []
    for i, part in enumerate(parts):
        shape = shape_of(part, task, over)
        cut = values[(slice(2 * i, 2 * i + 2), *(slice(0, size) for size in shape[1:]))]
        shares.append(Batch(part, task, counts).mean(cut, over))
    torch.testing.assert_close(sum(shares), expected)


def test_without_labels_all_attended_predictions_count_and_no_target():
    for task in TASKS:
        inputs = collate(task, [4, 2], labelled=False)
        batch = Batch(inputs, task)
        assert batch.labels is None
        assert batch.predictions.sum() == {Task.CAUSAL_LM: 4, Task.SPAN: 4}.get(task, 2 if task.per_example else 6)
        assert count(inputs, task)["targets"] == 0
        with pytest.raises(ValueError, match="mean over targets needs labels, and the batch has none"):
            batch.mean(torch.zeros(batch.predictions.shape), over="targets")


def test_the_causal_shift():
    inputs = collate(Task.CAUSAL_LM, [4, 2], labelled=False) | {"labels": torch.tensor([[7, 8, 9, 5], [6, 5, 9, 9]])}
    batch = Batch(inputs, Task.CAUSAL_LM)
    assert batch.labels.tolist() == [[8, 9, 5], [5, 9, 9]]
    assert batch.predictions.tolist() == [[True, True, True], [True, False, False]]  # labels on padding are none
    logits = torch.arange(8.0).view(2, 4, 1) + 1
    assert batch.align(logits).flatten().tolist() == [1, 2, 3, 5, 0, 0]


def test_left_padding_predicts_nothing():
    inputs = collate(Task.CAUSAL_LM, [4, 2], side="left", labelled=False)
    assert Batch(inputs, Task.CAUSAL_LM).predictions.tolist() == [[True, True, True], [False, False, True]]


def test_a_span_is_a_start_and_an_end():
    mask = torch.tensor([[0, 1, 1], [1, 1, 0]])
    inputs = {"attention_mask": mask, "start_positions": torch.tensor([1, -1]), "end_positions": torch.tensor([0, 2])}
    batch = Batch(inputs | {"input_ids": mask}, Task.SPAN)
    assert batch.labels.tolist() == [[1, 0], [-1, 2]]
    assert count(batch.inputs, Task.SPAN)["targets"] == 1  # before the text, after it, and none at all do not count
    aligned = batch.align(torch.full((2, 2, 3), NAN)).isnan()
    assert aligned[0, 0].tolist() == [False, True, True]


def test_labels_of_a_decoder_say_alone_what_counts():
    labels = torch.tensor([[1, 2, -100], [1, -100, -100]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    inputs = {"input_ids": mask, "attention_mask": mask, "labels": labels}
    found = count(inputs, Task.SEQ2SEQ)
    assert {name: int(found[name]) for name in COUNTED} == {
        "examples": 2,
        "predictions": 3,
        "targets": 3,
        "tokens": 7,
        "pairs": 29,
    }
    reads = {"input_ids": mask, "decoder_input_ids": labels, "decoder_attention_mask": labels > 0}
    assert Batch(reads, Task.SEQ2SEQ).predictions.tolist() == (labels > 0).tolist()


@pytest.mark.parametrize("over", ["tokens", "pairs"])
def test_images_have_no_tokens_so_examples_are_averaged(over):
    inputs = [{"pixel_values": torch.randn(rows, 3, 8, 8), "labels": torch.zeros(rows).long()} for rows in (2, 1)]
    counts = count_step(inputs, Task.SINGLE_LABEL)
    batches = [Batch(each, Task.SINGLE_LABEL, counts) for each in inputs]
    assert all(batch.tokens is None for batch in batches)
    values = torch.randn(3, 4, 4)
    shares = batches[0].mean(values[:2], over) + batches[1].mean(values[2:], over)
    torch.testing.assert_close(shares, values.mean())


def test_tokens_without_a_mask_are_all_attended():
    for name, read in (("input_ids", torch.ones(2, 3)), ("inputs_embeds", torch.ones(2, 3, 8))):
        assert Batch({name: read}, Task.TOKENS).tokens.tolist() == [[True] * 3] * 2


def test_a_scalar_of_the_batch_is_weighted_by_its_rows():
    parts = [collate(Task.SINGLE_LABEL, lengths) for lengths in ([3, 2, 4], [5])]
    counts = count_step(parts, Task.SINGLE_LABEL)
    shares = [
        Batch(part, Task.SINGLE_LABEL, counts).mean(torch.tensor(scalar), "batch")
        for part, scalar in zip(parts, (8.0, 4.0), strict=True)
    ]
    assert sum(shares) == (3 * 8 + 4) / 4
    assert Batch(parts[0], Task.SINGLE_LABEL).mean(torch.tensor(8.0), "batch") == 8


@pytest.mark.parametrize("over", ["predictions", "targets", "tokens", "pairs"])
def test_nothing_that_counts_is_a_mean_of_zero(over):
    inputs = {name: torch.zeros(2, 4).long() for name in ("input_ids", "attention_mask")}
    inputs["labels"] = torch.full((2, 4), -100)
    values = torch.full(shape_of(inputs, Task.TOKENS, over), NAN, requires_grad=True)
    found = Batch(inputs, Task.TOKENS).mean(values, over)
    found.backward()
    assert found == 0
    assert values.grad.abs().max() == 0


def test_a_sum_of_half_precision_values_does_not_overflow():
    inputs = {"input_ids": torch.ones(4, 4)}
    for dtype in (torch.float16, torch.bfloat16):
        found = Batch(inputs, Task.TOKENS).mean(torch.full((4, 4), 3e4, dtype=dtype), "tokens")
        assert found.dtype is torch.float32
        assert abs(found / 3e4 - 1) < 0.01
    assert Batch(inputs, Task.TOKENS).mean(torch.ones(4, 4).double(), "tokens").dtype is torch.float64


def test_values_of_another_shape_are_refused():
    batch = Batch(collate(Task.CAUSAL_LM, [4, 2]), Task.CAUSAL_LM)
    with pytest.raises(ValueError, match=r"mean over predictions needs values of shape \(2, 3\), got \(2, 4\)"):
        batch.mean(torch.zeros(2, 4), over="predictions")
    with pytest.raises(ValueError, match="mean over 'token' is not known; use one of examples, predictions"):
        batch.mean(torch.zeros(2, 4), over="token")


@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_are_queries_that_see_keys(side):
    for task in (Task.SINGLE_LABEL, Task.CAUSAL_LM):
        inputs = collate(task, [3, 1, 4], side)
        found = torch.zeros(3, 4, 4, dtype=torch.bool)
        for place in counted(inputs, task, "pairs"):
            found[place] = True
        assert Batch(inputs, task).pairs.equal(found)
    assert Batch({"pixel_values": torch.zeros(2, 3, 4, 4)}, Task.SINGLE_LABEL).pairs is None


def test_padding_is_taken_out_of_what_is_seen():
    inputs = collate(Task.CAUSAL_LM, [3, 2])
    for signal, shape, kept in (
        (hidden(0), (2, 3, 5), 5 * 5),
        (query(0), (2, 4, 3, 5), 4 * 5 * 5),
        (key(0), (2, 4, 3, 5), 4 * 5 * 5),
        (value(0), (2, 4, 3, 5), 4 * 5 * 5),
        (attention(0), (2, 4, 3, 3), 4 * 5 * 3),  # queries; a masked key has probability 0 already
        (attention_scores(0), (2, 4, 3, 3), 4 * (6 + 3)),  # pairs, no key after its query
        (pooled(), (2, 5), 10),
        (LOGITS, (2, 3, 5), 30),  # these are the business of align
    ):
        assert Batch(inputs, Task.CAUSAL_LM).clean(signal, torch.ones(shape)).sum() == kept
        images = {"pixel_values": torch.zeros(2, 3, 4, 4)}
        assert Batch(images, Task.SINGLE_LABEL).clean(signal, torch.ones(shape)).all()


def test_clean_and_align_stop_nan_before_a_formula_that_mean_alone_would_not():
    """0 times NaN is NaN in the backward of what made the values, so masking the values is too late."""
    batch = Batch(collate(Task.TOKENS, [3, 2]), Task.TOKENS)
    teacher = torch.randn(2, 3, 4)
    teacher[1, 2] = NAN
    for clean in (True, False):
        student = torch.randn(2, 3, 4, requires_grad=True)
        other = batch.clean(hidden(0), teacher) if clean else teacher
        found = batch.mean((student - other).square().mean(-1), over="tokens")
        found.backward()
        assert found.isfinite()
        assert student.grad.isfinite().all() == clean


def test_a_mask_of_another_length_is_refused():
    batch = Batch({"input_values": torch.zeros(2, 160), "attention_mask": torch.ones(2, 160)}, Task.SINGLE_LABEL)
    with pytest.raises(ValueError, match=r"hidden\(1\) has 7 positions and the mask of the batch 160"):
        batch.clean(hidden(1), torch.zeros(2, 7, 4))
    with pytest.raises(ValueError, match="the last hidden state has 7 positions and the mask of the batch 160"):
        batch.pool(torch.zeros(2, 7, 4), "mean")


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_takes_attended_tokens_only(side):
    inputs = collate(Task.SINGLE_LABEL, [3, 1, 4], side)
    mask = inputs["attention_mask"].bool()
    seen = torch.randn(3, 4, 5).masked_fill(~mask[..., None], NAN).requires_grad_()
    rows = [row[on] for row, on in zip(seen, mask, strict=True)]
    batch = Batch(inputs, Task.SINGLE_LABEL)
    for pooling, expected in (
        ("first", torch.stack([row[0] for row in rows])),
        ("last", torch.stack([row[-1] for row in rows])),
        ("mean", torch.stack([row.mean(0) for row in rows])),
    ):
        found = batch.pool(seen, pooling)
        torch.testing.assert_close(found, expected)
        (gradient,) = torch.autograd.grad(found.sum(), seen)
        assert gradient.isfinite().all()
        assert (gradient[~mask] == 0).all()


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
def test_pooling_without_tokens(pooling):
    patches = torch.randn(2, 3, 4)
    found = Batch({"pixel_values": torch.zeros(2, 3, 8, 8)}, Task.SINGLE_LABEL).pool(patches, pooling)
    torch.testing.assert_close(
        found, {"first": patches[:, 0], "last": patches[:, -1], "mean": patches.mean(1)}[pooling]
    )
    nothing = {"input_ids": torch.zeros(2, 3), "attention_mask": torch.zeros(2, 3)}
    assert (Batch(nothing, Task.SINGLE_LABEL).pool(torch.full((2, 3, 4), NAN), pooling) == 0).all()


def test_per_example_sums_and_counts_predictions():
    batch = Batch(collate(Task.TOKENS, [3, 2], labelled=False), Task.TOKENS)
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, NAN]])
    assert batch.per_example(values).tolist() == [[6, 3], [9, 2]]
    one = Batch(collate(Task.MULTI_LABEL, [3, 2]), Task.MULTI_LABEL)
    assert one.per_example(torch.tensor([7.0, 8.0])).tolist() == [[7, 1], [8, 1]]


# Two processes: 3 and 5 rows in the first micro-batch, 2 and 1 in the second, against all 11 in one process

PER_PROCESS = [[[5, 3, 4], [6, 2]], [[7, 3, 1, 4, 2], [8]]]
POINTS = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))  # one a length
WEIGHT = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
VALUES = torch.randn(9, 9, generator=torch.Generator().manual_seed(2))


def term(batch, lengths, weight):
    """A relation over all processes, and a mean over tokens, of one linear student."""
    rows = POINTS[torch.tensor(lengths)] @ weight
    relation = rkd_angle(batch.gather(rows), batch.gather(POINTS[torch.tensor(lengths)].exp()))
    tokens = VALUES[torch.tensor(lengths)][:, : max(lengths)] * rows.sum(-1, keepdim=True)
    return batch.mean(relation, "batch") + batch.mean(tokens, "tokens") + batch.mean(rows.square(), "examples")


def one_of_two(rank, port, answers):
    # a partner that is gone is an error and no endless wait
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timedelta(minutes=4))
    torch.set_num_threads(1)
    inputs = [collate(Task.TOKENS, lengths) for lengths in PER_PROCESS[rank]]
    counts = count_step(inputs, Task.TOKENS, processes=2)
    weight = WEIGHT.clone().requires_grad_()
    total = torch.zeros(())
    for lengths, each in zip(PER_PROCESS[rank], inputs, strict=True):
        total = total + term(Batch(each, Task.TOKENS, counts, processes=2), lengths, weight)
    total.backward()
    mean = torch.stack([total.detach(), *weight.grad.flatten()])
    dist.all_reduce(mean)  # what DDP does with gradients, and the log with terms
    half = Batch(inputs[0], Task.TOKENS, processes=2).gather(
        torch.full((inputs[0]["labels"].shape[0], 2), rank).half()
    )
    answers.put((rank, (mean / 2).tolist(), {name: n.item() for name, n in counts.items()}, half.tolist()))
    dist.destroy_process_group()


def test_two_processes_are_one(free_port):
    context = mp.get_context("spawn")
    answers = context.SimpleQueue()
    mp.spawn(one_of_two, (free_port, answers), nprocs=2)
    found = sorted(answers.get() for _ in range(2))
    weight = WEIGHT.clone().requires_grad_()
    steps = [one + other for one, other in zip(*PER_PROCESS, strict=True)]
    inputs = [collate(Task.TOKENS, lengths) for lengths in steps]
    counts = count_step(inputs, Task.TOKENS)
    expected = sum(
        term(Batch(each, Task.TOKENS, counts), lengths, weight) for lengths, each in zip(steps, inputs, strict=True)
    )
    expected.backward()
    for rank, mean, counted_there, gathered in found:
        torch.testing.assert_close(torch.tensor(mean), torch.stack([expected.detach(), *weight.grad.flatten()]))
        assert {name: 2 * number for name, number in counted_there.items()} == counts
        assert gathered == [[0, 0]] * 3 + [[1, 1]] * 5, rank


@pytest.fixture
def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_a_step_that_one_process_has_nothing_of_is_still_divided_by_all():
    """Per process half a target: 1 in two processes. The clamp that avoids 0 / 0 must not touch it."""
    inputs = {"input_ids": torch.ones(1, 2).long(), "labels": torch.tensor([[1, -100]])}
    counts = {name: torch.tensor(0.5) for name in COUNTED}
    found = Batch(inputs, Task.TOKENS, counts, processes=2).mean(torch.tensor([[3.0, NAN]]), "targets")
    assert math.isclose(found, 6.0)


def test_a_total_is_the_sum_over_what_counts():
    batch = Batch(collate(Task.TOKENS, [3, 1]), Task.TOKENS)
    values = torch.arange(batch.predictions.numel(), dtype=torch.float).view(batch.predictions.shape)
    expected = sum(value for value, kept in zip(values.flatten(), batch.predictions.flatten(), strict=True) if kept)
    assert batch.total(values, "predictions") == expected
    torch.testing.assert_close(batch.mean(values, "predictions"), expected / batch.predictions.sum())


def test_a_mean_over_examples_takes_a_row_for_each():
    batch = Batch({"input_ids": torch.ones(2, 3)}, Task.SINGLE_LABEL)
    with pytest.raises(ValueError, match=r"^mean over examples needs values of 2 rows, got 8\.$"):
        batch.mean(torch.ones(8), over="examples")  # windows of an image, four a row


def test_positions_are_those_of_the_model_and_rows_are_where_they_stand():
    labels = torch.tensor([[4, 5, 6, 7], [4, -100, 6, -100]])
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long), "labels": labels}
    masked, causal = (Batch(inputs, task) for task in (Task.MASKED_LM, Task.CAUSAL_LM))
    assert masked.positions.tolist() == [[True, True, True, True], [True, False, True, False]]
    assert causal.positions.tolist() == [[True, True, True, False], [False, True, False, False]]
    assert masked.counted_rows.tolist() == [0, 1, 2, 3, 4, 6]
    assert causal.counted_rows.tolist() == [0, 1, 2, 5]
    assert masked.at_counted_rows(masked.labels).tolist() == [4, 5, 6, 7, 4, 6]
    assert causal.at_counted_rows(causal.labels).tolist() == [5, 6, 7, 6]
    assert Batch({"input_ids": labels, "labels": labels[:, 0]}, Task.SINGLE_LABEL).positions is None


def test_logits_of_other_positions_have_none_that_are_known():
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long)}
    batch = Batch(inputs, Task.MASKED_LM)
    assert batch.counted_positions(torch.zeros(2, 4, 3)).shape == (2, 4)
    assert batch.counted_positions(torch.zeros(2, 5, 3)) is None
    assert batch.counted_positions(torch.zeros(2, 4)) is None
