"""A picture that says what it shows."""

import sys

import pytest
from measured import three

from hf_distill.report import ModelFacts, picture


def test_picture_is_drawn_and_says_what_it_shows(tmp_path):
    pytest.importorskip("matplotlib")
    png = picture.draw([*three(), ModelFacts("not timed")], tmp_path / "new" / "picture.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none"}):
        svg = picture.draw(three(), tmp_path / "picture.svg", metric="mse").read_text()
    for said in ("distilled student", "17.4 M parameters", "mse (lower is better)", "milliseconds per example"):
        assert said in svg
    with pytest.raises(ValueError, match="nothing to draw: no model has both milliseconds and accuracy"):
        picture.draw(three(), tmp_path / "x.png", metric="accuracy")
    with pytest.raises(ValueError, match="nothing to draw"):
        picture.draw([], tmp_path / "x.png")


def test_without_matplotlib_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install hf-distill\[report\]"):
        picture.draw(three(), tmp_path / "picture.png")
