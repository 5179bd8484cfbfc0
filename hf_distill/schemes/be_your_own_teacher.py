"""Be your own teacher: the student's last block teaches exits at the blocks below it."""

from typing import Any, Literal

from safetensors.torch import load_file
from transformers import PreTrainedModel

from hf_distill import anatomy
from hf_distill.attachment import OBJECTIVE_FILE
from hf_distill.losses import Loss, SelfExits, SoftTargets, TaskLoss
from hf_distill.schemes.early_exit import CONFIG_FILE, WEIGHTS_FILE, EarlyExit
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.tasks import find_task


@scheme
def be_your_own_teacher(
    plan: Plan,
    layers: list[int] | None = None,
    alpha: float = 0.1,
    temperature: float = 3.0,
    hint_weight: float = 1e-6,
    bottleneck: int | None = None,
    pooling: Literal["first", "last", "mean"] = "mean",
    keep_exits: bool = False,
) -> PreTrainedModel:
    """The student learns the labels at its end and at exits on the way, which also learn from its end.

    What the exits ask for reaches the lower blocks directly, so that the last one answers better; afterwards the exits
    are taken off, and the student costs what it did (Zhang et al. 2019, arXiv:1905.08094; the loss is `SelfExits`).
    With `keep_exits` they stay beside the student, which `EarlyExit.from_pretrained` then loads.

    Differs from the paper: no teacher is needed, but the plan's, where it has one, teaches the last block; the exits'
    bottlenecks are two linear layers on one state an example. The paper's alpha and lambda could not be confirmed: the
    defaults are those of a re-implementation.

    Args:
        plan: its losses are those of the last block; where it names none, the labels alone, or the default of a
            `DistillationTrainer` where it has a teacher.
        layers: blocks with an exit, counted from 0 or from the end, without the last; None: all others.
        alpha: share of the last block's answer in what an exit learns, 0 to 1.
        temperature: softens it.
        hint_weight: lambda, of the squared distance of an exit's feature from the last block's state.
        bottleneck: width of the layer inside an exit's head; None: a quarter of the student's.
        pooling: which state of an example the exits read, see `SelfExits`.
        keep_exits: whether they are saved beside the student.

    Returns:
        The student, without exits.

    Raises:
        ValueError: what `SelfExits` refuses; or exits to be kept beside a student that is no whole model.
    """
    own: list[Loss] = list(plan.losses or [TaskLoss()])
    if plan.losses is None and plan.teacher is not None:
        own = [TaskLoss(weight=0.5), SoftTargets(temperature=2.0, weight=0.5)]
    exits = SelfExits(layers, alpha, temperature, hint_weight, bottleneck, pooling)
    student = plan.stage("student", plan.fresh(), plan.teacher, [*own, exits], keep_objective=keep_exits)
    if keep_exits and not isinstance(student, PreTrainedModel):
        raise ValueError(f"be_your_own_teacher: keep_exits=True is for a whole model, not a {type(student).__name__}.")
    if not plan.rehearsing and not plan.args.process_index:
        _keep(plan, student, exits) if keep_exits else _forget(plan)
    return student


def _keep(plan: Plan, student: Any, exits: SelfExits) -> None:
    """Saves the trained exits, which the stage has left with its objective, beside the student."""
    exits.setup(anatomy.describe(student), None, find_task(student))
    trained, prefix = load_file(plan.folder / "student" / OBJECTIVE_FILE), f"losses.{exits.name}."
    exits.load_state_dict(
        {name.removeprefix(prefix): value for name, value in trained.items() if name.startswith(prefix)}
    )
    EarlyExit(student, exits).save_pretrained(plan.folder)


def _forget(plan: Plan) -> None:
    """Of a former run in the same folder."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (plan.folder / name).unlink(missing_ok=True)
