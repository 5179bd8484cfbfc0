"""Deep mutual learning: several students teach one another while they learn."""

from typing import Literal, get_args

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from hf_distill import anatomy
from hf_distill.losses import SoftTargets, TaskLoss
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.running import scheme
from hf_distill.schemes.temperatures import shared
from hf_distill.tasks import Task, find_task
from hf_distill.teachers import ModelTeacher, PeerTeacher
from hf_distill.teachers.learner import weight_like_labels

Start = Literal["head", "random", "given"]


@scheme
def mutual(plan: Plan, students: int = 2, temperature: float | None = None, start: Start = "head") -> PreTrainedModel:
    """Trains several students at once, from the same batches; each learns from the labels and from all the others.

    Each has an optimizer of its own. They must differ at the start, or they have nothing to tell one another: each but
    the first is made under another seed, and begins as `start` says. A head that is drawn anew knows nothing at first,
    and all others hear it all the same: a training of a few dozen steps is made worse by it.

    Args:
        plan: its teacher is not asked; its losses are those of every student, if it has some. Without, they are the
            labels and soft targets, which count alike.
        students: how many.
        temperature: of the soft targets, whose mean over the others each student hears; None: that of the plan's
            losses, and 1 where they have none.
        start: where the others begin: as the student, but with a new ``"head"``, which suits pretrained weights; with
            all weights ``"random"``, as in the paper; or as ``"given"``, where the plan makes its students by a
            function that gives another one each time.

    Returns:
        The first, which is the plan's student as it is. The others are measured too, and saved beside it, in `peer_2`,
        `peer_3`, ... None is chosen by the evaluation, so that its figures are not those of the luckiest.

    Raises:
        ValueError: fewer than two students, a `start` that is not known or that the student has not, a temperature
            that is not that of the plan's losses, a model without a head, or `peft_config`.

    Reference: Zhang, Xiang, Hospedales, Lu 2018, Deep Mutual Learning, arXiv:1706.00384.
    Differs from the paper: see `teachers.PeerTeacher`.
    """
    if students < 2:
        raise ValueError(f"mutual: students={students}; there must be at least 2 to teach one another.")
    if start not in get_args(Start):
        raise ValueError(f'mutual: start={start!r} is not known; use "head", "random" or "given".')
    if start == "given" and not plan.makes_students:
        raise ValueError('mutual: start="given" needs students that differ: pass the Plan a function that makes them.')
    first = plan.fresh()
    _check_student(plan, first, start)
    softness = shared(plan.losses, temperature, 1.0, "mutual", several=students > 2)
    losses = plan.losses or [TaskLoss(), SoftTargets(softness, weight=weight_like_labels(first))]
    peers = [_another(plan, number, start) for number in range(2, students + 1)]
    student = plan.stage("student", first, PeerTeacher(peers, losses, temperature=softness), losses)
    for number, peer in enumerate(peers, start=2):
        plan.keep(f"peer_{number}", peer)
        plan.judge(f"peer_{number}", ModelTeacher(peer), plan.fresh())
    return student


def _check_student(plan: Plan, first: PreTrainedModel, start: Start) -> None:
    """What one student can be, and several that differ cannot."""
    model, own = anatomy.unwrap(first), type(first).__name__
    if plan.trainer_kwargs.get("peft_config") is not None:
        raise ValueError(
            "mutual: peft_config would give adapters to the first student alone. Pass the Plan a student that has "
            "them: student=get_peft_model(model, config)."
        )
    if find_task(model) is Task.EMBEDDING and (start == "head" or not plan.losses):
        raise ValueError(
            f"mutual is for models with a head, and {type(model).__name__} has none. Take a model that predicts, or "
            'losses on vectors such as RKDDistance in the plan and start="random".'
        )
    if start == "random" and model is not first:
        raise ValueError(
            f'mutual: start="random" draws all weights anew, and a {own} keeps those under its adapters. Use '
            'start="head", or "given" with a function that makes students.'
        )


def _another(plan: Plan, number: int, start: Start) -> PreTrainedModel:
    """A student that begins elsewhere, the same again if it is made again."""
    set_seed(plan.args.seed + number)
    peer = plan.fresh()
    if start == "random":
        return type(peer)(peer.config).to(peer.dtype)
    if start == "head":
        head = _head(peer)
        spread = getattr(peer.config, "initializer_range", 0.02)
        with torch.no_grad():
            nn.init.normal_(head.weight, std=spread)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return peer


def _head(peer: PreTrainedModel) -> nn.Linear:
    try:
        return anatomy.find_head(peer)
    except ValueError as error:
        raise ValueError(f'mutual: start="head" draws it anew. {error} Use start="random" or "given".') from error
