"""Numbers in few characters."""

import math

import pytest

from hf_distill.report import digits


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (math.nan, "-"), (math.inf, "-"), (0.57, "0.5700"), (-3.0, "-3.0000"), (12345.678, "12346")],
)
def test_metrics(value, shown):
    assert digits.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0, "0"), (999, "999"), (1_000, "1 k"), (22_700_000, "22.7 M"), (7e9, "7 B")]
)
def test_counts(value, shown):
    assert digits.count(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.01234, "0.0123"),
        (4.0, "4.00"),
        (9.996, "10.0"),
        (90.9, "90.9"),
        (99.96, "100"),
        (1234.4, "1,234"),
    ],
)
def test_megabytes(value, shown):
    assert digits.megabytes(value) == shown
