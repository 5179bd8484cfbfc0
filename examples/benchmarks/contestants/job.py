"""One contestant's work, in a process of its own: `python job.py CONTESTANT JSON`, from end to end or step by step.

From end to end it trains and saves the student. Step by step (`--steps`) it makes a step for every line "go" that it
reads and answers with a line of JSON, {"seconds": ...}; any other line, or none, ends it, and its last line is
{"peak": bytes}. What passes between two batches is a step: all that the contestant does for one, and nothing of the
collator, which is the same for everybody.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

sys.path.append(str(Path(__file__).parents[1]))  # of what the benchmarks share
from measuring import clock, peak_bytes
from work import load

MODULES = {
    "by hand": "by_hand",
    "hf_distill": "with_hf_distill",
    "textbrewer": "with_textbrewer",
    "silverspoon": "with_silverspoon",
    "trl": "with_trl",
}


class Stopwatch:
    """A collator that waits for its turn before each batch, and says how long the step since the last one took."""

    def __init__(self, collate: Any, orders: TextIO, answers: TextIO, now: Any) -> None:
        self.collate, self.orders, self.answers, self.now = collate, orders, answers, now
        self.start: float | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        if self.start is not None:
            print(json.dumps({"seconds": self.now() - self.start}), file=self.answers, flush=True)
        if self.orders.readline().strip() != "go":
            print(json.dumps({"peak": peak_bytes(os.getpid())}), file=self.answers, flush=True)
            os._exit(0)  # libraries catch SystemExit, and would save
        batch = self.collate(rows)
        self.start = self.now()
        return batch


def main() -> None:
    name, text, *more = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes with the warnings
    contestant = importlib.import_module(MODULES[name])
    work = load(text)
    if "--steps" in more:
        work.collate = Stopwatch(work.collate, sys.stdin, answers, clock())
    contestant.train(work)
    work.student.save_pretrained(work.output)


if __name__ == "__main__":
    main()
