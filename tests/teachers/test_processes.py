"""Teachers that change, on two processes: the student and what the teacher learned are those of one process."""

from pathlib import Path

import pytest
import torch
import torchrun

from .processes import all_of

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return torchrun.results(Path(__file__).with_name("processes.py"), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return all_of(tmp_path_factory.mktemp("one"), 8)


@pytest.mark.parametrize("name", ["ema", "past", "peers"])
def test_two_processes_are_one(one, two, name):
    assert two[name]["agree"]
    for part in ("student", "teacher"):
        assert two[name][part].keys() == one[name][part].keys()
        for key, value in one[name][part].items():
            torch.testing.assert_close(two[name][part][key], value, rtol=0, atol=1e-6, msg=f"{part}: {key}")


def test_all_examples_are_known_on_every_process(two):
    assert len(two["past"]["teacher"]["keys"]) == 16
