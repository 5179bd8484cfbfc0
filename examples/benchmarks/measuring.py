"""What the benchmarks share: turns, spreads, peak memory, tables, pictures, and the peers' environments."""

import os
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

Formula = Callable[[], tuple[torch.Tensor, Sequence[torch.Tensor]]]  # a value, and the gradients of the student

CONTESTANTS = Path(__file__).parent / "contestants"
PEERS = {"textbrewer": "textbrewer==0.2.1.post1", "silverspoon": "silverspoon-kd==0.1.0", "trl": "trl==1.16.0"}
PICTURES = "no picture: it needs matplotlib, pip install hf-distill[report]"


# ---- time and memory ----------------------------------------------------------------------------------------------


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """(round, name): everyone once in each round, in changing order."""
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield number, name


def clock() -> Callable[[], float]:
    """The processor's time where there is one thread, which others on the machine disturb least; else the clock's."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def spread(values: Sequence[float]) -> tuple[float, float]:
    """The median, and half the width of the middle half."""
    quarters = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return statistics.median(values), (quarters[2] - quarters[0]) / 2


def written(values: Sequence[float], digits: int) -> str:
    """`spread` for a table; the value alone where there is one."""
    middle, half = spread(values)
    return f"{middle:,.{digits}f} ± {half:,.{digits}f}" if len(values) > 1 else f"{middle:,.{digits}f}"


def paired(times: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of each round."""
    return [one / other for one, other in zip(times, others, strict=True)]


def peak_megabytes(step: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """The most that is alive at once beyond what was before the step, of all that torch's allocator gives out."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler would say that it starts and stops, every time
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = sorted((each for each in results.events() if each.name() == "[memory]"), key=lambda each: each.start_ns())
    return max(accumulate(each.nbytes() for each in events)) / 1e6


def agree(ours: Formula, plain: Formula, name: str) -> None:
    """Raises an AssertionError where values or gradients differ by more than the rounding of float32."""
    (value, gradients), (expected, expected_gradients) = ours(), plain()
    message = partial("{}: {} differs from the plain formula. {}".format, name)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-6, msg=partial(message, "the value"))
    for mine, theirs in zip(gradients, expected_gradients, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3 * scale, msg=partial(message, "the gradient"))


def seconds_of(step: Callable[[], Any], device: torch.device) -> float:
    """Of one step, by `clock`; an accelerator is waited for."""
    now = clock() if device.type == "cpu" else time.perf_counter
    start = now()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return now() - start


def peak_bytes(process: int) -> int:
    """The most memory that a process has held, from Linux's books; 0 where it is gone, or there are no such books.

    Not `getrusage`, which counts in what the parent held when it started the process.
    """
    try:
        with open(f"/proc/{process}/status") as status:
            return max((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")), default=0)
    except OSError:
        return 0


# ---- tables and pictures ------------------------------------------------------------------------------------------


def show(header: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> None:
    """A table, on the screen and as Markdown."""
    table = Table(*header, caption=caption)
    for line in lines:
        table.add_row(*line)
    Console(width=150).print(table)
    print("\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]))


def draw_bars(path: Path, panels: Mapping[str, Mapping[str, tuple[float, float]]], line: float | None = 1.0) -> str:
    """Draws a panel of horizontal bars for each figure: {panel: {name: (value, half its spread)}}.

    Returns:
        What to tell the reader: where it is, or why there is none.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return PICTURES
    rows, longest = -(-len(panels) // 2), max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(12, rows * (1 + 0.4 * longest)), dpi=150, layout="constrained")
    columns = min(len(panels), 2)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, bars) in zip(grid, panels.items(), strict=False):
        values, errors = zip(*bars.values(), strict=True)
        axes.barh(list(bars), values, xerr=errors if any(errors) else None, color="C0", height=0.6, capsize=3)
        axes.margins(x=0.15)
        for row, (value, error) in enumerate(zip(values, errors, strict=True)):
            said = f"  {value:,.0f}" if value >= 100 else f"  {value:.3g}"
            axes.annotate(said, (max(value + error, 0), row), va="center", fontsize=8)
        if line is not None and ("over" in title or "below" in title):
            axes.axvline(line, color="0.35", linewidth=1)
        axes.invert_yaxis()
        axes.set_xlabel(title, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


def draw_lines(path: Path, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]]) -> str:
    """Draws a panel for each axis, with a line a figure: {axis: {figure: [(x, y, half the spread of y), ...]}}.

    Returns:
        What to tell the reader: where it is, or why there is none.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return PICTURES
    figure = Figure(figsize=(3.4 * len(panels), 3.2), dpi=150, layout="constrained")
    for axes, (axis, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items(), strict=True
    ):
        for number, (name, points) in enumerate(lines.items()):
            x, y, error = zip(*points, strict=True)
            axes.errorbar(x, y, yerr=error, fmt="o-", color=f"C{number}", capsize=3, markersize=4, label=name)
        axes.axhline(1.0, color="0.35", linewidth=1)
        if min(x) > 0 and max(x) / min(x) >= 8:
            axes.set_xscale("log")
        axes.set_xticks(x, [f"{each:,}" for each in x], fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel(axis)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylim(bottom=0)  # of all: they share it, and each has widened it
    figure.axes[0].set_ylabel("over the limit")
    figure.axes[0].legend(frameon=False, loc="lower left")
    return _save(figure, path)


def _save(figure: Any, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return f"picture: {path}"


# ---- the peers' environments --------------------------------------------------------------------------------------


def python_of(name: str, environments: Path) -> str | None:
    """The interpreter that has a contestant's packages: this one, or a peer's own; None where it is not installed."""
    if name not in PEERS:
        return sys.executable
    python = environments / name / "bin" / "python"
    return str(python) if (environments / name / "installed").exists() and python.exists() else None


def install(name: str, environments: Path) -> None:
    """Makes a peer an environment of its own, from the package registry.

    What is installed here is seen there too, so that all run the same torch and transformers; where the peer needs
    other versions, pip puts those into its environment, and they win there.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    folder = environments / name
    if (folder / "installed").exists():
        return
    print(f"installing {PEERS[name]} into {folder}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", PEERS[name]], check=True)
    (folder / "installed").write_text(PEERS[name] + "\n")  # last, so that half an environment is made again


def present(names: Sequence[str], environments: Path, wanted: bool) -> dict[str, str]:
    """{contestant: its interpreter} of those that are there; installs the others if wanted, else names them."""
    found = {}
    for name in names:
        if wanted and name in PEERS:
            install(name, environments)
        python = python_of(name, environments)
        if python is None:
            print(f"skipped: {name} ({PEERS[name]}) is not installed in {environments}. --install does it.")
        else:
            found[name] = python
    return found


def one_run(threads: int, **more: str) -> dict[str, str]:
    """The environment variables of a run: so many threads everywhere, and no hub."""
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, count), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", **more}
