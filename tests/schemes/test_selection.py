"""Which checkpoint a stage ends with, also of several evaluation sets and by a loss that another stage has."""

import pytest
from runs import exactly, rows

from hf_distill import losses, schemes
from hf_distill.schemes.selection import by_best, by_last

from .arranged import deep, planned

SEVERAL = {"near": rows(8), "far": rows(4)}


def test_of_several_evaluation_sets_the_first_chooses(tmp_path):
    taken = []
    settings = {"max_steps": -1, "num_train_epochs": 2, "watch": taken.append}
    schemes.chain(planned(tmp_path, deep(1), deep(3, seed=1), eval_dataset=SEVERAL, **settings))
    for trainer in taken:
        measured = [each["eval_near_loss"] for each in trainer.state.log_history if "eval_near_loss" in each]
        assert trainer.state.best_metric == min(measured)


def test_a_metric_of_no_evaluation_set_is_refused_before_a_stage_trains(tmp_path):
    taken = []
    plan = planned(tmp_path, deep(1), deep(3, seed=1), eval_dataset=SEVERAL, metric_for_best_model="eval_agreement",
                   watch=taken.append)  # fmt: skip
    message = (
        "metric_for_best_model is 'eval_agreement', and there are several evaluation sets: near, far. Say "
        'whose it is: "near_agreement".'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.chain(plan)
    assert not taken
    plan.args.metric_for_best_model = "far_agreement"
    found = by_best(plan)
    assert (found["metric_for_best_model"], found["greater_is_better"]) == ("far_agreement", True)


@pytest.mark.parametrize("several", [False, True])
def test_a_loss_of_the_second_stage_is_not_asked_for_in_the_first(tmp_path, several):
    taken, first = [], "near_" if several else ""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    best |= {"eval_steps": 1, "save_steps": 1, "metric_for_best_model": f"{first}soft_targets"}
    plan = planned(tmp_path, deep(2), deep(4, seed=1), eval_dataset=SEVERAL if several else rows(8), max_steps=4,
                   losses=[losses.SoftTargets()], watch=taken.append, **best)  # fmt: skip
    schemes.hints(plan)
    hint, last = taken
    assert (hint.args.metric_for_best_model, hint.args.greater_is_better) == (f"{first}loss", False)
    key = f"eval_{first}soft_targets"
    measured = [each[key] for each in last.state.log_history if key in each]
    assert last.state.best_metric == min(measured)


def test_where_nothing_is_chosen_nothing_is_changed(tmp_path):
    assert by_last(planned(tmp_path, deep(1))) == {"load_best_model_at_end": False}
    assert by_best(planned(tmp_path, deep(1))) == {}
    mine = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    assert by_best(planned(tmp_path, deep(1), eval_dataset=rows(8), **mine)) == {}
