"""A near name is offered, whatever its case; where none is near, what is known."""

from hf_distill.recipe.did_you_mean import closest, did_you_mean


def test_the_closest_name_is_found_whatever_its_case() -> None:
    assert closest("softtarget", ["TaskLoss", "SoftTargets"]) == "SoftTargets"
    assert closest("tusk", ["task", "train"]) == "task"
    assert closest("entirely else", ["task", "train"]) is None


def test_what_is_known_is_listed_where_nothing_is_near() -> None:
    assert did_you_mean("tusk", ["task", "train"]) == "; did you mean 'task'?"
    assert did_you_mean("else", ["task", "train"]) == did_you_mean(2, ["task", "train"]) == "; known: task, train"
    assert did_you_mean("else", ["task", "train"], or_list=False) == did_you_mean("else", []) == ""
    assert did_you_mean("else", [f"name {index}" for index in range(41)]) == ""
