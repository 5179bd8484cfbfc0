"""What of the plan's steps a stage has."""

import pytest
from runs import exactly

from hf_distill import DistillationConfig
from hf_distill.schemes.budget import settings_of


@pytest.mark.parametrize("whole", [3, 4, 5, 7, 10, 101])
@pytest.mark.parametrize("parts", [[0.5, 0.5], [0.3, 0.7], [1 / 3, 1 / 3, 1 / 3]])
def test_parts_of_the_whole_have_all_of_its_steps(tmp_path, whole, parts):
    args, begun, steps = DistillationConfig(str(tmp_path), max_steps=whole), 0.0, []
    for part in parts:
        steps.append(settings_of(args, tmp_path / "stage", "stage", (begun, begun + part)).max_steps)
        begun += part
    assert sum(steps) == whole
    assert all(abs(own - whole * part) < 1 for own, part in zip(steps, parts, strict=True))
    assert args.max_steps == whole


def test_epochs_are_not_longer_by_what_a_float_is_off(tmp_path):
    args = DistillationConfig(str(tmp_path), num_train_epochs=1)
    assert settings_of(args, tmp_path, "stage", (0.7, 1.0)).num_train_epochs == 0.3
    assert settings_of(args, tmp_path, "stage", 2.5).num_train_epochs == 2.5


@pytest.mark.parametrize("share", [0.1, 0.75, 0.99])
def test_of_two_steps_each_of_two_parts_has_one(tmp_path, share):
    args = DistillationConfig(str(tmp_path), max_steps=2)
    assert [settings_of(args, tmp_path, "stage", part).max_steps for part in ((0.0, share), (share, 1.0))] == [1, 1]


def test_a_stage_without_a_step_is_refused(tmp_path):
    args = DistillationConfig(str(tmp_path), max_steps=2)
    message = "stage 'third' has none of the plan's 2 steps: its share is 0.25 of them. Raise max_steps."
    with pytest.raises(ValueError, match=exactly(message)):
        settings_of(args, tmp_path, "third", (0.5, 0.75))
