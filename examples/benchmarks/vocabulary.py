"""The head of a vocabulary and the losses behind it, from hidden states: time and peak memory of forward and backward.

    OMP_NUM_THREADS=1 python examples/benchmarks/vocabulary.py                 # about 3 minutes of one core
    OMP_NUM_THREADS=1 python examples/benchmarks/vocabulary.py --compile       # the fused formulas compiled too
    python examples/benchmarks/vocabulary.py --positions 4096 --vocabulary 50304 --share 0.5

All ways get the same random hidden states and heads of a student and a teacher, in float32, of one width and without
a bias, and must give the plain formula's value and gradients (of the student's hidden states and head) before anything
is measured:

- plain: both models' logits of all positions, and the shortest obvious formula on them as a whole; where only some
  positions count, it is averaged over those, as by a model and a loss that know nothing of each other;
- in chunks: the same logits, compared in chunks and again in backward, as the losses do where a head is not plainly
  linear; the positions that count only, if not all do;
- head in chunks: a chunk's logits are made again in backward too;
- fused: what training runs; the positions that count only.

The losses are soft targets, or soft targets and the labels' loss, in one pass where fused. Milliseconds are medians,
all ways in turn, in changing order. On a CPU with one thread they are the processor's time, which others on a busy
machine disturb least; else the clock's. MB (10^6 bytes) is the most that is alive at once beyond the hidden states and
heads, the student's gradients included: on a CPU all that torch's allocator gives out (`torch.profiler`), on CUDA
`torch.cuda.max_memory_allocated`. Ratios are to plain with as many positions that count and the same losses.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measuring import agree, peak_megabytes, seconds_of
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_distill.losses import kl_divergence
from hf_distill.losses.fused import ROWS, Head, Term, head_and_terms
from hf_distill.losses.logits import in_chunks

TEMPERATURE = 2.0
Formula = Callable[[Tensor, Tensor, Tensor], Tensor]  # logits of both, labels -> one value a position


@dataclass(frozen=True)
class Work:
    """What every way is given: the two heads, which positions count, and their labels."""

    student: Head
    teacher: Head
    counts: Tensor
    labels: Tensor

    def gathered(self) -> "Work":
        """The positions that count only; the gradients still go to all."""
        rows = self.counts.nonzero().squeeze(1)
        heads = (head._replace(hidden=head.hidden.index_select(0, rows)) for head in (self.student, self.teacher))
        return Work(*heads, self.counts[rows], self.labels[rows])


@dataclass(frozen=True)
class Row:
    losses: str
    share: float
    way: str
    milliseconds: float
    megabytes: float


def soft_targets(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return kl_divergence(student, teacher, TEMPERATURE)


def both(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return soft_targets(student, teacher, labels) + F.cross_entropy(student, labels, reduction="none")


def plain_soft_targets(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    log_q, p = (student / TEMPERATURE).log_softmax(-1), (teacher / TEMPERATURE).softmax(-1)
    return F.kl_div(log_q, p, reduction="none").sum(-1) * TEMPERATURE**2


def plain_both(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return plain_soft_targets(student, teacher, labels) + F.cross_entropy(student, labels, reduction="none")


LOSSES: dict[str, tuple[Formula, Formula]] = {  # ours, plain
    "soft targets": (soft_targets, plain_soft_targets),
    "soft targets, labels": (both, plain_both),
}

# --- the ways: the mean over the positions that count ---


def plain(work: Work, formula: Formula) -> Tensor:
    values = formula(F.linear(*work.student), F.linear(*work.teacher), work.labels)
    return torch.where(work.counts, values, 0.0).sum() / work.counts.sum()


def in_chunks_of_logits(work: Work, formula: Formula) -> Tensor:
    work = work.gathered()
    return in_chunks(formula, F.linear(*work.student), F.linear(*work.teacher), work.labels, chunk_size=ROWS).mean()


def head_in_chunks(work: Work, formula: Formula) -> Tensor:
    work = work.gathered()

    def chunk(mine: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
        return formula(F.linear(mine, *work.student[1:]), F.linear(theirs, *work.teacher[1:]), labels)

    parts = zip(*(each.split(ROWS) for each in (work.student.hidden, work.teacher.hidden, work.labels)), strict=True)
    return torch.cat([checkpoint(chunk, *part, use_reentrant=False) for part in parts]).mean()


def fused(work: Work, formula: Formula) -> Tensor:
    work = work.gathered()
    terms = [Term(formula, 1 / len(work.labels), (work.labels,))]
    return head_and_terms(work.student, work.teacher, terms).sum()


WAYS = {"plain": plain, "in chunks": in_chunks_of_logits, "head in chunks": head_in_chunks, "fused": fused}

# --- measuring ---

Step = Callable[[], tuple[Tensor, tuple[Tensor, ...]]]


def step_of(way: Callable[[Work, Formula], Tensor], formula: Formula, work: Work) -> Step:
    """One forward and backward: the value and the student's gradients."""

    def step() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = way(work, formula)
        return value.detach(), torch.autograd.grad(value, [work.student.hidden, work.student.weight])

    return step


def work_of(positions: int, vocabulary: int, width: int, share: float, device: torch.device) -> Work:
    torch.manual_seed(0)
    student, teacher = (
        Head(torch.randn(positions, width, device=device), torch.randn(vocabulary, width, device=device) * 0.05)
        for _ in range(2)
    )
    for each in student[:2]:
        each.requires_grad_()
    order, counting = torch.randperm(positions, device=device), max(1, round(share * positions))
    return Work(student, teacher, order < counting, torch.randint(vocabulary, (positions,), device=device))


def measure(work: Work, losses: str, share: float, compiled: bool, rounds: int, device: torch.device) -> list[Row]:
    """One row a way: checked, its memory measured, then timed in turn with the others."""
    ours, formula = LOSSES[losses]
    steps = {name: step_of(way, formula if name == "plain" else ours, work) for name, way in WAYS.items()}
    if compiled:
        steps["fused, compiled"] = step_of(fused, torch.compile(ours), work)
    for name, step in steps.items():
        agree(step, steps["plain"], f"{name}, {losses}, {share:.0%}")
    memory = {name: peak_megabytes(step, device) for name, step in steps.items()}
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in sorted(steps, reverse=number % 2 == 1):
            found[name].append(seconds_of(steps[name], device))
    return [Row(losses, share, name, statistics.median(found[name]) * 1e3, memory[name]) for name in steps]


def show(rows: list[Row], title: str) -> None:
    """The table, on the screen and as Markdown."""
    header = ["losses", "count", "way", "ms", "time ratio", "MB", "memory ratio"]
    cells, base = [], rows[0]
    for row in rows:
        base = row if row.way == "plain" else base
        ratios = row.milliseconds / base.milliseconds, row.megabytes / base.megabytes
        numbers = [f"{row.milliseconds:.1f}", f"{ratios[0]:.2f}", f"{row.megabytes:.1f}", f"{ratios[1]:.2f}"]
        cells.append([row.losses, f"{row.share:.0%}", row.way, *numbers])
    table = Table(title=title)
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index > 2 else "left")
    for cell in cells:
        table.add_row(*cell)
    Console(width=120).print(table)
    lines = [header, ["---", "---:", "---", *["---:"] * 4], *cells]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--positions", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=30_522)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--share", type=float, default=0.15, help="of the positions that count, beside all of them")
    parser.add_argument("--rounds", type=int, default=7, help="each way is timed so often")
    parser.add_argument("--compile", action="store_true", help="the fused formulas also compiled")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would say that it starts and stops, for every row
    device = torch.device(arguments.device)
    start, rows = time.perf_counter(), []
    for losses, share in track([(losses, share) for losses in LOSSES for share in (1.0, arguments.share)], "ways"):
        work = work_of(arguments.positions, arguments.vocabulary, arguments.width, share, device)
        rows += measure(work, losses, share, arguments.compile, arguments.rounds, device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    size = f"{arguments.positions} x {arguments.width} before a vocabulary of {arguments.vocabulary:,}"
    minutes = (time.perf_counter() - start) / 60
    show(rows, f"{size}: {machine}, torch {torch.__version__}, float32, {minutes:.1f} min")


if __name__ == "__main__":
    main()
