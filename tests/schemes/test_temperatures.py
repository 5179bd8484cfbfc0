"""A mean of several answers is made at the temperature at which it is compared."""

import pytest
import torch
from runs import classifier, exactly

from hf_distill import schemes
from hf_distill.batch import Batch
from hf_distill.losses import DIST, HiddenMSE, LogitMSE, ReverseKL, SoftTargets, TaskLoss
from hf_distill.schemes.temperatures import shared
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher

from .arranged import planned


@pytest.mark.parametrize(
    ("losses", "given", "expected"),
    [
        (None, None, 1.5),
        (None, 3.0, 3.0),
        ([TaskLoss(), LogitMSE(), HiddenMSE()], None, 1.5),
        ([TaskLoss(), SoftTargets(4.0)], None, 4.0),
        ([SoftTargets(4.0), SoftTargets(4.0)], 4, 4.0),
        ([SoftTargets(4.0), DIST(temperature=1.0)], None, 4.0),
        ([ReverseKL(temperature=3.0)], None, 3.0),
        ([DIST(temperature=2.5)], None, 2.5),
    ],
)
def test_the_losses_say_it(losses, given, expected):
    assert shared(losses, given, 1.5, "this") == expected


def test_two_temperatures_are_refused():
    message = (
        "this: answers are averaged at temperature=1.0, and the plan's losses compare the mean at 4.0. Leave "
        "temperature out, or give both the same."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        shared([TaskLoss(), SoftTargets(4.0)], 1.0, 1.5, "this")
    message = (
        "this averages several answers at one temperature, and the plan's losses compare the mean at 2.0 and 4.0. "
        "Give them one temperature."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        shared([SoftTargets(4.0), SoftTargets(2.0)], None, 1.5, "this")


def test_losses_may_compare_one_answer_at_several(tmp_path):
    losses = [TaskLoss(), SoftTargets(4.0), SoftTargets(2.0)]
    assert shared(losses, 4.0, 1.5, "this", several=False) == 4.0
    schemes.mutual.rehearse(planned(tmp_path, classifier(), None, losses=losses))
    with pytest.raises(ValueError, match=r"^mutual averages several answers at one temperature"):
        schemes.mutual.rehearse(planned(tmp_path, classifier(), None, losses=losses), students=3)


@pytest.mark.parametrize("name", ["mutual", "multi_teacher_triplet"])
def test_a_scheme_averages_at_the_temperature_of_its_losses(tmp_path, name):
    """The softened mean that the student hears is the mean of what the teachers say, softened."""
    heard = []
    several = EnsembleTeacher([classifier(seed=seed).eval() for seed in (1, 2)]) if name != "mutual" else None
    losses = [TaskLoss(), SoftTargets(4.0)]
    plan = planned(tmp_path, classifier(), several, losses=losses, max_steps=1, watch=heard.append)
    run = getattr(schemes, name)
    with pytest.raises(ValueError, match=rf"^{name}: answers are averaged at temperature=1\.5, and .* at 4\.0\."):
        run(plan, temperature=1.5)
    run(plan, **({"students": 3} if name == "mutual" else {}))
    [trainer] = heard
    models = [each.model for each in several.members] if several else trainer.teacher.models
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    batch = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        said = trainer.teacher.observe(Batch(batch, Task.SINGLE_LABEL))[LOGITS]
        softened = torch.stack([(model.eval()(**batch).logits / 4.0).softmax(-1) for model in models])
    torch.testing.assert_close((said / 4.0).softmax(-1), softened.mean(0))
