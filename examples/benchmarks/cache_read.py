"""What reading a batch from the teacher's cache costs, and whether it depends on how many examples are there.

    OMP_NUM_THREADS=1 python examples/benchmarks/cache_read.py        # 1e4 and 1e6 examples, about two minutes

Caches of 28 logits an example of 16 tokens, written as a teacher's are but with numbers for answers. In each round one
batch of 32 examples, drawn from all, is asked of a `CachedTeacher` on every cache, in changing order: their keys are
computed, looked up, and the logits read. A ratio is the median over rounds of a cache's time over that of the first in
the same round. Before each, so much memory is read that the processor's caches hold nothing else, as after a training
step; `--hot` leaves that out. Only the first round is a warm-up. Memory is what the process itself takes more of while
it reads (RssAnon), over the bytes of the cache.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification

from hf_distill.batch import Batch
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.cache.fill import SHARD
from hf_distill.teachers.cache.keys import keys_of
from hf_distill.teachers.cache.layout import Layout
from hf_distill.teachers.cache.manifest import fingerprint
from hf_distill.teachers.cache.shards import finish, write_shard

LABELS, TOKENS, BATCH = 28, 16, 32
A_STEP = 2**26  # bytes; more than processors cache
LAYOUT = Layout(LOGITS, (LABELS,), "float32")


def model() -> BertForSequenceClassification:
    """Its answers are never asked for."""
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    return BertForSequenceClassification(BertConfig(vocab_size=32000, num_labels=LABELS, **size)).eval()


def batch_of(ids: np.ndarray) -> Batch:
    words = torch.from_numpy(ids)
    return Batch({"input_ids": words, "attention_mask": torch.ones_like(words)}, Task.SINGLE_LABEL)


def build(folder: Path, examples: int) -> tuple[CachedTeacher, np.ndarray]:
    """A teacher that answers from a cache, and its examples; the logits of one are its number and those after it."""
    ids = np.random.default_rng(examples).integers(0, 32000, (examples, TOKENS))
    known, plan, names = fingerprint(model()), [], ["attention_mask", "input_ids"]
    for first in range(0, examples, SHARD):
        batch = batch_of(ids[first : first + SHARD])
        keys, _ = keys_of(batch.inputs, names, batch.tokens)
        answers = np.arange(first, first + len(keys), dtype=np.float32)[:, None] + np.arange(LABELS, dtype=np.float32)
        plan.append(f"00000000-{first // SHARD:05d}")
        write_shard(folder, plan[-1], keys, np.tile([TOKENS, 0], (len(keys), 1)), [(LAYOUT, answers)], known)
    finish(folder, plan, names, known)
    teacher = CachedTeacher(folder)
    teacher.prepare(model(), frozenset({LOGITS}), torch.device("cpu"), None)
    return teacher, ids


def own_memory() -> int:
    """Bytes that are this process's alone; pages of mapped files are none of them. 0 where /proc is not."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(sizes: list[int], rounds: int, hot: bool = False) -> list[tuple[float, float, float, float]]:
    """For each size: milliseconds, ratio to the first, half the spread of its middle half, memory over bytes."""
    generator, others = np.random.default_rng(0), np.ones(0 if hot else A_STEP // 8)
    with tempfile.TemporaryDirectory() as folder:
        made = [build(Path(folder) / str(size), size) for size in sizes]
        times: list[list[float]] = [[] for _ in sizes]
        grown = [0] * len(sizes)
        for number in range(rounds + 1):
            for which in range(len(sizes)) if number % 2 else reversed(range(len(sizes))):
                teacher, ids = made[which]
                chosen = generator.integers(0, len(ids), BATCH)
                batch, before = batch_of(ids[chosen]), own_memory()
                others.sum()
                start = time.perf_counter()
                found = teacher.observe(batch)[LOGITS]
                end = time.perf_counter()
                assert (found[:, 0].numpy() == chosen).all(), "a wrong row"
                if number:  # the first is a warm-up
                    times[which].append(end - start)
                    grown[which] += own_memory() - before
        results = []
        for which, mine in enumerate(times):
            ratios = [one / first for one, first in zip(mine, times[0], strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            median, size = statistics.median, sizes[which] * LABELS * 4
            results.append((median(mine) * 1e3, median(ratios), (high - low) / 2, grown[which] / size))
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**6], help="examples of each cache")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--hot", action="store_true", help="leave the processor's caches as they are between reads")
    arguments = parser.parse_args()
    header = ["examples", "ms a batch of 32", "over the first", "memory over the cache's bytes"]
    lines = [
        [f"{size:,}", f"{milliseconds:.3f}", f"{ratio:.2f} ± {spread:.2f}", f"{memory:.3f}"]
        for size, (milliseconds, ratio, spread, memory) in zip(
            arguments.sizes, measure(arguments.sizes, arguments.rounds, arguments.hot), strict=True
        )
    ]
    table = Table(*header)
    for line in lines:
        table.add_row(*line)
    Console(width=140).print(table)
    print("\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]))


if __name__ == "__main__":
    main()
