"""The hint layer first: nothing above it moves. The losses second, from there."""

import pytest
import torch
from runs import distillation, same, weights

from hf_distill import losses, schemes
from hf_distill.signals import LOGITS
from hf_distill.teachers import Teacher

from .arranged import check_resumed, deep, planned


def narrow(blocks=4):
    return deep(blocks, hidden_size=16)


def test_the_two_stages_by_hand(tmp_path):
    own = [losses.TaskLoss(), losses.LogitMSE()]
    plan = planned(tmp_path / "scheme", narrow(), deep(8, seed=1), losses=own, max_steps=4)
    found = schemes.hints(plan, share=0.25)
    teacher = deep(8, seed=1)
    first = distillation(tmp_path / "1", narrow(), teacher, [losses.HiddenMSE({1: 3})], max_steps=1)
    first.train()
    second = distillation(tmp_path / "2", first.model, teacher, own, max_steps=3)
    second.train()
    assert same(weights(found), weights(second.model))


@pytest.mark.parametrize(("guided", "above"), [(0, (1, 2, 3)), (2, (3,)), (-1, ())])
def test_the_hint_trains_nothing_above_its_block(tmp_path, guided, above):
    before, seen = weights(narrow()), []

    def watch(trainer):
        seen.append((weights(trainer.model), [each.detach().clone() for each in trainer.objective.parameters()]))

    schemes.hints(planned(tmp_path, narrow(), deep(8, seed=1), watch=watch, weight_decay=0.1), guided=guided)
    after = seen[1][0]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    fixed = tuple(f"encoder.layer.{block}." for block in above)
    assert not [name for name in moved if any(each in name for each in (*fixed, "pooler", "classifier"))]
    for block in set(range(4)) - set(above):
        assert {name for name in before if f"encoder.layer.{block}." in name and "key.bias" not in name} <= moved
    assert [tuple(each.shape) for each in seen[0][1]] == [(32, 16), (32,)]  # the projection, in the first stage alone
    assert not seen[1][1]


@pytest.mark.parametrize(
    ("blocks", "of", "expected"), [(3, 6, (1, 3)), (4, 4, (1, 1)), (1, 4, (0, 3)), (6, 12, (2, 5))]
)
def test_the_middle_is_matched_with_the_middle(tmp_path, blocks, of, expected):
    taken = []
    plan = planned(tmp_path, deep(blocks), deep(of, seed=1), max_steps=2, watch=lambda trainer: taken.append(trainer))
    schemes.hints(plan)
    [loss] = taken[0].objective
    assert loss.matched == dict([expected])


def test_cut_off_in_the_second_stage_it_goes_on(tmp_path):
    def run(folder, **settings):
        return schemes.hints(planned(folder, narrow(), deep(4, seed=1), max_steps=6, **settings))

    check_resumed(tmp_path, run, after=4)


def test_the_hint_stage_ends_with_its_last_weights(tmp_path):
    """By the quality of a head that nobody trains, the first checkpoint would be the best."""
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    best |= {"eval_steps": 1, "save_steps": 1, "metric_for_best_model": "agreement", "greater_is_better": True}
    taken = []
    plan = planned(tmp_path, deep(2), deep(4, seed=1), eval_dataset=planned(tmp_path, deep(1)).train_dataset,
                   watch=taken.append, max_steps=4, **best)  # fmt: skip
    schemes.hints(plan)
    assert [trainer.args.load_best_model_at_end for trainer in taken] == [False, True]


class Remembered(Teacher):
    def observe(self, batch):
        return {LOGITS: batch.labels}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"share": 0.0}, "share is 0.0; it must be above 0 and below 1"),
        ({"share": 1.0}, "share is 1.0"),
        ({"guided": 2}, "student layer 2 does not exist"),
        ({"hint": 4}, "teacher layer 4 does not exist"),
        ({"projection": "cubic"}, "projection='cubic' is not"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(tmp_path, knobs, message):
    with pytest.raises(ValueError, match=message):
        schemes.hints(planned(tmp_path, deep(2), deep(4, seed=1)), **knobs)


def test_a_teacher_without_hidden_states_is_refused(tmp_path):
    with pytest.raises(ValueError, match="hints are hidden states, and a Remembered has none"):
        schemes.hints(planned(tmp_path, deep(2), Remembered()))
