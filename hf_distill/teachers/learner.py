"""A model that is trained beside the student, with losses, an optimizer and a learning rate of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler

from hf_distill import anatomy, vocabulary
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.losses import Loss
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, ModelShape, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.model import check_pair, tokenizer_beside

_RATES = "learning_rates"
_NUMBER = "number"  # of an optimizer's state that is no tensor there
_UNSTEADY = ("reduce_lr_on_plateau", "greedy")


class Learner:
    """Looks at a batch with gradient, learns from it, and makes its own optimizer step: what a `Trainer` does for one.

    Args:
        model: a transformers model or PEFT wrapper. Where nothing of it is trained, as in a teacher that was frozen,
            all of it is.
        losses: what it learns; the same kind as a student's, and copied.
        learning_rate: at the peak of its schedule; None for that of the training.
        label_map: see `ModelTeacher`; its logits are given in the order of the student's labels.
    """

    def __init__(
        self,
        model: nn.Module,
        losses: Sequence[Loss],
        learning_rate: float | None = None,
        label_map: Literal["by_name"] | None = None,
    ) -> None:
        self.model = model
        self.objective = Objective(losses)
        self.learning_rate, self.label_map = learning_rate, label_map
        self.shape = anatomy.describe(model)
        self._optimizer: torch.optim.Optimizer | None = None

    def prepare(
        self,
        student: nn.Module,
        wanted: frozenset[Signal],
        device: torch.device,
        tokenizer: Any,
        teacher: ModelShape | None,
    ) -> None:
        """Sets up its losses, and refuses what `ModelTeacher` does.

        Args:
            student: what it is trained beside.
            wanted: what others want to see of it.
            device: where it runs.
            tokenizer: what made the inputs, or None.
            teacher: what it learns from is, if it is a model.

        Raises:
            ValueError: quantised weights, another task, labels or vocabulary, losses that do not fit.
        """
        if getattr(self.model, "is_quantized", False) or getattr(self.model, "hf_device_map", None):
            raise ValueError(
                f"{self.shape.name} is quantised or spread over devices and cannot be trained. Load it whole."
            )
        order = check_pair(
            self.model, self.label_map, student, wanted, tokenizer, tokenizer_beside(self.model), device
        )
        task = find_task(anatomy.unwrap(self.model))
        self.objective.setup(self.shape, teacher, task)
        if not any(weight.requires_grad for weight in self.model.parameters()):
            self.model.requires_grad_(True)
        self.model.to(device)
        self.objective.to(device)
        answers = set() if task is Task.EMBEDDING else {LOGITS}
        self._capture = Capture(self.model, wanted | self.objective.wanted_of_student | answers, order)
        self._parts = nn.ModuleDict({"model": self.model, "objective": self.objective})
        self._optimizer = None

    @staticmethod
    def check_training(args: TrainingArguments) -> None:
        """Refuses what one `Trainer` can do and a model beside it cannot.

        Raises:
            ValueError: float16, or a schedule that waits for an evaluation.
        """
        if args.fp16:
            raise ValueError("PeerTeacher does not scale its gradients for float16. Train with bf16, or in float32.")
        if (kind := SchedulerType(args.lr_scheduler_type)) in _UNSTEADY:
            raise ValueError(
                f"lr_scheduler_type={kind.value!r} follows the evaluation, and that of a model beside the student is "
                'not known. Take "linear", "cosine" or another that is known beforehand.'
            )

    def begin(self, args: TrainingArguments, steps: int) -> None:
        """Makes the optimizer and the schedule that the settings ask for.

        Args:
            args: `optim`, `learning_rate`, `weight_decay`, `lr_scheduler_type`, `warmup_steps`, ...
            steps: of the whole training.
        """
        decayed = set(Trainer.get_decay_parameter_names(None, self._parts))  # type: ignore[arg-type]
        trained = [(name, weight) for name, weight in self._parts.named_parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for name, weight in trained if name in decayed], "weight_decay": args.weight_decay},
            {"params": [weight for name, weight in trained if name not in decayed], "weight_decay": 0.0},
        ]
        make, options = Trainer.get_optimizer_cls_and_kwargs(args, self.model)
        if self.learning_rate is not None:
            options = options | {"lr": self.learning_rate}
        self._optimizer = make(groups, **options)
        self._schedule = get_scheduler(
            args.lr_scheduler_type,
            self._optimizer,
            num_warmup_steps=args.get_warmup_steps(steps),
            num_training_steps=steps,
            scheduler_specific_kwargs=args.lr_scheduler_kwargs,
        )

    def look(self, batch: Batch, learning: bool) -> Signals:
        """What it says of a batch; in train mode and with its graph where it will learn from it."""
        self.model.train(learning)
        self.objective.train(learning)
        inputs = vocabulary.inputs_for(self.model, batch, None)  # all positions: others look at them too
        if "use_cache" in anatomy.forward_names(self.model):
            inputs["use_cache"] = False
        outputs = None
        with self._capture:
            outputs = self.model(**inputs)
        return self._capture.take(outputs, batch)

    def learn(self, seen: Signals, teacher: Signals, batch: Batch, progress: float) -> None:
        """Adds the gradient of its losses to what the optimizer step has so far.

        Args:
            seen: from `look`.
            teacher: what it learns from, without gradient.
            batch: its counts make the terms shares of the whole step's mean.
            progress: of the training, 0 to 1, for weights that are schedules.
        """
        self.objective.progress = progress
        terms = self.objective(seen, teacher, batch)
        total = torch.stack(list(terms.values())).sum()
        if total.requires_grad:
            with torch.autocast(total.device.type, enabled=False):
                total.backward()

    def step(self, max_grad_norm: float, processes: int) -> None:
        """One optimizer step with the gradient so far, averaged over the processes and clipped."""
        assert self._optimizer is not None, "begin() comes first"
        weights = [weight for weight in self._parts.parameters() if weight.grad is not None]
        if processes > 1:
            _average([weight.grad for weight in weights], processes)
        if max_grad_norm > 0:
            nn.utils.clip_grad_norm_(weights, max_grad_norm)
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """Its weights, its losses' and its optimizer's, by name."""
        found = _tensors(self._parts)
        if self._optimizer is None:
            return found
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        found[_RATES] = torch.tensor(rates, dtype=torch.float64)
        for index, values in self._optimizer.state_dict()["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{index}.{name}"] = value
                elif value is not None:
                    kind = torch.float64 if isinstance(value, float) else None
                    found[f"optimizer.{index}.{name}.{_NUMBER}"] = torch.tensor(value, dtype=kind)
        return found

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Takes over the weights of `state`.

        Raises:
            ValueError: they are of another model.
        """
        mine = _tensors(self._parts)
        for name, tensor in mine.items():
            if name not in state or state[name].shape != tensor.shape:
                found = tuple(state[name].shape) if name in state else "missing"
                raise ValueError(
                    f"the checkpoint is of other models beside the student: {name} of {self.shape.name} is {found} "
                    f"there and {tuple(tensor.shape)} here. Resume with those that wrote it, or start anew."
                )
            tensor.copy_(state[name])

    def load_optimizer(self, state: Mapping[str, Tensor], steps: int) -> None:
        """Goes on as after so many steps; comes after `begin`."""
        assert self._optimizer is not None, "begin() comes first"
        values: dict[int, dict[str, Any]] = {}
        for path, tensor in state.items():
            if path.startswith("optimizer."):
                index, name = path.split(".")[1:3]
                values.setdefault(int(index), {})[name] = tensor.item() if path.endswith(_NUMBER) else tensor
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": values})
        for group, rate in zip(self._optimizer.param_groups, state[_RATES].tolist(), strict=True):
            group["lr"] = rate
        self._schedule.last_epoch = steps


def weight_like_labels(model: nn.Module) -> float:
    """What `SoftTargets` weighs to count as `TaskLoss` does: of several labels that one is a mean, and this one a sum.

    Args:
        model: a transformers model or PEFT wrapper.
    """
    several = find_task(anatomy.unwrap(model)) is Task.MULTI_LABEL
    return 1.0 / anatomy.describe(model).classes if several else 1.0


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, tied ones once, and the buffers that are saved."""
    saved = module.state_dict().keys()
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.data for name, tensor in named.items() if name in saved}


def _average(gradients: list[Any], processes: int) -> None:
    """Over the processes, all in one exchange."""
    flat = torch.cat([gradient.flatten().float() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= processes
    for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
