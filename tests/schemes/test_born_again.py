"""Each generation is taught by the one before it."""

import pytest
from runs import classifier, distillation, rows, same, weights

from hf_distill import schemes
from schemes.test_plan import plan


def test_generations_by_hand(tmp_path):
    last = schemes.born_again(plan(tmp_path / "scheme"), generations=3)
    teacher = classifier(seed=1).eval()
    for number in range(3):
        trainer = distillation(tmp_path / str(number), classifier(), teacher)
        trainer.train()
        teacher = trainer.model.eval()
    assert same(weights(last), weights(teacher))


def test_without_a_teacher_the_first_generation_learns_from_the_labels(tmp_path):
    from runs import QUICK

    from hf_distill import DistillationConfig, losses
    from hf_distill.teachers import Nobody

    args = DistillationConfig(str(tmp_path / "scheme"), **QUICK)
    first = schemes.born_again(schemes.Plan(classifier(), args=args, train_dataset=rows()), generations=1)
    alone = distillation(tmp_path / "alone", classifier(), Nobody(), [losses.TaskLoss()])
    alone.train()
    assert same(weights(first), weights(alone.model))


@pytest.mark.parametrize("generations", [0, -1])
def test_no_generation_is_refused(tmp_path, generations):
    with pytest.raises(ValueError, match=f"born_again: generations is {generations}; it must be at least 1."):
        schemes.born_again(plan(tmp_path), generations=generations)
