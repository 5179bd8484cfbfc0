"""The main job over several seeds: teacher, student alone and distilled student on GoEmotions.

    python examples/benchmarks/goemotions.py                  # three seeds of the recipe, one after the other
    python examples/benchmarks/goemotions.py --seeds 1        # one of them, for example on another machine
    python examples/benchmarks/goemotions.py --seeds          # only the table, from the runs that are there

Each run is `hf-distill train examples/recipes/goemotions_distilbert.yaml` with a seed; one that is finished is not
made again. The table gives the mean over seeds and, in brackets, the smallest and the largest value.
"""

import argparse
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hf_distill import recipe as recipes
from hf_distill import report, run

RECIPE = Path(__file__).parent.parent / "recipes" / "goemotions_distilbert.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--output", type=Path, default=Path("out/goemotions"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as in hf-distill train")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        folder = arguments.output / f"seed{seed}"
        if (folder / "results.json").exists():
            continue
        overrides = [*arguments.overrides, f"train.seed={seed}", f"train.output_dir={folder.as_posix()}"]
        command = f"hf-distill train {arguments.recipe.name} --set train.seed={seed}"
        run.train(recipes.load(arguments.recipe, overrides), command=command)
    show(sorted(arguments.output.glob("seed*/results.json")))


def show(files: list[Path]) -> None:
    """Prints the table of all finished runs, on the screen and as Markdown."""
    runs = [report.load(file) for file in files]
    if not runs:
        raise SystemExit("no finished run")
    names = [facts.name for facts in runs[0]]
    metrics = [*runs[0][0].metrics, "agreement"]
    rows = []
    for index, name in enumerate(names):
        values = [{**each[index].metrics, "agreement": each[index].agreement} for each in runs]
        size = f"{(runs[0][index].parameters or 0) / 1e6:.1f} M"
        speed = f"{statistics.median(each[index].milliseconds or 0 for each in runs):.2f}"
        rows.append([name, size, speed, *(_spread([value[metric] for value in values]) for metric in metrics)])
    header = ["model", "parameters", "ms / example", *(metric.replace("_", " ") for metric in metrics)]
    table = Table(*header, title=f"{len(runs)} seeds: mean (smallest to largest)")
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    lines = [header, ["---"] * len(header), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    kept = [_kept(each) for each in runs]
    print(f"\nThe distilled student keeps {min(kept):.1%} to {max(kept):.1%} of the teacher's mean average precision.")


def _spread(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    if max(known) - min(known) < 5e-5:
        return f"{known[0]:.4f}"
    return f"{statistics.mean(known):.4f} ({min(known):.4f} to {max(known):.4f})"


def _kept(facts: list[report.ModelFacts]) -> float:
    by_name = {each.name: each.metrics["mean_average_precision"] for each in facts}
    return by_name[run.DISTILLED] / by_name[run.TEACHER]


if __name__ == "__main__":
    main()
