"""The catalogue of losses, printed."""

import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

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
    _print(_documentation(loss), console)
    for function in _formulas(loss):
        console.print(f"\n{function.__name__}{_signature(function)}", style="bold", highlight=False, markup=False)
        _print(_without_arguments(inspect.getdoc(function) or ""), console)
    if loss.citation:
        console.print(f"\nSource: {loss.citation}", highlight=False, markup=False)


def _print(text: str, console: Console) -> None:
    for line in _reflowed(text):
        indent = len(line) - len(line.lstrip())
        console.print(Padding(Text(line.lstrip()), (0, 0, 0, indent)))


def _formulas(loss: type[Loss]) -> list[Callable[..., Any]]:
    """The functions that compute it: the one that is called as the loss is, else all of its file with a source."""
    module = sys.modules[loss.__module__]
    own = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})", "_", loss.__name__).lower()
    found: list[Callable[..., Any]] = [
        each
        for name, each in vars(module).items()
        if inspect.isfunction(each) and not name.startswith("_") and "Reference:" in (each.__doc__ or "")
    ]
    here = [each for each in found if each.__module__ == loss.__module__]
    return [each for each in here if each.__name__ == own] or here or found


def _signature(function: Callable[..., Any]) -> str:
    """The names of the arguments, and their defaults."""
    given = inspect.signature(function).parameters.values()
    return f"({', '.join(str(each.replace(annotation=each.empty)) for each in given)})"


def _without_arguments(text: str) -> str:
    """A docstring without its Args, which the loss explains."""
    before, args, after = text.partition("\n\nArgs:\n")
    return before + "\n\n" + after.partition("\n\n")[2] if args else text


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
        named = re.match(r"\w+(, \w+)*: ", each.strip())
        inside = indent > 4 or (indent == 4 and line.startswith("    ") and not named)
        goes_on = line and each.strip() and (inside or (indent == 0 and not line.endswith(":")))
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
