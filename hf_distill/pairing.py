"""Student, teacher and losses, put together; what does not belong together is refused here, before step 1."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_distill import anatomy, checks, students
from hf_distill.capture import Capture
from hf_distill.config import DistillationConfig
from hf_distill.losses import Loss
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, ModelShape
from hf_distill.tasks import Task, find_task
from hf_distill.teachers import Teacher


@dataclass(frozen=True)
class Pair:
    """A student and a teacher that were checked.

    Args:
        task: what both solve.
        objective: the losses, set up.
        capture: looks at what they want of the student, and at its answers.
        causal: whether in one of the models no position sees a later one.
    """

    task: Task
    objective: Objective
    capture: Capture
    causal: bool


def check_student(student: nn.Module) -> None:
    """Refuses what is no transformers model.

    Raises:
        ValueError: it is neither a PreTrainedModel nor a PeftModel.
    """
    if not isinstance(anatomy.unwrap(student), PreTrainedModel):
        raise ValueError(f"the student is a {type(student).__name__}; it must be a PreTrainedModel or a PeftModel.")


def pair(
    student: nn.Module,
    teacher: Teacher,
    losses_for: Callable[[Task], Iterable[Loss]],
    args: DistillationConfig,
    tokenizer: Any,
) -> Pair:
    """Sets up the losses for two models, and prepares the teacher for what they want.

    Args:
        student: a transformers model or PEFT wrapper; takes over the teacher's labels if nobody named its own.
        teacher: what it learns from.
        losses_for: the losses of a task.
        args: of the run; `greater_is_better` is set where a term chooses the best model.
        tokenizer: what made the inputs, or None.

    Raises:
        ValueError: what cannot work; the message names what was found and the call that cures it.
    """
    teacher.check_training(args)
    if teacher.model is not None:
        students.adopt_labels(anatomy.unwrap(student), anatomy.unwrap(teacher.model))
    task = find_task(anatomy.unwrap(student))
    objective = Objective(losses_for(task), args.balance)
    mine, theirs = anatomy.describe(student), teacher.shape
    objective.setup(mine, theirs, task)
    chosen_by = args.metric_for_best_model or ""
    if any(f"_{chosen_by}".endswith(f"_{name}") for name in objective.losses):  # a split's name may stand before it
        args.greater_is_better = False  # the Trainer knows a loss by the ending of its name alone
    answers = set() if task is Task.EMBEDDING else {LOGITS}
    compared = teacher.model is not None and theirs is not None and theirs.classes == mine.classes
    wanted = objective.wanted_of_teacher | (answers if compared else set())
    teacher.only_evaluated = frozenset(wanted - objective.wanted_of_teacher)
    teacher.compared_heads = objective.compared_heads
    teacher.prepare(student, frozenset(wanted), args.device, tokenizer)
    _check_top_k(objective, mine, teacher)
    _check_trust(objective, teacher)
    for number, who in ((None, teacher), *enumerate(teacher.members)):
        heard = [loss for loss in objective if loss.teacher == number]
        checks.check_temperature(heard, who.compared_at, task)
    capture = Capture(student, objective.wanted_of_student | answers)
    _check_maps(student, objective)
    return Pair(task, objective, capture, mine.causal or (theirs is not None and theirs.causal))


def _check_maps(student: nn.Module, objective: Objective) -> None:
    """A map that a block hands out comes after the dropout of attention, whose zeros drown what is compared."""
    name, share = anatomy.attention_dropout(student)
    looked_at = any(signal.kind == "attention" for signal in objective.wanted_of_student)
    if looked_at and share > 0 and anatomy.hands_out_maps(student):
        raise ValueError(
            f"{type(anatomy.unwrap(student)).__name__} hands out its attention maps after a dropout of {share}, which "
            f"would be most of the loss. Load the student with {name}=0.0."
        )


def _check_trust(objective: Objective, teacher: Teacher) -> None:
    """A value of a whole batch cannot be weighed row by row."""
    related = next((loss for loss in objective if loss.relational and loss.asks_teacher), None)
    if teacher.says_trust and related is not None:
        raise ValueError(
            f"{type(related).__name__} compares the rows of a batch with one another, and {type(teacher).__name__} "
            "says how much each row counts. Use losses that compare example by example, such as SoftTargets."
        )


def _check_top_k(objective: Objective, student: ModelShape, teacher: Teacher) -> None:
    """After `prepare`, which has seen that the words are the same: only padding can still differ."""
    if teacher.top_k is None or LOGITS not in objective.wanted_of_teacher:
        return
    for loss in objective:
        if loss.takes_top_k or all(theirs != LOGITS for _, theirs in loss.pairs()):
            continue
        standardized = "(standardize=True)" if getattr(loss, "standardize", False) else ""
        raise ValueError(
            f"{type(loss).__name__}{standardized} needs the teacher's logits of every class, and of this teacher "
            f"only the {teacher.top_k} largest of each position are known, with the rest as one class. Use "
            "SoftTargets, ReverseKL, GeneralizedJSD, SkewKL or TotalVariation, or cache all logits in another folder, "
            "without top_k."
        )
    theirs = None if teacher.shape is None else teacher.shape.classes
    if theirs is not None and theirs != student.classes:
        raise ValueError(
            f"the student's logits are of {student.classes} classes, the teacher's of {theirs}, and of those only the "
            f"{teacher.top_k} largest are known, with the rest as one class, and padding cannot be taken out of it. "
            f"Call student.resize_token_embeddings({theirs}) before, or cache all logits in another folder, "
            "without top_k."
        )


def compile_in_place(student: nn.Module, objective: Objective, args: DistillationConfig) -> None:
    """Compiles the student's blocks, and the losses before a vocabulary; small losses are slower compiled.

    Args:
        student: its blocks are compiled each by itself, so that its weights keep their names.
        objective: its losses.
        args: backend and mode.
    """
    options: dict[str, Any] = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
    for block in anatomy.find_blocks(student):
        if block._compiled_call_impl is None:
            block.compile(**options)
    if objective.of_vocabulary:
        objective.compile_formulas(**options)
