"""Soft targets at boundary samples, as a scheme: what it trains with, and that it goes on where it was cut off."""

import pytest
import torch
from datasets import Dataset
from runs import QUICK, classifier, exactly, rows, same, weights

from hf_distill import DistillationConfig, schemes
from hf_distill.augment.boundary import BoundaryTeacher
from hf_distill.losses import BoundaryTargets, RKDDistance, SoftTargets, TaskLoss
from hf_distill.teachers import SelectiveTeacher


def near(model):
    """A student that is right where the teacher is, and has something to learn."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return model


def told() -> Dataset:
    """Rows whose labels are what the teacher says."""
    data = rows(labels=False)
    with torch.no_grad():
        labels = classifier(seed=1)(input_ids=torch.tensor(data["input_ids"])).logits.argmax(-1)
    return data.add_column("labels", labels.tolist())


def plan(folder, watch=None, resume=False, losses=None, teacher=None) -> schemes.Plan:
    settings = QUICK | {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    args = DistillationConfig(str(folder), **settings)
    student, teacher = near(classifier(seed=1)), teacher or classifier(seed=1)
    return schemes.Plan(student, teacher, losses, args, train_dataset=told(), resume=resume, watch=watch)


def test_the_terms_and_their_weights_are_the_papers(tmp_path):
    seen = []
    schemes.adversarial(plan(tmp_path, seen.append))
    [trainer] = seen
    task, soft, boundary = trainer.objective
    assert [type(each) for each in (task, soft, boundary)] == [TaskLoss, SoftTargets, BoundaryTargets]
    assert isinstance(trainer.teacher, BoundaryTeacher)
    assert (task.weight, soft.temperature, boundary.temperature) == (1.0, 3.0, 3.0)
    for share in (0.0, 0.5, 0.75, 0.9, 1.0):  # r = max(3(1 - e/E), 0) + 1, a = max(2(1 - 4e/3E), 0), without T squared
        assert soft.weight(share) * 9 == pytest.approx(max(3 * (1 - share), 0) + 1)
        assert boundary.weight(share) * 9 == pytest.approx(max(2 * (1 - 4 * share / 3), 0), abs=1e-9)
    logged = [entry for entry in trainer.state.log_history if "boundary_targets" in entry]
    assert max(entry["boundary_targets"] for entry in logged[:5]) > 1e-5
    assert logged[-1]["boundary_targets"] == 0  # 5 of 6 steps are done then


class Killed(Exception):
    pass


def test_a_run_that_was_cut_off_goes_on_as_it_would_have(tmp_path):
    whole = weights(schemes.adversarial(plan(tmp_path / "whole")))

    def kill(trainer):
        respond, calls = trainer.teacher.respond, []

        def until_the_fourth(*args):
            calls.append(args)
            if len(calls) == 4:
                raise Killed
            return respond(*args)

        trainer.teacher.respond = until_the_fourth

    with pytest.raises(Killed):
        schemes.adversarial(plan(tmp_path / "cut", kill))
    steps = []
    again = schemes.adversarial(plan(tmp_path / "cut", lambda trainer: steps.append(trainer), resume=True))
    assert same(whole, weights(again))
    assert torch.equal(again.classifier.weight, steps[0].model.classifier.weight)
    without = schemes.adversarial(plan(tmp_path / "without"), boundary=0.0)
    assert not same(whole, weights(without))


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=exactly("adversarial: soft is 3.0 and boundary -1; weights must be at least 0.")
    ):
        schemes.adversarial(plan(tmp_path), boundary=-1)
    with pytest.raises(ValueError, match=exactly("BoundaryTeacher: stride is 0; it must be above 0.")):
        schemes.adversarial(plan(tmp_path), stride=0)
    with pytest.raises(ValueError, match="adversarial needs a teacher"):
        schemes.adversarial(schemes.Plan(classifier(), None, None, plan(tmp_path).args, train_dataset=rows()))
    without = rows(labels=False)
    with pytest.raises(ValueError, match="has no labels"):
        schemes.adversarial(
            schemes.Plan(classifier(), classifier(seed=1), None, plan(tmp_path).args, train_dataset=without)
        )
    with pytest.raises(ValueError, match=exactly("adversarial: temperature is 0; it must be above 0.")):
        schemes.adversarial(plan(tmp_path), temperature=0)
    message = (
        "adversarial: soft=3.0 would change nothing, because the plan's losses take the place of the soft targets"
    )
    with pytest.raises(ValueError, match=exactly(message + ". Leave it out.")):
        schemes.adversarial(plan(tmp_path, losses=[SoftTargets(2.0)]), soft=3.0)
    chosen = SelectiveTeacher(classifier(seed=1), min_confidence=0.3)
    with pytest.raises(ValueError, match="RKDDistance"):
        schemes.adversarial(plan(tmp_path, losses=[TaskLoss(), RKDDistance()], teacher=chosen))
    assert list(tmp_path.iterdir()) == []
