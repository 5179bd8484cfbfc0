"""The catalogue of losses, printed."""

import difflib
import inspect

from rich.console import Console
from rich.table import Table

from hf_distill.losses import CATALOGUE, Loss


def show(name: str | None, console: Console) -> None:
    """Prints all losses grouped by what they look at, or one with its arguments and source.

    Raises:
        ValueError: there is no such loss; the message names the nearest.
    """
    by_name = {loss.__name__: loss for members in CATALOGUE.values() for loss in members}
    if name is None:
        width = max(map(len, by_name))
        for group, members in CATALOGUE.items():
            table = Table(title=group, title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
            table.add_column(style="bold", width=width)
            table.add_column()
            for loss in members:
                table.add_row(loss.__name__, _first_sentence(loss))
            console.print(table)
            console.print()
        return
    if name not in by_name:
        near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.4)
        raise ValueError(
            f"no loss {name!r}{f'; did you mean {near[0]!r}?' if near else '. `hf-distill losses` lists them.'}"
        )
    loss = by_name[name]
    console.print(f"{name}{inspect.signature(loss)}", style="bold", highlight=False, markup=False)
    console.print(inspect.getdoc(loss), highlight=False, markup=False)
    if loss.citation:
        console.print(f"\nSource: {loss.citation}", highlight=False, markup=False)


def _first_sentence(loss: type[Loss]) -> str:
    return (inspect.getdoc(loss) or "").split("\n\n")[0].replace("\n", " ")
