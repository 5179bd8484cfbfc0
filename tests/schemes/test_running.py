"""A scheme is rehearsed, carried out and finished; inside of another one it is a part."""

import json

import pytest

from hf_distill import losses, schemes

from .arranged import plan


@schemes.scheme
def once_only(plan):
    """One stage."""
    return plan.stage("first", plan.fresh(), plan.teacher)


def test_what_the_last_stage_refuses_is_refused_before_the_first_trains(tmp_path):
    @schemes.scheme
    def bad(plan):
        plan.stage("first", plan.fresh(), plan.teacher)
        return plan.stage("second", plan.fresh(), plan.teacher, [losses.HiddenMSE({9: 0})])

    taken = []
    with pytest.raises(ValueError, match="student layer 9 does not exist"):
        bad(plan(tmp_path / "out", watch=lambda trainer: taken.append(trainer)))
    assert taken == []
    assert not (tmp_path / "out").exists()


def test_a_scheme_inside_of_a_scheme_is_a_part_of_it(tmp_path):
    @schemes.scheme
    def outer(plan):
        student = once_only(plan)
        return plan.stage("last", plan.fresh(), student)

    outer(plan(tmp_path))
    found = json.loads((tmp_path / "stages.json").read_text())
    assert found["scheme"] == "outer()"
    assert [stage["name"] for stage in found["stages"]] == ["first", "last"]
