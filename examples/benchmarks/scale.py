"""How the cost of a step grows: with the data set, the text, the layers matched, the batch and the vocabulary.

    OMP_NUM_THREADS=1 python examples/benchmarks/scale.py  # all five axes: 5 minutes of a free core
    OMP_NUM_THREADS=1 python examples/benchmarks/scale.py --axes examples vocabulary

Every point is this package's step over its limit, a loop written by hand; both make a step in each round, in changing
order. Below, the teacher has 12 layers, the student its first 6, both 384 wide, with 28 labels, and a batch is 4 x 128
where the axis does not say otherwise. Random weights, random texts of full length.

| axis | the step | its limit |
| --- | --- | --- |
| examples | logits from a cache of so many examples, 32 x 16 | the student's step on the labels, no teacher |
| tokens | logits, teacher live, one text of so many | the teacher's forward, then the student's step |
| layers | the same and hidden states and attention maps of so many layers | the same, no layers |
| batch | logits, teacher live | the teacher's forward, then the student's step |
| vocabulary | KL of a Llama's logits, 2 x 128 positions, 4 layers and 2 | the same on whole logits |

Time is the median over rounds of the ratio in the same round; on one thread it is the processor's. Memory is the most
that is alive at once in a step beyond what was before (torch's allocator), ours over the limit's: models and the
optimizer's state are not in it, and neither are the pages of a cache that are mapped from disk.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from measuring import clock, draw_lines, paired, peak_megabytes, show, spread, turns, written
from rich.progress import Progress
from stepping import Inputs, Step, collate, half_of, ours, soft_targets
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_distill import losses, teachers

LABELS, BATCH, LENGTH, SHORT = 28, 4, 128, 16
SIZE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
LM_SIZE = {"hidden_size": 384, "num_hidden_layers": 4, "num_attention_heads": 6, "intermediate_size": 1024}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}


@dataclass
class Point:
    """Two steps, and the batches that both are given."""

    ours: Step
    limit: Step
    batch: Callable[[], Inputs]


# ---- models, rows and steps ---------------------------------------------------------------------------------------


def classifier(sizes: dict[str, int]) -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(num_labels=LABELS, problem_type="multi_label_classification", **sizes)
    ).eval()


def rows_of(count: int, length: int, vocabulary: int | None = None) -> Dataset:
    """Random texts of full length; with a vocabulary they are their own labels, else there are several of `LABELS`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary or 30_000, (count, length), generator=generator)
    labels = torch.randint(0, 2, (count, LABELS), generator=generator).float()
    return Dataset.from_dict({"input_ids": ids.numpy(), "labels": (ids if vocabulary else labels).numpy()})


def drawn_from(rows: Dataset, size: int) -> Callable[[], Inputs]:
    """Batches of random rows, the same ones in every run."""
    generator = torch.Generator().manual_seed(1)
    return lambda: collate([rows[i] for i in torch.randint(len(rows), (size,), generator=generator).tolist()])


def by_hand(student: nn.Module, teacher: nn.Module | None) -> Step:
    """The student's step on its labels; with a teacher, on soft targets too, or for a language model on them alone."""
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=5e-5, weight_decay=0.0, fused=True
    )  # the Trainer's defaults

    def step(batch: Inputs) -> None:
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        if teacher is not None:
            with torch.no_grad():
                theirs = teacher(**inputs).logits
        mine = student.train()(**inputs).logits
        if mine.ndim == 3:
            log_q, log_p = (side[:, :-1].flatten(0, 1).log_softmax(-1) for side in (mine, theirs))
            loss = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        else:
            loss = F.binary_cross_entropy_with_logits(mine, batch["labels"])
            if teacher is not None:
                soft = F.binary_cross_entropy_with_logits(mine / 2, torch.sigmoid(theirs / 2), reduction="none")
                loss = 0.5 * loss + 0.5 * 4 * soft.sum(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


# ---- axes ---------------------------------------------------------------------------------------------------------


def of_examples(count: int, folder: Path) -> Point:
    """The teacher of this axis is tiny, so that it has soon answered; no step asks it."""
    rows, student = rows_of(count, SHORT), half_of(classifier(SIZE))
    size = BATCH * LENGTH // SHORT
    cached = teachers.CachedTeacher(folder / "answers", classifier(TINY), batch_size=1024)
    step = ours(copy.deepcopy(student), cached, soft_targets(), rows, size, folder)
    return Point(step, by_hand(student, None), drawn_from(rows, size))


def live(size: int, length: int, terms: list[losses.Loss], folder: Path) -> Point:
    rows, teacher = rows_of(4 * size, length), classifier(SIZE)
    student = half_of(teacher)
    step = ours(copy.deepcopy(student), teachers.ModelTeacher(teacher), terms, rows, size, folder)
    return Point(step, by_hand(student, teacher), drawn_from(rows, size))


def of_layers(count: int, folder: Path) -> Point:
    """Evenly spread, the last first."""
    depth = SIZE["num_hidden_layers"] // 2
    matched = {depth - 1 - i * depth // count: 2 * (depth - 1 - i * depth // count) + 1 for i in range(count)}
    more = [losses.HiddenMSE(matched), losses.AttentionKL(matched)] if matched else []
    return live(BATCH, LENGTH, [*soft_targets(), *more], folder)


def of_vocabulary(count: int, folder: Path) -> Point:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=count, bos_token_id=1, eos_token_id=2, pad_token_id=0, **LM_SIZE)
    teacher = LlamaForCausalLM(config).eval()
    student = half_of(teacher)
    size = BATCH // 2
    rows = rows_of(4 * size, LENGTH, count)
    terms: list[losses.Loss] = [losses.SoftTargets(temperature=1.0)]
    step = ours(copy.deepcopy(student), teachers.ModelTeacher(teacher), terms, rows, size, folder)
    return Point(step, by_hand(student, teacher), drawn_from(rows, size))


AXES: dict[str, tuple[tuple[int, ...], Callable[[int, Path], Point]]] = {
    "examples": ((1_000, 10_000, 100_000), of_examples),
    "tokens": ((32, 128, 512), lambda length, folder: live(1, length, soft_targets(), folder)),
    "layers": ((0, 1, 2, 4, 6), of_layers),
    "batch": ((1, 4, 16), lambda size, folder: live(size, LENGTH, soft_targets(), folder)),
    "vocabulary": ((1_000, 8_000, 32_000, 64_000), of_vocabulary),
}


# ---- measuring ----------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """What a point costs: seconds in each round and MB, ours and the limit's."""

    seconds: tuple[list[float], list[float]]
    megabytes: tuple[float, float]


def measure(point: Point, rounds: int) -> Cost:
    """Both are warmed up, looked at for memory once, and then timed in turn."""
    now = clock()
    steps = {"ours": point.ours, "limit": point.limit}
    batch = point.batch()
    for step in steps.values():
        step(batch)
    peaks = {name: peak_megabytes(lambda step=step: step(batch)) for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    number = -1
    for turn, name in turns(list(steps), rounds):
        if turn != number:
            number, batch = turn, point.batch()
        start = now()
        steps[name](batch)
        times[name].append(now() - start)
    return Cost((times["ours"], times["limit"]), (peaks["ours"], peaks["limit"]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=Path("out/scale.png"))
    options = parser.parse_args(arguments)
    found: dict[str, dict[int, Cost]] = {axis: {} for axis in options.axes}
    with Progress() as progress:
        bar = progress.add_task("", total=sum(len(AXES[axis][0]) for axis in options.axes))
        for axis in options.axes:
            for value in AXES[axis][0]:
                progress.update(bar, description=f"{axis} {value:,}")
                with tempfile.TemporaryDirectory() as folder:
                    found[axis][value] = measure(AXES[axis][1](value, Path(folder)), options.rounds)
                progress.advance(bar)
    lines, panels = [], {}
    for axis, costs in found.items():
        time, memory = [], []
        for value, cost in costs.items():
            ratio, share = paired(*cost.seconds), cost.megabytes[0] / cost.megabytes[1]
            seconds = [f"{spread(each)[0]:.3f}" for each in cost.seconds]
            megabytes = [f"{each:,.0f}" for each in cost.megabytes]
            lines.append([axis, f"{value:,}", *seconds, written(ratio, 3), *megabytes, f"{share:.2f}"])
            time.append((value, *spread(ratio)))
            memory.append((value, share, 0.0))
        panels[axis] = {"time": time, "memory": memory}
    header = ["axis", "value", "seconds", "limit's", "time over the limit", "MB", "limit's", "memory over the limit"]
    show(header, lines, f"{options.rounds} rounds, {torch.get_num_threads()} thread(s)")
    print(draw_lines(options.picture, panels))


if __name__ == "__main__":
    main()
