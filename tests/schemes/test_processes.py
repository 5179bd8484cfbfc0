"""Every scheme on two processes: its student and files are those of one process, cut off and resumed or not."""

from pathlib import Path

import pytest
import torch
import torchrun

from hf_distill.recipe import arranged

from .processes import RUNS, all_of

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
    for key, value in one[name]["student"].items():
        torch.testing.assert_close(two[name]["student"][key], value, rtol=0, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_are_resumed(two, name):
    assert two[name]["resumed"]
