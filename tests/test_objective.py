import pytest
import torch
from torch import nn

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses import AttentionKL, HiddenMSE, RKDDistance, SoftTargets, TaskLoss, linear
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, ModelShape, attention, hidden, pooled
from hf_distill.tasks import Task

STUDENT = ModelShape("SmallModel", layers=2, width=3, heads=2, classes=5)
TEACHER = ModelShape("LargeModel", layers=4, width=6, heads=2, classes=5)


def test_terms_are_weighted_named_and_in_order():
    objective = Objective([SoftTargets(weight=2.0), TaskLoss(weight=0.5), SoftTargets(temperature=4.0)])
    batch = Batch({"labels": torch.tensor([0, 1])}, Task.SINGLE_LABEL)
    student, teacher = {LOGITS: torch.randn(2, 5)}, {LOGITS: torch.randn(2, 5)}
    terms = objective(student, teacher, batch)
    assert list(terms) == ["soft_targets", "task_loss", "soft_targets_2"]
    torch.testing.assert_close(terms["soft_targets"], 2 * SoftTargets()(student, teacher, batch))
    torch.testing.assert_close(terms["task_loss"], 0.5 * TaskLoss()(student, teacher, batch))
    assert all(term.shape == () for term in terms.values())


def test_two_classes_of_one_name_are_two_terms():
    class Other(SoftTargets):
        name = "task_loss"

    assert list(Objective([TaskLoss(), Other(), TaskLoss()]).losses) == ["task_loss", "task_loss_2", "task_loss_3"]


def test_what_it_wants_is_what_its_losses_look_at():
    objective = Objective([HiddenMSE({0: 1, -1: -1}), AttentionKL({1: 3}), RKDDistance("mean"), TaskLoss()])
    objective.setup(STUDENT, TEACHER, Task.TOKENS)
    assert objective.wanted_of_student == {hidden(0), hidden(1), attention(1), pooled("mean"), LOGITS}
    assert objective.wanted_of_teacher == {hidden(1), hidden(3), attention(3), pooled("mean")}


def test_it_knows_whether_the_head_is_used_and_labels_are_needed():
    facts = {
        TaskLoss: (True, True),
        SoftTargets: (True, False),
        HiddenMSE: (False, False),
        RKDDistance: (False, False),
    }
    for loss, (head, labels) in facts.items():
        objective = Objective([loss()])
        objective.setup(STUDENT, TEACHER, Task.TOKENS)
        assert (objective.uses_head, objective.needs_labels) == (head, labels)


def test_it_sets_up_its_losses_and_holds_their_projections():
    objective = Objective([HiddenMSE("last"), HiddenMSE("uniform", projection="shared", bias=False), TaskLoss()])
    assert not list(objective.parameters())
    objective.setup(STUDENT, TEACHER, Task.TOKENS)
    assert {name: tuple(weight.shape) for name, weight in objective.state_dict().items()} == {
        "losses.hidden_mse.projections.0.weight": (6, 3),
        "losses.hidden_mse.projections.0.bias": (6,),
        "losses.hidden_mse_2.projections.0.weight": (6, 3),
    }


def test_a_weight_of_zero_has_a_term_of_zero():
    batch = Batch({"labels": torch.tensor([0, 1])}, Task.SINGLE_LABEL)
    assert Objective([TaskLoss(weight=0)])({LOGITS: torch.randn(2, 5)}, {}, batch)["task_loss"] == 0


def test_what_cannot_be_an_objective_is_refused():
    one = TaskLoss()
    for losses, message in (
        ([], "losses is empty; pass at least one, or None for the task's default."),
        ([nn.MSELoss()], r"losses holds MSELoss\(\), which is no loss; pass instances, such as SoftTargets\(\)."),
        ([SoftTargets], "which is no loss; pass instances"),
        ([one, one], "losses holds one and the same TaskLoss twice; make two of them."),
        (SoftTargets(), r"losses is one SoftTargets; pass a list, losses=\[SoftTargets\(...\)\]."),
    ):
        with pytest.raises(ValueError, match=message):
            Objective(losses)
    with pytest.raises(ValueError, match="an embedding model has none"):
        Objective([TaskLoss()]).setup(STUDENT, TEACHER, Task.EMBEDDING)


@pytest.mark.parametrize("taken", ["loss", "agreement", "items"])
def test_a_name_that_means_something_else_is_refused(taken):
    other = type("Other", (SoftTargets,), {"name": taken})
    with pytest.raises(
        ValueError, match=f"a loss is called '{taken}', which has another meaning in the logs. Rename it"
    ):
        Objective([other()])


def test_models_without_tokens_of_one_width_are_refused():
    images = ModelShape("ConvModel", layers=4, width=0, heads=0, classes=5)
    for loss in (RKDDistance(), HiddenMSE(projection="none")):
        with pytest.raises(ValueError, match="looks at hidden states of tokens or patches, and ConvModel has none"):
            Objective([loss]).setup(images, images, Task.SINGLE_LABEL)
    Objective([SoftTargets()]).setup(images, images, Task.SINGLE_LABEL)


def test_a_list_of_losses_is_left_as_it_was():
    losses = [HiddenMSE()]
    Objective(losses).setup(STUDENT, TEACHER, Task.TOKENS)
    assert not list(losses[0].parameters())
    assert losses[0].matched == {}


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "0.5", None])
def test_what_is_no_weight_is_refused(weight):
    with pytest.raises(ValueError, match=r"SoftTargets: weight=.* is neither a number of at least 0 nor a schedule"):
        Objective([SoftTargets(weight=weight)]).setup(STUDENT, TEACHER, Task.SINGLE_LABEL)


def test_weights_follow_progress_and_multipliers():
    objective = Objective([SoftTargets(weight=linear(1.0, 0.0)), TaskLoss(weight=2.0)], balance="gradient_norm")
    objective.progress = 0.25
    assert objective.weights() == {"soft_targets": 0.75, "task_loss": 2.0}
    objective.multipliers.copy_(torch.tensor([2.0, 0.5]))
    assert objective.weights() == {"soft_targets": 1.5, "task_loss": 1.0}
    batch = Batch({"labels": torch.tensor([0, 1])}, Task.SINGLE_LABEL)
    student, teacher = {LOGITS: torch.randn(2, 5)}, {LOGITS: torch.randn(2, 5)}
    terms = objective(student, teacher, batch)
    torch.testing.assert_close(terms["soft_targets"], 1.5 * SoftTargets()(student, teacher, batch))
    torch.testing.assert_close(terms["task_loss"], TaskLoss()(student, teacher, batch))
    assert objective.changes_weights
    assert not Objective([TaskLoss()]).changes_weights
    assert Objective([TaskLoss(weight=lambda progress: progress)]).changes_weights


def test_balance_measures_on_the_layers_that_it_is_given():
    layer = nn.Linear(3, 5)
    logits = layer(torch.randn(2, 3))
    objective = Objective([SoftTargets(weight=3.0), TaskLoss(weight=1.0)], balance="gradient_norm")
    batch = Batch({"labels": torch.tensor([0, 1])}, Task.SINGLE_LABEL)
    terms = objective({LOGITS: logits}, {LOGITS: torch.randn(2, 5)}, batch, [list(layer.parameters())])
    pulls = []
    for term in terms.values():
        gradients = torch.autograd.grad(term, list(layer.parameters()), retain_graph=True)
        pulls.append(sum(float(each.square().sum()) for each in gradients) ** 0.5)
    assert pulls[0] == pytest.approx(3 * pulls[1], rel=1e-4)
    with pytest.raises(ValueError, match="balance='equal' is not known"):
        Objective([TaskLoss()], balance="equal")


def test_only_losses_that_go_position_by_position_leave_logits_out():
    class Own(SoftTargets):
        def compare(self, student, teacher, batch):
            return student.sum() - teacher.sum()

    for losses, task, expected in (
        ([TaskLoss(), SoftTargets(), HiddenMSE({0: 0})], Task.MASKED_LM, True),
        ([HiddenMSE({0: 0})], Task.CAUSAL_LM, True),
        ([TaskLoss(), SoftTargets()], Task.TOKENS, False),  # few classes: not worth it
        ([TaskLoss(), Own()], Task.MASKED_LM, False),
    ):
        objective = Objective(losses)
        objective.setup(STUDENT, TEACHER, task)
        assert objective.reads_counted_only == expected


def test_formulas_are_compiled_once_and_give_the_same():
    objective = Objective([SoftTargets(), HiddenMSE({0: 0})])
    objective.setup(STUDENT, TEACHER, Task.CAUSAL_LM)
    student, teacher = {LOGITS: torch.randn(2, 3, 5)}, {LOGITS: torch.randn(2, 3, 5)}
    batch = Batch({"input_ids": torch.ones(2, 3, dtype=torch.long)}, Task.CAUSAL_LM)
    soft = objective.losses["soft_targets"]
    expected = soft(student, teacher, batch)
    objective.compile_formulas(backend="aot_eager")
    compiled = vars(soft)["values"]
    objective.compile_formulas(backend="aot_eager")
    assert vars(soft)["values"] is compiled
    assert "values" not in vars(objective.losses["hidden_mse"])
    torch.testing.assert_close(soft(student, teacher, batch), expected)


class Wrapped:
    """Logits in a form that only some losses know."""

    def __init__(self, logits):
        self.logits = logits


class Unwrapping(SoftTargets):
    positionwise = True

    def forward(self, student, teacher, batch):
        return super().forward(student, {LOGITS: teacher[LOGITS].logits}, batch)


def test_what_a_teacher_says_in_another_form_is_left_to_the_losses():
    objective = Objective([Unwrapping(), TaskLoss()])
    objective.setup(STUDENT, TEACHER, Task.MASKED_LM)
    labels = torch.tensor([[1, -100, 2]])
    batch = Batch({"input_ids": torch.ones(1, 3), "labels": labels}, Task.MASKED_LM, counted_only=True)
    linear = nn.Linear(4, 5)
    head = HeadLogits.of(torch.randn(1, 2, 4), linear.weight, linear.bias)
    student = HeadLogits.placed(head, batch.counted_rows, labels.shape)
    theirs = torch.randn(1, 3, 5)
    terms = objective({LOGITS: student}, {LOGITS: Wrapped(theirs)}, batch)
    torch.testing.assert_close(terms["unwrapping"], SoftTargets()({LOGITS: student + 0}, {LOGITS: theirs}, batch))
    torch.testing.assert_close(terms["task_loss"], TaskLoss()({LOGITS: student + 0}, {}, batch))
