"""What a step of distillation from a live teacher costs, in this package and in its peers, in one run.

    python examples/benchmarks/peers.py --install      # makes the peers' environments, once; then measures
    python examples/benchmarks/peers.py                # who is not installed is skipped, by name

Two kinds of work, logits only. "multi_label": a BERT-base teacher of 12 layers, a student of 6, 28 labels, batches of
4 x 128, half labels and half soft targets of temperature 2. "causal_lm": a Llama of 8 layers and one of 4, 512 wide,
a vocabulary of 32,000, batches of 4 x 128, KL(teacher || student) alone. Random weights, random texts of full length.

The limit is the loop written by hand: the teacher's forward without gradients, the student's step, AdamW. Against it
run this package, TextBrewer 0.2.1.post1 (several labels; it has no example of a language model), silverspoon-kd 0.1.0,
and TRL 1.16's GKD (language models; on given texts, without generation), with one optimizer, schedule and clipping;
`contestants/` holds what each one's user would write. Every contestant is a process of its own with the same torch,
and makes a step when it is its turn, in changing order; a step is what passes between two batches. A ratio is the
median over rounds of its time over the limit's in the same round; memory is the most that the process held.
"""

import argparse
import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import CONTESTANTS, PEERS, draw_bars, one_run, paired, present, show, spread, turns, written
from rich.progress import track

LIMIT = "by hand"
WARM_UP = 3  # the first steps of a Trainer come with a batch that is fetched ahead
WORK: dict[str, dict[str, Any]] = {
    "multi_label": {
        "sizes": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
        "batch_size": 4,
        "length": 128,
    },
    "causal_lm": {
        "sizes": {
            "hidden_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "intermediate_size": 1408,
            "vocab_size": 32_000,
        },
        "batch_size": 4,
        "length": 128,
        "task_weight": 0.0,
        "temperature": 1.0,
    },
}
CONTENDERS = {
    "multi_label": (LIMIT, "hf_distill", "textbrewer", "silverspoon"),
    "causal_lm": (LIMIT, "hf_distill", "silverspoon", "trl"),
}


class Worker:
    """A contestant's process, that makes a step when it is told."""

    def __init__(self, name: str, python: str, work: dict[str, Any], threads: int, folder: Path) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        spec = json.dumps({**work, "output": str(folder / name)})
        with self.log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, str(CONTESTANTS / "job.py"), name, spec, "--steps"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=one_run(threads),
            )

    def step(self) -> float:
        """Seconds of one step."""
        return float(self._ask("go")["seconds"])

    def end(self) -> float:
        """Ends it. The MB that it held at most."""
        megabytes = self._ask("end")["peak"] / 1e6
        self.process.wait()
        return megabytes

    def _ask(self, order: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone, and its log says why
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise SystemExit(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        return dict(json.loads(line))


@contextlib.contextmanager
def workers(
    kind: str, pythons: dict[str, str], rounds: int, threads: int, folder: Path
) -> Iterator[dict[str, Worker]]:
    """One for each contestant; none outlives an error."""
    steps = rounds + WARM_UP + 2  # two more than are made, so that the epoch never ends
    work = {**WORK[kind], "kind": kind, "steps": steps}
    started: dict[str, Worker] = {}
    try:
        for name in CONTENDERS[kind]:
            if name in pythons:
                started[name] = Worker(name, pythons[name], work, threads, folder)
        yield started
    finally:
        for worker in started.values():
            worker.process.kill()
            worker.process.communicate()


def measure(
    kind: str, pythons: dict[str, str], rounds: int, threads: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """{contestant: seconds of each round}, and {contestant: MB}."""
    with (
        tempfile.TemporaryDirectory() as folder,
        workers(kind, pythons, rounds, threads, Path(folder)) as started,
    ):
        for worker in started.values():
            for _ in range(WARM_UP):
                worker.step()
        times: dict[str, list[float]] = {name: [] for name in started}
        for _, name in track(list(turns(list(started), rounds)), kind):
            times[name].append(started[name].step())
        return times, {name: worker.end() for name, worker in started.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--environments", type=Path, default=Path("out/environments"), help="where the peers live")
    parser.add_argument("--install", action="store_true", help="install the peers that are not there")
    parser.add_argument("--picture", type=Path, default=Path("out/peers.png"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wanted = [name for name in ("by hand", "hf_distill", *PEERS) if any(name in CONTENDERS[k] for k in options.work)]
    pythons = present(wanted, options.environments.absolute(), options.install)
    lines, panels = [], {}
    for kind in options.work:
        times, megabytes = measure(kind, pythons, options.rounds, options.threads)
        ratios = {name: paired(mine, times[LIMIT]) for name, mine in times.items()}
        for name, ratio in ratios.items():
            seconds, share = f"{spread(times[name])[0]:.3f}", f"{megabytes[name] / megabytes[LIMIT]:.2f}"
            lines.append([kind, name, seconds, written(ratio, 3), f"{megabytes[name]:,.0f}", share])
        panels[f"{kind}: time over the limit"] = {name: spread(ratio) for name, ratio in ratios.items()}
        panels[f"{kind}: MB"] = {name: (value, 0.0) for name, value in megabytes.items()}
    header = ["work", "contestant", "seconds", "time over the limit", "MB", "memory over the limit"]
    show(header, lines, f"{options.rounds} rounds, {options.threads} thread(s); limit: {LIMIT}")
    print(draw_bars(options.picture, panels))


if __name__ == "__main__":
    main()
