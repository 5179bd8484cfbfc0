"""Progressive self-distillation: the student is taught by what it said of each example in the epoch before."""

from math import ceil, floor

from transformers import PreTrainedModel

from hf_distill.losses import SoftTargets, TaskLoss, stairs
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.teachers import PastSelf
from hf_distill.teachers.learner import weight_like_labels


@scheme
def progressive_self(plan: Plan, last_weight: float = 0.8) -> PreTrainedModel:
    """Trains one student on targets that are softened, epoch by epoch, with its own predictions of the epoch before.

    In epoch e = 0, 1, ... of E the labels weigh 1 - a and the past predictions a = last_weight (e + 1) / E, both at
    temperature 1: the cross entropy with that mixture, but for the entropy of the past predictions, which no weight
    moves. With several labels it is a mean over them, as the labels' loss is. In the first epoch there are no past
    predictions, and the label stands for both. E is rounded up where the last epoch is cut off.

    Args:
        plan: its teacher is not asked; it may be where the student was copied from.
        last_weight: of the past predictions in the last epoch, 0 to 1.

    Returns:
        The student.

    Raises:
        ValueError: `last_weight` is no share, the plan has losses, or its data are of unknown length.

    Reference: Kim, Ji, Yoon, Hwang 2021, Self-Knowledge Distillation with Progressive Refinement of Targets (PS-KD),
    arXiv:2006.12000.
    Differs from the paper: see `teachers.PastSelf`.
    """
    if not 0 <= last_weight <= 1:
        raise ValueError(f"progressive_self: last_weight={last_weight} is no share; it must be 0 to 1.")
    if plan.losses is not None:
        raise ValueError(
            "progressive_self makes its losses itself, with weights that change by the epoch. Leave losses out."
        )
    epochs, student = _epochs(plan), plan.fresh()
    losses = [
        TaskLoss(weight=stairs(1.0, 1.0 - last_weight, epochs)),
        SoftTargets(temperature=1.0, weight=stairs(0.0, last_weight * weight_like_labels(student), epochs)),
    ]
    return plan.stage("student", student, PastSelf(), losses)


def _epochs(plan: Plan) -> float:
    """How often the student sees the data; the last epoch may be a part."""
    args = plan.args
    if not hasattr(plan.train_dataset, "__len__"):
        raise ValueError("progressive_self: how long an epoch is is not known of this data. Pass a Dataset.")
    batches = len(plan.train_dataset) / (args.train_batch_size * args.world_size)
    batches = floor(batches) if args.dataloader_drop_last else ceil(batches)
    steps = max(1, ceil(batches / args.gradient_accumulation_steps))
    return (args.max_steps if args.max_steps > 0 else ceil(args.num_train_epochs * steps)) / steps
