"""The catalogue of losses, as it is printed."""

import inspect
import re
from io import StringIO

import pytest
from rich.console import Console

from hf_distill.cli import catalogue
from hf_distill.losses import CATALOGUE


def shown(name: str | None, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    catalogue.show(name, console)
    return console.file.getvalue()


def test_every_loss_is_in_its_group_with_one_sentence():
    text = shown(None, width=200)
    for group, members in CATALOGUE.items():
        _, _, below = text.partition(group)
        for loss in members:
            line = next(line for line in below.splitlines() if line.split()[:1] == [loss.__name__])
            assert len(line.split()) > 4, line
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert sum(names.count(loss.__name__) for members in CATALOGUE.values() for loss in members) == sum(
        map(len, CATALOGUE.values())
    )


def test_names_are_whole_at_80_columns():
    lines = shown(None).splitlines()
    assert max(map(len, lines)) <= 80
    assert {loss.__name__ for members in CATALOGUE.values() for loss in members} <= {
        word for line in lines for word in line.split()[:1]
    }


def test_one_loss_with_its_arguments_and_its_source():
    text = shown("RKDAngle")
    assert text.startswith("RKDAngle(")
    assert "weight" in text
    assert "Source: Park et al. 2019" in text


@pytest.mark.parametrize("loss", [loss for members in CATALOGUE.values() for loss in members])
def test_every_argument_is_explained_and_every_line_fits(loss):
    text = shown(loss.__name__)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    explained = {line.strip().partition(":")[0] for line in text.splitlines() if line.startswith("    ")}
    assert set(inspect.signature(loss).parameters) <= explained
    assert "as in `" not in text.replace("\n", " ")


@pytest.mark.parametrize("loss", [loss for members in CATALOGUE.values() for loss in members if loss.citation])
def test_every_formula_says_its_source_and_what_differs_from_it(loss):
    text = " ".join(shown(loss.__name__).split())
    assert re.search(r"\w+\(student, teacher", text) or "standardize(" in text or "gradient" in text
    assert re.search(r"Reference: .*(arXiv:|doi:)", text)
    assert "Differs from the paper" in text
    assert "Returns: " in text


def test_paragraphs_are_filled_again():
    lines = [line.rstrip() for line in shown("HiddenMSE", width=60).splitlines()]
    assert "Hidden states of matched layers, by squared error over" in lines
    assert "attended tokens." in lines


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RKDAngel", "no loss 'RKDAngel'; did you mean 'RKDAngle'?"),
        ("zzz", "no loss 'zzz'. `hf-distill losses` lists"),
    ],
)
def test_no_such_loss(name, message):
    with pytest.raises(ValueError, match="no loss") as error:
        shown(name)
    assert message in str(error.value)
