"""The catalogue of losses, printed."""

import difflib
import inspect
from collections.abc import Iterator

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

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
    console.print(f"{name}({_arguments(loss)})", style="bold", highlight=False, markup=False)
    for line in _reflowed(_documentation(loss)):
        indent = len(line) - len(line.lstrip())
        console.print(Padding(Text(line.lstrip()), (0, 0, 0, indent)))
    if loss.citation:
        console.print(f"\nSource: {loss.citation}", highlight=False, markup=False)


def _arguments(loss: type[Loss]) -> str:
    """The constructor's arguments with their defaults."""
    return ", ".join(f"{each.name}={each.default!r}" for each in inspect.signature(loss).parameters.values())


def _documentation(loss: type[Loss]) -> str:
    """The docstring, with the arguments of the class that it says to have them from."""
    own = inspect.getdoc(loss) or ""
    if "Args:" in own:
        return own
    inherited = (inspect.cleandoc(base.__doc__ or "") for base in loss.__mro__)
    block = next((text.partition("Args:")[2].partition("\n\n")[0] for text in inherited if "Args:" in text), "")
    return f"{own}\n\nArgs:{block}"


def _reflowed(text: str) -> Iterator[str]:
    """A docstring with one line a paragraph and one an argument, so that it fits any terminal."""
    line = ""
    for each in text.splitlines():
        indent = len(each) - len(each.lstrip())
        goes_on = line and each.strip() and (indent > 4 or (indent == 0 and not line.endswith(":")))
        if goes_on:
            line += " " + each.strip()
            continue
        yield from [line] if line else []
        line = each
        if not each.strip():
            yield ""
    yield line


def _first_sentence(loss: type[Loss]) -> str:
    return (inspect.getdoc(loss) or "").split("\n\n")[0].replace("\n", " ")
