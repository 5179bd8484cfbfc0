"""Terms are averaged over steps and over rows, and what is not finite is refused."""

import pytest
import torch

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.signals import LOGITS, TRUST
from hf_distill.tasks import Task
from hf_distill.terms import EvaluatedTerms, TrainedTerms


def batch(rows: int, task: Task = Task.MULTI_LABEL) -> Batch:
    return Batch({"input_ids": torch.ones(rows, 3, dtype=torch.long), "labels": torch.zeros(rows, 2)}, task)


def terms(*values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value) for name, value in zip("ab", values, strict=True)}


def test_terms_are_summed_over_micro_batches_and_averaged_over_steps():
    trained = TrainedTerms()
    trained.restart(10)
    for _ in range(4):
        trained.add(batch(2), terms(1.0, 2.0), None, {})
    assert trained.take(12, lambda sums: sums * 10) == {"a": 20.0, "b": 40.0}
    assert trained.take(13, lambda sums: sums) == {}
    trained.add(batch(2), terms(1.0, 3.0), None, {})
    assert trained.take(14, lambda sums: sums) == {"a": 0.5, "b": 1.5}  # two steps since the last log that had any


def test_what_is_not_finite_is_named():
    trained = TrainedTerms()
    trained.add(batch(1), terms(1.0, 2.0), None, {LOGITS: torch.ones(1, 2)})
    trained.check_finite(3, torch.tensor(1.0))
    trained.check_finite(3, None)
    with pytest.raises(FloatingPointError, match=r"\Athe gradient of the loss is not finite by step 3; "):
        trained.check_finite(3, torch.tensor(float("nan")))
    trained.add(batch(1), terms(1.0, float("inf")), None, {})
    with pytest.raises(FloatingPointError, match=r"\Ab is not finite by step 3; "):
        trained.check_finite(3, None)
    trained.restart(3)
    trained.check_finite(3, None)
    trained.add(batch(1), terms(1.0, 1.0), None, {LOGITS: torch.tensor([[float("nan"), 1.0]])})
    trained.take(4, lambda sums: sums)
    with pytest.raises(FloatingPointError, match="the teacher's logits are not finite by step 4"):
        trained.check_finite(4, None)
    trained.restart(4)  # a training after the cure
    trained.check_finite(4, None)


def test_an_evaluation_counts_every_row_once():
    evaluated = EvaluatedTerms()
    assert evaluated.means("ab", lambda sums: sums) == {}
    evaluated.drop_last()
    agreeing, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    evaluated.add(batch(3), terms(1.0, 2.0), agreeing.expand(3, 2), {LOGITS: agreeing.expand(3, 2)})
    evaluated.add(batch(1), terms(5.0, 2.0), agreeing, {LOGITS: other})
    assert evaluated.means("ab", lambda sums: sums) == {"a": 2.0, "b": 2.0, "agreement": 7 / 8}
    evaluated.drop_last()
    assert evaluated.means("ab", lambda sums: sums * 2) == {"a": 1.0, "b": 2.0, "agreement": 1.0}


@pytest.mark.parametrize("missing", ["student", "teacher", "decision"])
def test_no_agreement_where_nothing_can_be_compared(missing):
    evaluated, logits = EvaluatedTerms(), torch.ones(2, 2)
    task = Task.REGRESSION if missing == "decision" else Task.MULTI_LABEL
    mine, theirs = None if missing == "student" else logits, {} if missing == "teacher" else {LOGITS: logits}
    evaluated.add(batch(2, task), terms(1.0, 2.0), mine, theirs)
    assert evaluated.means("ab", lambda sums: sums) == {"a": 1.0, "b": 2.0}


def test_a_teachers_head_that_was_not_computed_is_looked_at_in_the_first_step_and_its_input_in_all():
    rows, positions = torch.tensor([0]), torch.Size((1, 3))
    for first, hidden, weight, broken in (
        (True, torch.nan, 1.0, True),
        (False, torch.inf, 1.0, True),
        (True, 1.0, torch.nan, True),
        (False, 1.0, torch.nan, False),
        (True, 1.0, 1.0, False),
    ):
        head = HeadLogits.of(torch.full((1, 1, 2), hidden), torch.full((5, 2), weight), None)
        trained = TrainedTerms()
        given = Batch({"input_ids": torch.ones(1, 3)}, Task.MASKED_LM, training=not first, counted_only=True)
        trained.add(given, terms(1.0, 2.0), None, {LOGITS: HeadLogits.placed(head, rows, positions)})
        assert head.made is None
        if broken:
            with pytest.raises(FloatingPointError, match="the teacher's logits are not finite by step 1"):
                trained.check_finite(1, None)
        else:
            trained.check_finite(1, None)


@pytest.mark.parametrize(
    ("task", "inputs", "trust", "expected"),
    [
        (Task.SINGLE_LABEL, {"input_ids": torch.ones(4, 3)}, [1.0, 0.5, 0.0, 1.0], 2.5 / 4),
        (Task.MULTI_LABEL, {"input_ids": torch.ones(2, 3)}, [[1.0, 0.0], [0.5, 1.0]], 2.5 / 4),
        (
            Task.TOKENS,
            {"input_ids": torch.ones(2, 2), "labels": torch.tensor([[1, -100], [2, 0]])},
            [[0.5, 1.0], [0.0, 1.0]],  # the second has no label, and does not count
            1.5 / 3,
        ),
    ],
)
def test_how_much_the_teachers_answers_count_is_noted(task, inputs, trust, expected):
    trained = TrainedTerms()
    trained.add(Batch(inputs, task), terms(1.0, 2.0), None, {TRUST: torch.tensor(trust)})
    assert trained.take(1, lambda sums: sums)["trust"] == pytest.approx(expected)
