"""What a training says: a line a log, and a bar below it on a terminal."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer

_UNSAID = ("runtime", "samples_per_second", "steps_per_second")


class Progress(ProgressCallback):
    """Lines for people instead of dicts: the loss and its terms while it trains, metrics after an evaluation.

    Args:
        terms: names of the losses, in their order.
        bars: whether bars are drawn.
    """

    def __init__(self, terms: Collection[str], bars: bool) -> None:
        super().__init__()
        self.terms = terms
        self.bars = bars

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bars:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bars:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bars:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bars:
            super().on_train_end(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        text = line(logs or {}, state.global_step, state.max_steps, self.terms)
        if state.is_world_process_zero and text:
            tqdm.write(text, file=sys.stdout)


def show(trainer: Trainer, terms: Collection[str]) -> None:
    """Puts `Progress` in the place of what prints the Trainer's logs. A notebook keeps its table."""
    stock = [each for each in (ProgressCallback, PrinterCallback) if trainer.pop_callback(each)]
    if stock:
        trainer.add_callback(Progress(terms, bars=not trainer.args.disable_tqdm and sys.stderr.isatty()))


def line(logs: Mapping[str, float], step: int, steps: int, terms: Collection[str]) -> str:
    """One log as a line: `step 20/528  loss 0.41 = task_loss 0.30 + soft_targets 0.11  learning rate 5e-05`.

    Args:
        logs: what the Trainer logs.
        step: how many are done.
        steps: how many there will be.
        terms: names of the losses, which are listed where they are several.
    """
    if "train_runtime" in logs:
        return f"{step:,} steps in {_duration(logs['train_runtime'])}, mean loss {logs.get('train_loss', 0):.4g}"
    if "loss" in logs:
        several = [f"{name} {logs[name]:.4g}" for name in terms if name in logs]
        total = f"loss {logs['loss']:.4g}" + (f" = {' + '.join(several)}" if len(several) > 1 else "")
        rate = f"learning rate {logs['learning_rate']:.2g}" if "learning_rate" in logs else ""
        return "  ".join(filter(None, (f"step {step:,}/{steps:,}", total, rate)))
    found = {name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")}
    said = figures({name: value for name, value in found.items() if name not in terms and not name.endswith(_UNSAID)})
    return f"step {step:,}/{steps:,}  validation: {said}" if said else ""


def figures(found: Mapping[str, float]) -> str:
    """Metrics in a row: `macro f1 0.5344, micro f1 0.6065`."""
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items())


@contextmanager
def counted(what: str, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, all): a bar with the time left on a terminal, a line a call elsewhere."""
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    began: list[tuple[float, int]] = []

    def say(done: int, whole: int) -> None:
        began.append((time.monotonic(), done))
        since, before = began[0]
        if done > before:
            left = (time.monotonic() - since) / (done - before) * (whole - done)
            rest = f", about {_duration(left)} left" if done < whole else f" in {_duration(time.monotonic() - since)}"
            if not console.is_terminal:
                console.print(f"{what}: {done:,} of {whole:,}{rest}", highlight=False, markup=False)
        bar.update(task, completed=done, total=whole)

    with bar:
        task = bar.add_task(what, total=None)
        yield say


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
