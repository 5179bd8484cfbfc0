"""Where a training step's time goes."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import TrainerCallback

PARTS = ("data", "teacher", "student forward", "losses", "backward", "optimizer", "rest")
WITHIN = ("teacher", "student forward", "losses")
STEP = "micro-batch"  # all that happens from a micro-batch to its gradients, these three and backward
TRACE, FIGURES = "trace.json", "profile.json"
_TRACED = 2  # steps; more make a file that no viewer opens

_running: "Profile | None" = None


class part:
    """Takes the time of what it encloses while a `Profile` measures, and costs nothing otherwise."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._measures = _running
        if self._measures is not None:
            self._began = _now()
            self._measures.inside.append(self._name)

    def __exit__(self, failed: type[BaseException] | None = None, *_: object) -> None:
        if self._measures is None:
            return
        self._measures.inside.remove(self._name)
        if failed is not None:
            self._measures.give_up()
        elif self._name not in WITHIN or STEP in self._measures.inside:  # an evaluation is none of a step's
            self._measures.add(self._name, _now() - self._began)


class Profile(TrainerCallback):
    """Measures some steps of a `DistillationTrainer` and traces two more: `callbacks=[Profile("out/profile")]`.

    Every part waits for the accelerator before its time is taken, so the steps that are looked at are slower there.
    With several processes the first one looks.

    Args:
        folder: for `profile.json`, the figures, and `trace.json`, for chrome://tracing or Perfetto.
        skip: steps before the first that is measured: caches and allocators warm up.
        steps: how many are measured.
        console: where the table goes when they are done.

    Attributes:
        seconds: a step's, by part; empty until they are measured.
    """

    def __init__(self, folder: str | Path, skip: int = 3, steps: int = 10, console: Console | None = None) -> None:
        self.folder = Path(folder)
        self.skip, self.steps = skip, steps
        self.console = console
        self.seconds: dict[str, float] = {}
        self.inside: list[str] = []  # the parts that it is in now
        self._sums: dict[str, float] = {}
        self._done = 0
        self._began = 0.0
        self._trace: Any = None

    def add(self, name: str, seconds: float) -> None:
        """Notes the time of a part."""
        self._sums[name] = self._sums.get(name, 0.0) + seconds

    def give_up(self) -> None:
        """Measures no further: what ran has failed."""
        self._end()
        if self._trace is not None:
            self._trace.stop()
            self._trace = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._done, self._sums, self.seconds, self.inside = 0, {}, {}, []
        self._looks = state.is_world_process_zero
        if self._looks and self.skip == 0:
            self._start()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer = part("optimizer")
        self._optimizer.__enter__()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer.__exit__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._looks:
            return
        self._done += 1
        if self._done == self.skip:
            self._start()
        elif self._done == self.skip + self.steps:
            self._stop(self.steps)
            self._trace = torch.profiler.profile()
            self._trace.start()
        elif self._done == self.skip + self.steps + _TRACED:
            self._write_trace()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._looks:
            return
        if _running is self and self._done > self.skip:
            self._stop(self._done - self.skip)
        elif not self.seconds:
            self._say(f"nothing was profiled: {self._done} steps, of which the first {self.skip} are not measured.")
        self._write_trace()
        self._end()

    def _start(self) -> None:
        global _running
        _running, self._began = self, _now()

    def _end(self) -> None:
        global _running
        if _running is self:
            _running = None

    def _stop(self, steps: int) -> None:
        whole = _now() - self._began
        self._end()
        sums = {name: self._sums.get(name, 0.0) for name in PARTS}
        sums["backward"] = self._sums.get(STEP, 0.0) - sum(sums[name] for name in WITHIN)
        sums["rest"] = whole - sum(sums.values())
        self.seconds = {name: value / steps for name, value in sums.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FIGURES).write_text(json.dumps({"steps": steps, "seconds a step": self.seconds}, indent=2))
        self._say(self.table(steps))

    def _write_trace(self) -> None:
        if self._trace is not None:
            self._trace.stop()
            self._trace.export_chrome_trace(str(self.folder / TRACE))
            self._trace = None
            self._say(f"profile: {self.folder / FIGURES} and {TRACE} beside it")

    def table(self, steps: int) -> Table:
        """What was measured: a row a part, with its share of the step."""
        whole = sum(self.seconds.values())
        grid = Table("part of a step", box=None, caption=f"mean of {steps} steps after {self.skip}")
        grid.add_column("ms", justify="right")
        grid.add_column("share", justify="right")
        for name, value in {**self.seconds, "step": whole}.items():
            grid.add_row(name, f"{value * 1e3:,.1f}", f"{value / whole:.1%}")
        return grid

    def _say(self, what: Any) -> None:
        (self.console or Console()).print(what, highlight=False, soft_wrap=isinstance(what, str))


def _now() -> float:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()
