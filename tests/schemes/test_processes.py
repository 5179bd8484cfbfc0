"""Every scheme on two processes: its student and files are those of one process, cut off and resumed or not."""

from pathlib import Path

import pytest
import torch
import torchrun

from hf_distill.recipe import arranged

from .processes import CUT, RUNS, all_of

KEPT = {"chain": 4}  # it saves where it evaluates, after each epoch
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return torchrun.results(Path(__file__).with_name("processes.py"), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return all_of(tmp_path_factory.mktemp("one"), 8)


def test_no_scheme_is_left_out():
    assert {name.split(",")[0] for name in RUNS} == arranged.schemes().keys()


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_one(one, two, name):
    assert two[name]["agree"]
    assert two[name]["files"] == one[name]["files"]
    assert two[name]["stages"].keys() == one[name]["stages"].keys()
    for stage, metrics in one[name]["stages"].items():
        assert two[name]["stages"][stage] == pytest.approx(metrics), stage
    for part in ("student", *one[name]["beside"]):
        found, expected = (each[name]["beside"].get(part, each[name]["student"]) for each in (two, one))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6, msg=f"{part}: {key}")


@pytest.mark.parametrize("name", RUNS)
def test_they_are_resumed_where_they_were_cut_off(one, two, name):
    for found in (one[name], two[name]):
        assert found["resumed"]
        assert found["steps"][1] == found["steps"][0] - KEPT.get(name, CUT)
