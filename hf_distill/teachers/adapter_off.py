"""The student's own base model, its adapters off, as the teacher: no second copy in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import Signal, Signals
from hf_distill.teachers.model import ModelTeacher


class AdapterOffTeacher(ModelTeacher):
    """The model under a student's LoRA adapters, which are switched off while it answers:

        student = peft.get_peft_model(model, LoraConfig(task_type="SEQ_CLS"))
        trainer = DistillationTrainer(student, AdapterOffTeacher(student), losses, args, ...)

    It answers without dropout, whatever mode the student is in, and gives what any model gives, layers included.
    Modules that PEFT trains whole beside the adapters (`modules_to_save`, with `task_type="SEQ_CLS"` the head) answer
    as they were before: where losses look at logits, take a model whose head was trained.

    A student whose weights are sharded (FSDP, DeepSpeed) cannot be its own teacher so: the teacher is run beside the
    wrapped student.

    Args:
        student: a PeftModel, or the model that the trainer makes one of by `peft_config`.
    """

    known_as = "the model that it was before its adapters"

    def __init__(self, student: nn.Module) -> None:
        super().__init__(anatomy.unwrap(student))
        self._student: Any = student

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`. The student stays as it is: it is trained, and moved by the trainer.

        Raises:
            ValueError: the student has no adapters or is another one; without them it is not the model that it was.
        """
        name = type(self.model).__name__
        if anatomy.unwrap(student) is not self.model:
            raise ValueError(
                f"AdapterOffTeacher was made of another {name} than the student. Pass the same model to both."
            )
        if not hasattr(student, "disable_adapter"):
            raise ValueError(
                f"AdapterOffTeacher: the student ({name}) has no adapters to switch off. Pass a PeftModel, or "
                "peft_config to the trainer."
            )
        self._student = student
        self._check_base()
        self._look(wanted, None)

    def _check_base(self) -> None:
        """Refuses a base that is changed by the training, or was when the adapters were made."""
        config = self._student.active_peft_config
        start, what = getattr(config, "init_lora_weights", True), None
        if config.is_prompt_learning:
            what = f"{config.peft_type} changes what the base reads"
        elif isinstance(start, str) and start.startswith(("pissa", "olora", "corda")):
            what = f"init_lora_weights={start!r} changes the base"
        if what is not None:
            raise ValueError(f"AdapterOffTeacher: {what}. Take adapters that leave it as it is, LoraConfig(r=8).")
        kept = {
            id(weight)
            for name, module in self.model.named_modules()
            if name.rpartition(".")[2] == "original_module"  # PEFT lets it train while adapters are off
            for weight in module.parameters()
        }
        with self._adapters_off():
            trained = [n for n, w in self.model.named_parameters() if w.requires_grad and id(w) not in kept]
        if trained:
            raise ValueError(
                f"AdapterOffTeacher: {trained[0]} belongs to the base and is trained, so that the teacher would "
                "change too. Freeze it, name its module in modules_to_save, or take bias='none'."
            )

    @torch.no_grad()
    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`."""
        modes = [module for module in self.model.modules() if module.training]
        for module in modes:
            module.training = False
        try:
            with self._adapters_off():
                return super().observe(batch)
        finally:
            for module in modes:
                module.training = True

    @contextmanager
    def _adapters_off(self) -> Iterator[None]:
        """PEFT freezes and thaws whole adapters on the way; what was trained before is trained afterwards."""
        trained = [(weight, weight.requires_grad) for weight in self.model.parameters()]
        try:
            with self._student.disable_adapter():
                yield
        finally:
            for weight, was in trained:
                weight.requires_grad_(was)
