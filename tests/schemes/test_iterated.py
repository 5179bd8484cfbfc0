"""Blocks go a few at a time, and what is left is distilled each time."""

import json

import pytest
from models import tiny
from runs import LABELS, distillation, same, weights

from hf_distill import schemes, students

from .arranged import check_resumed, deep, planned

ROUNDS = [
    (
        1,
        None,
        "teacher",
        [[0, 1, 3, 4], [0, 1, 4], [1, 4]],
    ),  # 1 and 4 stay; of 0, 2, 3 the middle one goes first
    (2, None, "previous", [[1, 2, 4], [1, 4]]),  # of 0, 2, 3 the outer ones
    (1, [3, 0, 2], "previous", [[0, 1, 2, 4], [1, 2, 4], [1, 4]]),
    (2, [3, 0, 2], "teacher", [[1, 2, 4], [1, 4]]),
]


@pytest.mark.parametrize(("drop", "order", "taught_by", "rounds"), ROUNDS)
def test_the_rounds_by_hand(tmp_path, drop, order, taught_by, rounds):
    first = deep(5, seed=1)
    found = schemes.iterated(planned(tmp_path / "scheme", deep(2), first), drop, order, taught_by)
    left, current, teacher = list(range(5)), first, first
    for number, kept in enumerate(rounds):
        student = students.keep_layers(current, [left.index(block) for block in kept])
        trainer = distillation(tmp_path / str(number), student, teacher)
        trainer.train()
        left, current = kept, trainer.model.eval()
        teacher = first if taught_by == "teacher" else current
    assert same(weights(found), weights(current))
    assert found.config.num_hidden_layers == 2
    stages = json.loads((tmp_path / "scheme" / "stages.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == [f"blocks_{len(kept)}" for kept in rounds]


def test_what_is_left_is_told_in_the_teachers_numbers(tmp_path):
    found = schemes.iterated(planned(tmp_path, deep(2), deep(4, seed=1)), order=[0, 1]).copied
    assert (found.layers, found.of) == ((2, 3), 4)
    at_once = students.keep_layers(deep(4, seed=1), [2, 3]).copied
    assert found.copied == at_once.copied
    assert set(found.left) == set(at_once.left)


def test_the_student_may_be_of_another_architecture(tmp_path):
    student = tiny("distilbert", "ForSequenceClassification", n_layers=1, num_labels=LABELS)
    found = schemes.iterated(planned(tmp_path, student, deep(3, seed=1)), drop=2)
    assert type(found) is type(student)
    assert found.config.n_layers == 1


def test_cut_off_in_the_middle_it_goes_on(tmp_path):
    def run(folder, **settings):
        return schemes.iterated(planned(folder, deep(1), deep(4, seed=1), **settings), taught_by="previous")

    check_resumed(tmp_path, run, after=5)


REFUSED = [
    ({"drop": 0}, "drop is 0; it must be at least 1"),
    ({"order": [0]}, r"order=\[0\] must name 2 different blocks of the teacher's 0 to 3: it has 4, and the student 2"),
    ({"order": [0, 4]}, "must name 2 different blocks"),
    ({"order": [1, 1]}, "must name 2 different blocks"),
    ({"taught_by": "nobody"}, "taught_by='nobody' is not known"),
]


@pytest.mark.parametrize(("knobs", "message"), REFUSED)
def test_knobs_that_do_not_fit_are_refused(tmp_path, knobs, message):
    with pytest.raises(ValueError, match=message):
        schemes.iterated(planned(tmp_path, deep(2), deep(4, seed=1)), **knobs)


def test_a_student_that_cannot_be_cut_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the student has 4 blocks and the teacher 4: there is nothing to take out"):
        schemes.iterated(planned(tmp_path, deep(4), deep(4, seed=1)))
    narrow = deep(2, hidden_size=16)
    with pytest.raises(ValueError, match=r"of width 32, and the plan's student is a BertFor\w+ of width 16. Make it"):
        schemes.iterated(planned(tmp_path, narrow, deep(4, seed=1)))
