"""Run-level switches, on top of transformers' own."""

import logging
from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from transformers import TrainingArguments

logger = logging.getLogger(__name__)


@dataclass(repr=False)  # a generated one would show hub_token, the inherited one hides it
class DistillationConfig(TrainingArguments):
    """`TrainingArguments` with what a distillation needs beside them.

    What belongs to one loss (temperature, layers, weight) is an argument of that loss and not of the run.

    Args:
        label_map: ``"by_name"`` reorders the teacher's logits where its labels are the student's in another order;
            None refuses another order.
        balance: ``"gradient_norm"`` keeps the terms' gradients on the student's last shared layer in the ratio of
            their weights; None leaves the weights as they are.
        balance_every: optimizer steps from one measurement of the gradients to the next. A measurement runs a part of
            the backward pass once for each term, on the first micro-batch of the step.

    Changed defaults: `train_sampling_strategy` is ``"auto"``: batches of examples of like length where they differ in
    length, which is told from a tokenised `datasets.Dataset` (or from its `length_column_name`), and ``"random"``
    elsewhere; `logging_steps` is 50; `logging_nan_inf_filter` is off, since a loss that is not finite stops the
    run instead of being logged as 0; `activation_checkpointing_kwargs` says `use_reentrant=False`, without which what
    is caught inside a block has no gradient; `dataloader_pin_memory` is on only where there is an accelerator to pin
    for.

    Raises:
        ValueError: a switch of the Trainer that would silently do nothing or the wrong thing here.
    """

    label_map: Literal["by_name"] | None = field(
        default=None, metadata={"help": "'by_name' reorders the teacher's logits to the student's label order."}
    )
    balance: Literal["gradient_norm"] | None = field(
        default=None, metadata={"help": "'gradient_norm' keeps the terms' gradients in the ratio of their weights."}
    )
    balance_every: int = field(default=100, metadata={"help": "Steps from one measurement of gradients to the next."})
    train_sampling_strategy: str = field(
        default="auto",
        metadata={
            "help": "'auto' puts examples of like length into a batch where they differ, else as 'random'.",
            "choices": ["auto", "random", "sequential", "group_by_length", "batch_rebalance"],
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every so many steps, or that share of the run."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must stay off: a loss that is not finite stops the run."}
    )
    dataloader_pin_memory: bool | None = field(
        default=None, metadata={"help": "Pin batches in memory. None does so where there is an accelerator."}
    )

    def __post_init__(self) -> None:
        if self.label_map not in (None, "by_name"):
            raise ValueError(f'label_map={self.label_map!r} is not known; use "by_name" or leave it out.')
        if self.balance not in (None, "gradient_norm"):
            raise ValueError(f'balance={self.balance!r} is not known; use "gradient_norm" or leave it out.')
        if self.balance_every < 1:
            raise ValueError(f"balance_every is {self.balance_every}; it must be at least 1.")
        if self.logging_nan_inf_filter:
            raise ValueError("logging_nan_inf_filter=True hides losses that are not finite as 0.0. Leave it out.")
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor does nothing here. Pass TaskLoss(label_smoothing=...) in losses.")
        if self.dataloader_pin_memory is None:
            self.dataloader_pin_memory = torch.accelerator.is_available() and not self.use_cpu
        super().__post_init__()
        if self.hub_strategy in ("checkpoint", "all_checkpoints"):
            raise ValueError(
                f'hub_strategy="{self.hub_strategy.value}" would upload optimizer states, and only models are '
                'published here. Use "every_save" or "end".'
            )
        kwargs = dict(self.activation_checkpointing_kwargs or {})  # type: ignore[arg-type]
        if kwargs.setdefault("use_reentrant", False):
            raise ValueError(
                "activation_checkpointing_kwargs use_reentrant=True: what is caught inside a block would have no "
                'gradient, without any error. Pass {"use_reentrant": False}.'
            )
        self.activation_checkpointing_kwargs = self.gradient_checkpointing_kwargs = kwargs


def take_over(args: TrainingArguments | None) -> DistillationConfig:
    """The arguments of a trainer: a `DistillationConfig` as it is, plain `TrainingArguments` as one, None as defaults.

    What does nothing here is warned of.
    """
    if args is None:
        args = DistillationConfig("distilled")
    if not isinstance(args, DistillationConfig):
        known = {f.name for f in fields(DistillationConfig) if f.init} - {"logging_nan_inf_filter"}
        others = [f for f in fields(args) if f.init and f.name not in known | {"logging_nan_inf_filter"}]
        if ignored := [f.name for f in others if getattr(args, f.name) != f.default]:
            logger.warning("%s of %s: does nothing here.", ", ".join(ignored), type(args).__name__)
        args = DistillationConfig(**{f.name: getattr(args, f.name) for f in fields(args) if f.name in known})
    if args.n_gpu > 1:
        logger.warning(
            "%d GPUs in one process: only the first is used. Start with torchrun or accelerate launch.", args.n_gpu
        )
        args._n_gpu = 1
    return args
