import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_distill.losses.schedules import Schedule, as_weight, cosine, linear, stairs, warmup, weight_at


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear(1.0, 0.0), {0: 1.0, 0.25: 0.75, 1: 0.0}),
        (linear(0.0, 4.0, over=0.5), {0: 0.0, 0.25: 2.0, 0.5: 4.0, 0.9: 4.0}),
        (cosine(1.0, 0.0), {0: 1.0, 0.25: (1 + math.cos(math.pi / 4)) / 2, 0.5: 0.5, 1: 0.0}),
        (warmup(), {0: 0.0, 0.05: 0.5, 0.1: 1.0, 1: 1.0}),
        (warmup(3.0, over=0.2), {0.1: 1.5, 0.2: 3.0}),
        (stairs(0.0, 0.8, 4), {0: 0.2, 0.24: 0.2, 0.25: 0.4, 0.74: 0.6, 0.75: 0.8, 1: 0.8}),
        (stairs(1.0, 0.2, 2), {0: 0.6, 0.49: 0.6, 0.5: 0.2, 1: 0.2}),
        (stairs(0.0, 0.9, 2.5), {0: 0.3, 0.39: 0.3, 0.4: 0.6, 0.79: 0.6, 0.8: 0.9, 1: 0.9}),
    ],
)
def test_the_curves_by_hand(schedule, expected):
    for progress, weight in expected.items():
        assert schedule(progress) == pytest.approx(weight)


@given(progress=st.floats(-1, 2), start=st.floats(-10, 10), end=st.floats(-10, 10), over=st.floats(0.01, 1))
def test_a_weight_stays_between_start_and_end(progress, start, end, over):
    for schedule in (linear(start, end, over), cosine(start, end, over), stairs(start, end, 7)):
        assert min(start, end) - 1e-9 <= schedule(progress) <= max(start, end) + 1e-9


@pytest.mark.parametrize("epochs", [1, 3, 7, 49])
@pytest.mark.parametrize("steps", [1, 3, 11, 977])
def test_every_epoch_stands_on_its_own_stair(epochs, steps):
    weight = stairs(0.0, 0.8, epochs)
    for epoch in range(epochs):
        for step in {0, steps // 2, steps - 1}:
            progress = (epoch * steps + step) / (epochs * steps)  # as the trainer says it
            assert weight(progress) == pytest.approx(0.8 * (epoch + 1) / epochs)


def test_a_weight_is_a_number_or_any_function_of_progress():
    assert weight_at(0.3, 0.5) == 0.3
    assert weight_at(linear(0, 1), 0.5) == 0.5
    assert weight_at(lambda progress: 7 * progress, 0.5) == 3.5


def test_a_schedule_says_what_it_is():
    assert str(linear(1, 0)) == "linear from 1 to 0"
    assert str(warmup(1.0, 0.1)) == "linear from 0 to 1 over 0.1 of the training"
    assert str(stairs(0, 0.8, 5)) == "5 stairs from 0 to 0.8"
    assert repr(cosine(1.0, 0.5)) == "Schedule(kind='cosine', start=1.0, end=0.5, over=1.0)"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ({"linear": [1.0, 0.0]}, linear(1.0, 0.0)),
        ({"cosine": {"start": 1.0, "end": 0.0, "over": 0.5}}, cosine(1.0, 0.0, 0.5)),
        ({"warmup": 2.0}, warmup(2.0)),
        ({"stairs": [0.0, 0.8, 5]}, stairs(0.0, 0.8, 5)),
        ({"warmup": [1.0, 0.2]}, warmup(1.0, 0.2)),
    ],
)
def test_as_a_recipe_writes_it(written, read):
    assert as_weight(written) == read


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schedule("step", 0, 1), 'a schedule is "linear" or "cosine", not \'step\'.'),
        (lambda: linear(float("nan"), 1), "a schedule goes between two numbers, not nan and 1."),
        (lambda: linear(0, 1, over=0), "over=0 is no share of the training; it must be above 0 and at most 1."),
        (lambda: warmup(over=1.5), "over=1.5 is no share of the training; it must be above 0 and at most 1."),
        (lambda: stairs(0, float("inf"), 2), "stairs go between two numbers, not 0 and inf."),
        (lambda: stairs(0, 1, 0), "stairs: count=0 is no number of stairs; it must be above 0."),
        (lambda: as_weight({"lineal": [0, 1]}), "a weight is a number or one of linear, cosine, warmup"),
        (lambda: as_weight({"linear": [0, 1], "cosine": [0, 1]}), "a weight is a number or one of linear"),
        (lambda: as_weight({"linear": 1}), "write {linear: "),
        (lambda: as_weight({"linear": [0, 1, 1, 1]}), "write {linear: "),
    ],
)
def test_what_is_no_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match="^.*" + re.escape(message)):
        make()
