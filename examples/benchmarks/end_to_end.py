"""From command to saved student: GoEmotions, three epochs, in this package and in its peers, in one run.

    python examples/benchmarks/end_to_end.py --install          # makes the peers' environments, once; then measures
    python examples/benchmarks/end_to_end.py                    # goes on; a run that is finished is not made again
    python examples/benchmarks/end_to_end.py --rounds 0         # only the table, from the runs that are there

12,000 rows, a BERT of 6 layers that teaches a DistilBERT of 3, half labels and half soft targets of temperature 2,
batches of 32. All start with the same saved student and have the same learning rate, schedule, optimizer, clipping,
epochs, seeds and number of threads; a round is a seed, in which all run one after the other, in changing order. Time
is that of the whole command: imports, reading, tokenising, training, saving; nobody evaluates. Quality is the mean
average precision of the saved student on the dev split, computed afterwards, by one function for all. A round of all
six takes more than an hour of a free core; `--runs`, `--rounds` and `--rows` make it shorter.

- "hf_distill" is `hf-distill train` of a recipe with `teacher: {cache: ...}`, which is built in the command, and
  `train_sampling_strategy: group_by_length`.
- "by hand" is a plain loop, "textbrewer" and "silverspoon" a script as their examples have it (`contestants/`), the
  teacher live. TextBrewer's examples pad every row to one length, which would cost it more; here it pads to the
  longest row of a batch, as everybody does.
- "textbrewer, cache" and "silverspoon, grouped" take the switch that theirs has for this work: TextBrewer's
  `is_caching_logits`, which reuses whole batches, and the Trainer's `group_by_length`, which silverspoon's
  documentation does not mention.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import disable_progress_bars
from measuring import CONTESTANTS, draw_bars, one_run, paired, peak_bytes, present, show, spread, turns, written
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from transformers.utils import logging

from hf_distill import data, evaluation, metrics, recipe, students, teachers

HERE = Path(__file__).resolve().parents[2]
OURS, PEERS = "hf_distill", ("textbrewer", "silverspoon")
RUNS: dict[str, tuple[str, list[str]]] = {  # name: (contestant, its options)
    OURS: (OURS, []),
    "by hand": ("by hand", []),
    "textbrewer": ("textbrewer", []),
    "textbrewer, cache": ("textbrewer", ["cache"]),
    "silverspoon": ("silverspoon", []),
    "silverspoon, grouped": ("silverspoon", ["grouped"]),
}
LEARNING = {"learning_rate": 3e-4, "weight_decay": 0.01, "batch_size": 32}
WARM_UP, TEMPERATURE, TASK_WEIGHT, LONGEST = 0.06, 2.0, 0.5, 64
Run = dict[str, float]
console = Console()


# ---- what all start with ------------------------------------------------------------------------------------------


def check(options: argparse.Namespace) -> None:
    """Raises SystemExit where the data or the teacher are missing, before anything is installed or run."""
    for path, flag in (
        (options.data / "train.tsv", "--data"),
        (options.data / "dev.tsv", "--data"),
        (options.data / "labels.txt", "--data"),
        (options.teacher / "config.json", "--teacher"),
    ):
        if not path.exists():
            raise SystemExit(f"{path} is missing. {flag} names another folder.")


def prepare(options: argparse.Namespace) -> None:
    """The first rows of the training split, and the student that all start with."""
    rows, start = options.output / "rows" / "train.tsv", options.output / "start"
    rows.parent.mkdir(parents=True, exist_ok=True)
    lines = [line for line in (options.data / "train.tsv").read_text(encoding="utf-8").split("\n") if line]
    if len(lines) < options.rows:
        raise SystemExit(f"{options.data / 'train.tsv'} has {len(lines):,} rows, fewer than --rows {options.rows:,}.")
    rows.write_text("\n".join(lines[: options.rows]) + "\n", encoding="utf-8")
    if not (start / "tokenizer.json").exists():
        set_seed(0)
        teacher = teachers.load(str(options.teacher))
        students.from_teacher(teacher, "distilbert", students.spread(teacher, 3)).save_pretrained(start)
        AutoTokenizer.from_pretrained(options.teacher).save_pretrained(start)  # last


def our_command(options: argparse.Namespace, seed: int, folder: Path) -> list[str]:
    """`hf-distill train` of a recipe that is written into the folder."""
    written = {
        "teacher": {"model": str(options.teacher), "cache": str(folder / "answers")},
        "student": {"model": str(options.output / "start")},
        "dataset": {
            "path": str(options.output / "rows" / "train.tsv"),
            "columns": ["text", "labels", "id"],
            "label_names": str(options.data / "labels.txt"),
            "max_length": LONGEST,
            "eval_fraction": 0.0,
        },
        "losses": [
            {"name": "TaskLoss", "weight": TASK_WEIGHT},
            {"name": "SoftTargets", "temperature": TEMPERATURE, "weight": 1 - TASK_WEIGHT},
        ],
        "train": {
            "output_dir": str(folder / "student"),
            "num_train_epochs": options.epochs,
            "per_device_train_batch_size": LEARNING["batch_size"],
            "learning_rate": LEARNING["learning_rate"],
            "weight_decay": LEARNING["weight_decay"],
            "warmup_steps": WARM_UP,
            "train_sampling_strategy": "group_by_length",
            "save_strategy": "no",
            "logging_steps": 100,
            "use_cpu": True,
            "seed": seed,
        },
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(written, sort_keys=False))
    return [sys.executable, "-m", "hf_distill.cli", "train", str(file)]


def their_command(name: str, python: str, options: argparse.Namespace, seed: int, folder: Path) -> list[str]:
    """A contestant's script."""
    contestant, switches = RUNS[name]
    work = {
        **LEARNING,
        "teacher": str(options.teacher),
        "student": str(options.output / "start"),
        "rows": str(options.output / "rows" / "train.tsv"),
        "output": str(folder / "student"),
        "max_length": LONGEST,
        "epochs": options.epochs,
        "warmup": WARM_UP,
        "temperature": TEMPERATURE,
        "task_weight": TASK_WEIGHT,
        "seed": seed,
        "options": switches,
    }
    return [python, str(CONTESTANTS / "job.py"), contestant, json.dumps(work)]


# ---- measuring ----------------------------------------------------------------------------------------------------


def timed(command: list[str], folder: Path, threads: int) -> Run:
    """Seconds by the clock and of the processor, and the most MB that were held, of a command from start to end.

    Raises:
        SystemExit: it failed; the end of what it said.
    """
    log = folder / "log.txt"
    own = one_run(threads, HF_HOME=str(folder / "hf"))  # datasets keeps what it has read, and must not for the next
    peak, start = 0, time.perf_counter()
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=own)
    try:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        while not ended:
            peak = max(peak, peak_bytes(process.pid))
            time.sleep(0.05)
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:  # also a Ctrl-C: nothing goes on in the background
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {process.returncode}:\n{log.read_text()[-2000:]}")
    return {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "megabytes": peak / 1e6}


def precision(student: Path, options: argparse.Namespace) -> float:
    """Mean average precision of a saved student on the dev split."""
    names = data.read_label_names(str(options.data / "labels.txt"))
    spec = recipe.DatasetSpec(
        path=str(options.data / "*.tsv"), columns=["text", "labels", "id"], max_eval_rows=options.evaluate
    )
    tokenizer = AutoTokenizer.from_pretrained(options.teacher)
    loaded = {"validation": data.load(spec)["validation"]}
    rows = data.encode(loaded, tokenizer, task="multi_label", label_names=names, max_length=LONGEST)["validation"]
    model = AutoModelForSequenceClassification.from_pretrained(student)
    logits = evaluation.predict(model, rows, tokenizer)
    found = metrics.for_task("multi_label").compute(predictions=logits, references=evaluation.labels_of(rows))
    return float(found["mean_average_precision"])


def run(name: str, python: str, seed: int, options: argparse.Namespace) -> Run:
    """One contestant's run with one seed, in a folder that is empty and is emptied again."""
    folder = options.output / "runs" / f"{name.replace(', ', '_').replace(' ', '_')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    ours = RUNS[name][0] == OURS
    command = our_command(options, seed, folder) if ours else their_command(name, python, options, seed, folder)
    found = timed(command, folder, options.threads)
    found["mean_average_precision"] = precision(folder / "student", options)
    for each in ("student", "answers", "hf"):
        shutil.rmtree(folder / each, ignore_errors=True)
    return found


def results_of(options: argparse.Namespace) -> dict[str, Run]:
    """{"name|seed": figures} of the runs that are finished.

    Raises:
        SystemExit: they were made with other settings.
    """
    file = options.output / "results.json"
    if not file.exists():
        return {}
    found = json.loads(file.read_text())
    if found["settings"] != settings_of(options):
        here = f"and this is {settings_of(options)}. Name another folder with --output."
        raise SystemExit(f"{file} has runs of {found['settings']}, {here}")
    return dict(found["runs"])


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What runs have to share, to be in one table."""
    settings = {each: getattr(options, each) for each in ("rows", "epochs", "threads", "evaluate")}
    return settings | {"data": str(options.data), "teacher": str(options.teacher)}


def keep(options: argparse.Namespace, runs: dict[str, Run]) -> None:
    """Writes the results whole, or not at all."""
    partial = options.output / "results.json.partial"
    partial.write_text(json.dumps({"settings": settings_of(options), "runs": runs}, indent=1))
    partial.replace(options.output / "results.json")


def report(runs: dict[str, Run], options: argparse.Namespace) -> None:
    """The table and the picture, of the rounds in which all have run."""
    names = [name for name in RUNS if any(key.split("|")[0] == name for key in runs)]
    seeds = sorted({key.split("|")[1] for key in runs}, key=int)
    seeds = [seed for seed in seeds if all(f"{name}|{seed}" in runs for name in names)]
    if not seeds or OURS not in names:
        raise SystemExit("no finished round with hf_distill in it: nothing to compare")
    figures = {
        what: {name: [runs[f"{name}|{seed}"][what] for seed in seeds] for name in names}
        for what in ("seconds", "processor", "megabytes", "mean_average_precision")
    }
    lines = []
    for name in names:
        cells = [f"{spread(figures[what][name])[0]:,.0f}" for what in ("seconds", "processor", "megabytes")]
        ratios = [over(figures[what], name) for what in ("seconds", "processor")]
        lines.append([name, *cells, *ratios, written(figures["mean_average_precision"][name], 4)])
    header = ["run", "seconds", "processor's", "MB", "hf_distill over it", "processor's", "mean average precision"]
    caption = f"{options.rows:,} rows, {options.epochs} epochs, {options.threads} thread(s), {len(seeds)} round(s)"
    show(header, lines, caption)
    for text, some in (("as documented", PEERS), ("with every switch", RUNS)):
        there = [name for name in some if name in names and RUNS[name][0] in PEERS]
        if there:
            better = min(there, key=lambda name: spread(figures["seconds"][name])[0])
            print(f"the faster peer {text} is {better}: hf_distill over it {over(figures['seconds'], better)}")
    titles = {"seconds": "seconds", "processor": "processor's seconds", "megabytes": "MB"}
    titles["mean_average_precision"] = "mean average precision"
    drawn = {title: {name: spread(figures[what][name]) for name in names} for what, title in titles.items()}
    print(draw_bars(options.output / "end_to_end.png", drawn))


def over(times: dict[str, list[float]], name: str) -> str:
    """Our time over another's, in the same rounds."""
    return written(paired(times[OURS], times[name]), 2)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent / "shared" / "data" / "goemotions")
    parser.add_argument("--teacher", type=Path, default=HERE.parent / "shared" / "models" / "goemotions_teacher")
    parser.add_argument("--rows", type=int, default=12_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="one seed each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--evaluate", type=int, default=5426, help="rows of the dev split")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--output", type=Path, default=Path("out/end_to_end"))
    parser.add_argument("--environments", type=Path, default=Path("out/environments"), help="where the peers live")
    parser.add_argument("--install", action="store_true", help="install the peers that are not there")
    options = parser.parse_args(arguments)
    options.output, options.environments = options.output.absolute(), options.environments.absolute()
    logging.disable_progress_bar()
    disable_progress_bars()
    runs = results_of(options)
    if options.rounds:
        check(options)
        contestants = list(dict.fromkeys(RUNS[name][0] for name in options.runs))
        pythons = present(contestants, options.environments, options.install)
        prepare(options)
        names = [name for name in options.runs if RUNS[name][0] in pythons]
        for seed, name in turns(names, options.rounds):
            if f"{name}|{seed}" in runs:
                continue
            console.print(f"round {seed + 1} of {options.rounds}: {name} ...", end=" ", highlight=False)
            runs[f"{name}|{seed}"] = found = run(name, pythons[RUNS[name][0]], seed, options)
            keep(options, runs)
            console.print(f"{found['seconds']:,.0f} s, mAP {found['mean_average_precision']:.4f}", highlight=False)
    report(runs, options)


if __name__ == "__main__":
    main()
