"""A frozen transformers model as the teacher."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from hf_distill import anatomy, checks, vocabulary
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import BOUNDARY, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher

ANSWERS = ("logits", "label_embeddings", "input_gradient")  # whose labels must stand in the student's order

logger = logging.getLogger(__name__)


def load(model: str, dtype: Any = torch.float32) -> PreTrainedModel:
    """A teacher by its Hub id or folder, with the class that its config names, in eval mode.

    Args:
        model: Hub id or folder.
        dtype: float32 unless asked otherwise: float16 crawls on a CPU, and bfloat16 does on many.

    Raises:
        ValueError: the config names no class of transformers.
    """
    names = AutoConfig.from_pretrained(model).architectures or []
    found = next((getattr(transformers, name) for name in names if hasattr(transformers, name)), None)
    if found is None:
        raise ValueError(f"{model}: its config names no class of transformers ({names}). Load the model and pass it.")
    return found.from_pretrained(model, dtype=dtype).eval()


@contextmanager
def named(what: str, source: str) -> Iterator[None]:
    """What transformers raises for a folder or a Hub id, in one line that says which one it was.

    Args:
        what: the knob that names it.
        source: the folder or Hub id.

    Raises:
        ValueError: instead of anything that is raised inside.
    """
    try:
        yield
    except Exception as error:  # it raises what it likes; the user needs the name and the reason
        raise ValueError(f"{what} '{source}': {' '.join(str(error).split()) or type(error).__name__}") from error


class ModelTeacher(Teacher):
    """A frozen model, run once a batch, looked at through hooks on the needed modules only.

    It is no submodule of anything: never saved, never put into train mode, never optimised.

    Args:
        model: a transformers model or PEFT wrapper, in eval mode.
        label_map: ``"by_name"`` reorders its logits where its labels are the student's in another order.
        tokenizer: its own tokenizer, to be compared with the student's; looked for beside its weights if left out.
    """

    def __init__(self, model: nn.Module, label_map: Literal["by_name"] | None = None, tokenizer: Any = None) -> None:
        self.model: nn.Module = model
        self.label_map = label_map
        self.tokenizer = tokenizer
        self.shape = anatomy.describe(model)
        self.input_names = anatomy.forward_names(model)
        self._capture: Capture | None = None
        self._trained_on: Capture | None = None  # what the losses look at; None if at nothing

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. Freezes the model and moves it to the device, unless it is quantised or spread out.

        Raises:
            ValueError: no weights, train mode, another task, labels or vocabulary, layers that are not there.
        """
        if BOUNDARY in wanted:
            raise ValueError(
                "BoundaryTargets looks at boundary samples, and a model alone makes none. Use schemes.adversarial, or "
                "pass teacher=augment.boundary.BoundaryTeacher(teacher)."
            )
        checks.check_teacher(self.model, student)
        order = self._checked_order(student, wanted, device, tokenizer)
        placed = getattr(self.model, "hf_device_map", None) or getattr(self.model, "is_quantized", False)
        self.model.requires_grad_(False)
        if not placed:
            self.model.to(device)
        self._look(wanted, order)

    def _look(self, wanted: frozenset[Signal], order: torch.Tensor | None) -> None:
        """Decides what is looked at; `order` as `check_pair` gives it."""
        self._capture = Capture(self.model, wanted, order)
        looked_at = wanted - self.only_evaluated
        self._trained_on = Capture(self.model, looked_at, order, ends=True) if looked_at else None

    def _checked_order(
        self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any
    ) -> torch.Tensor | None:
        own = self.tokenizer or tokenizer_beside(self.model)
        return check_pair(self.model, self.label_map, student, wanted, tokenizer, own, device, not self.view)

    @torch.no_grad()
    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`. Where the student trains, the model runs as far as the losses look.

        Raises:
            ValueError: somebody put the model into train mode since `prepare`.
        """
        assert self._capture is not None, "prepare() comes first"
        capture = self._trained_on if batch.training else self._capture
        if capture is None:
            return {}
        if self.model.training:
            raise ValueError("the teacher was put into train mode after it was checked. Keep it out of other modules.")
        inputs = vocabulary.inputs_for(self.model, batch, capture.head)
        if "use_cache" in self.input_names:
            inputs["use_cache"] = False
        outputs = None
        with capture.counting(batch):
            outputs = self.model(**inputs)
        return capture.take(outputs, batch)


def check_pair(
    teacher: nn.Module,
    label_map: Literal["by_name"] | None,
    student: nn.Module,
    wanted: frozenset[Signal],
    tokenizer: Any,
    own_tokenizer: Any,
    device: torch.device,
    same_inputs: bool = True,
) -> torch.Tensor | None:
    """Refuses a teacher and a student that do not belong together; weights are not looked at.

    Args:
        teacher: the model.
        label_map: see `ModelTeacher`.
        student: what will learn.
        wanted: what the losses ask the teacher for.
        tokenizer: what made the inputs, or None.
        own_tokenizer: the teacher's, or None.
        device: where the answer must be.
        same_inputs: whether both read the same token ids; else their vocabularies may differ.

    Returns:
        For each of the student's labels the index of it in the teacher's; None where that is the same.

    Raises:
        ValueError: another task, labels or vocabulary; no head where the losses look at answers.
    """
    checks.check_tasks(student, teacher)
    answers = any(signal.kind in ANSWERS for signal in wanted)
    shape = anatomy.describe(teacher)
    if answers and not shape.classes:
        raise ValueError(
            f"the losses look at the teacher's answers, and {shape.name} has no head. Use losses on hidden "
            "states, attention or relations, or a teacher with the student's head."
        )
    task = find_task(anatomy.unwrap(teacher))
    ordered = answers and (task.per_example or task is Task.TOKENS)
    order = checks.label_order(student, teacher, label_map) if ordered else None
    if same_inputs:
        checks.check_vocabulary(student, teacher, tokenizer, own_tokenizer)
    if order is None:
        return None
    logger.warning("label_map='by_name': the teacher's logits are reordered to the student's labels: %s", order)
    return torch.tensor(order, device=device)


def tokenizer_beside(model: nn.Module, local_files_only: bool = True) -> Any:
    """The tokenizer saved beside a model's weights; None where there is none.

    Args:
        model: its `name_or_path` says where it was loaded from.
        local_files_only: whether the network is left alone.
    """
    folder = anatomy.unwrap(model).name_or_path
    if not folder:
        return None
    try:
        found = AutoTokenizer.from_pretrained(folder, local_files_only=local_files_only)
    except Exception as error:  # each library of tokenizers raises its own
        logger.debug("no tokenizer beside %s: %s", folder, error)
        return None
    # Where there are no files, transformers makes a tokenizer of a few special tokens for some families.
    return found if set(found.get_vocab()) - set(found.all_special_tokens) else None
