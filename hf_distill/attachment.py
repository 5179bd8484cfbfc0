"""How the objective lives on the student while it trains, and how the student gets away without it.

The objective is a submodule of the student, and the losses run inside the forward of the *wrapped* student. DDP, FSDP
and DeepSpeed then see projections as weights like any other: synchronised, clipped, optimised, resumed. Nothing that
is saved or published contains them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

OBJECTIVE = "objective"
OBJECTIVE_FILE = "objective.safetensors"
TEACHER_FILE = "teacher.safetensors"


def attach(student: nn.Module, objective: nn.Module, device: torch.device) -> None:
    """Makes the objective a submodule of the student, and hides it from `save_pretrained`."""
    student.add_module(OBJECTIVE, objective.to(device))
    hidden = {f"{OBJECTIVE}.{name}" for name in objective.state_dict()}
    student._keys_to_ignore_on_save = set(getattr(student, "_keys_to_ignore_on_save", None) or ()) | hidden  # type: ignore


def detach(student: nn.Module) -> None:
    """Takes the objective off, once the training is over."""
    if _attached(student) is not None:
        delattr(student, OBJECTIVE)


def release(student: nn.Module) -> None:
    """Takes off what an earlier trainer left on the student: its objective, and accelerate's autocast."""
    detach(student)
    _unprepare(student)


def _attached(student: nn.Module) -> nn.Module | None:
    return dict(student.named_children()).get(OBJECTIVE)  # its own, and not that of a model inside of it


@contextmanager
def detached(student: nn.Module) -> Iterator[None]:
    """Inside, the student is as it was before `attach`."""
    objective = _attached(student)
    if objective is None:
        yield
        return
    delattr(student, OBJECTIVE)
    try:
        yield
    finally:
        student.add_module(OBJECTIVE, objective)


def check_optimizer(optimizer: Any, objective: nn.Module) -> None:
    """Refuses an optimizer of the user's own that would leave projections at their random start.

    Raises:
        ValueError: it does not hold every weight of the objective.
    """
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    missing = [
        name for name, weight in objective.named_parameters() if weight.requires_grad and id(weight) not in held
    ]
    if missing:
        raise ValueError(
            f"the optimizer that was passed does not hold {missing[0]} of the losses, which would stay random. Pass "
            "optimizer_cls_and_kwargs=(torch.optim.AdamW, {...}) instead, and it is made of all weights."
        )


def split_state(objective: nn.Module, state_dict: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The objective's tensors, taken out of the student's state dict if one was gathered (FSDP, DeepSpeed)."""
    heads = objective.state_dict()
    return heads if state_dict is None else {name: state_dict.pop(f"{OBJECTIVE}.{name}") for name in heads}


def save_beside(heads: Mapping[str, Tensor], teacher: Mapping[str, Tensor], folder: Path) -> None:
    """Writes into a checkpoint what is no part of the student: the objective's tensors, and what a teacher learned."""
    for state, file in ((heads, OBJECTIVE_FILE), (teacher, TEACHER_FILE)):
        if state:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / file)


def teacher_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """What a teacher had learned when a checkpoint was written; nothing where there is nothing."""
    file = Path(checkpoint) / TEACHER_FILE
    return load_file(file) if file.exists() else {}


def load_objective(objective: nn.Module, folder: str | Path) -> None:
    """Restores the objective from a checkpoint, strictly.

    Raises:
        ValueError: the checkpoint holds no projections where there are some, or others.
    """
    file, mine = Path(folder) / OBJECTIVE_FILE, objective.state_dict()
    if mine and not file.exists():
        raise ValueError(
            f"{file.parent.name} has no {OBJECTIVE_FILE}, and the losses train {', '.join(mine)}. Resume from a "
            "checkpoint that these losses wrote, or start anew."
        )
    theirs = load_file(file) if file.exists() else {}
    shapes, found = ({name: tuple(value.shape) for name, value in each.items()} for each in (mine, theirs))
    differ = [name for name in shapes | found if shapes.get(name) != found.get(name)]
    if differ:
        name = differ[0]
        raise ValueError(
            f"{file.parent.name}/{OBJECTIVE_FILE} is of other losses: {name} is {found.get(name, 'missing')} there "
            f"and {shapes.get(name, 'missing')} here. Resume with the losses that wrote it, or start anew."
        )
    objective.load_state_dict(theirs, strict=True)


@contextmanager
def redirected(student: nn.Module, run: Callable[..., Any]) -> Iterator[None]:
    """For one call, `student.forward` is `run(student, ...)`; inside of it, it is itself again (and autocast)."""
    own = vars(student).get("forward")  # accelerate's autocast lives on the instance

    def restore() -> None:
        if own is None:
            vars(student).pop("forward", None)
        else:
            student.forward = own

    def once(*args: Any, **kwargs: Any) -> Any:
        restore()
        return run(student, *args, **kwargs)

    student.forward = once
    try:
        yield
    finally:
        restore()


def forget_evaluation(model: nn.Module, accelerator: Any) -> None:
    """An evaluation before training marks the model as prepared, and DDP would never be put around it."""
    _unprepare(model)
    accelerator._models = [each for each in accelerator._models if each is not model]


def _unprepare(model: Any) -> None:
    if getattr(model, "_is_accelerate_prepared", False):
        model._is_accelerate_prepared = False
        if hasattr(model, "_original_forward"):
            del model._original_forward
            vars(model).pop("forward", None)


def restore(student: nn.Module, objective: nn.Module, checkpoint: str, stock: Callable[[], None]) -> None:
    """From a checkpoint, student first, without the objective, then the objective strictly.

    Args:
        student: with the objective attached.
        objective: that one.
        checkpoint: its folder.
        stock: loads a student that is no plain transformers model.
    """
    with detached(student):
        if isinstance(student, PreTrainedModel):
            reload(student, checkpoint)
        else:
            stock()
    load_objective(objective, checkpoint)


def reload(model: PreTrainedModel, checkpoint: str) -> None:
    """Weights of a checkpoint, all of them, also where names on disk are not names in memory."""
    fresh, info = type(model).from_pretrained(
        checkpoint, config=model.config, dtype=model.dtype, ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = {kind: info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        raise ValueError(f"the checkpoint {Path(checkpoint).name} does not hold this student: {wrong}.")
    model.load_state_dict(fresh.state_dict(), strict=True)
