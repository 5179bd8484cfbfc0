"""`DistillationTrainer`: the flow, and nothing else."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, enable_full_determinism, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from hf_distill import anatomy, attachment, checks, hub, students
from hf_distill.batch import Batch, count_step
from hf_distill.capture import Capture
from hf_distill.card import CardFacts, render
from hf_distill.config import DistillationConfig
from hf_distill.losses import Loss, SoftTargets, TaskLoss
from hf_distill.losses.hidden_cosine import HiddenCosine
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, Signals
from hf_distill.tasks import PROBLEM_TYPES, Task, agreement, find_task
from hf_distill.teachers import ModelTeacher, Teacher
from hf_distill.teachers import load as load_teacher
from hf_distill.teachers.model import tokenizer_beside

logger = logging.getLogger(__name__)


class DistillationTrainer(Trainer):
    """A `transformers.Trainer` whose student learns from a frozen teacher.

    All that a Trainer does works as it does there. Each loss is logged under its own name, weighted, so that they add
    up to `loss`; evaluation adds `eval_agreement` with the teacher.

    To change something, subclass and override one method: `compute_loss`, `losses_for` (the default losses) or, in a
    `Teacher` of your own, `observe`.

    Args:
        model: the student: a transformers model, a PeftModel, or a model id, which is loaded with the teacher's head
            and labels.
        teacher: a transformers model in eval mode, a model id, or a `Teacher`.
        losses: what the student learns; None for `losses_for` the task.
        args: a `DistillationConfig`; plain `TrainingArguments` are taken over.
        peft_config: makes the student a PeftModel.
        trainer_kwargs: the Trainer's others (data_collator, train_dataset, eval_dataset, processing_class, model_init,
            compute_metrics, callbacks, optimizers, ...).

    Raises:
        ValueError: what cannot work, before step 1; the message names what was found and the call that cures it.
    """

    loss_is_scaled_for_ga = True  # `Batch.mean` divides by the whole step, once and for every loss

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | None = None,
        teacher: PreTrainedModel | nn.Module | Teacher | str | None = None,
        losses: Iterable[Loss] | None = None,
        args: TrainingArguments | None = None,
        *,
        peft_config: Any = None,
        **trainer_kwargs: Any,
    ) -> None:
        if trainer_kwargs.get("compute_loss_func") is not None:
            raise ValueError("compute_loss_func sees no teacher. Pass a Loss in losses, or override compute_loss.")
        args = _own_arguments(args)
        self.teacher = _as_teacher(teacher, args)
        self._losses = None if losses is None else list(losses)
        self._peft_config = peft_config
        self._processing_class = trainer_kwargs.get("processing_class")
        self._terms: dict[str, Tensor] = {}
        self._terms_since = 0
        self._teacher_finite: Tensor | bool = True
        self._evaluated: list[Tensor] = []
        self._taught_until = 0
        self._grad_norm: Any = None
        self._in_checkpoint = False
        self._unpushed: str | None = None
        self.card_facts: CardFacts | None = None
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)  # projections are random
        if isinstance(model, str):
            model = students.load(model, like=_teacher_model(self.teacher, model))
            self._processing_class = self._processing_class or tokenizer_beside(model, local_files_only=False)
            trainer_kwargs["processing_class"] = self._processing_class
        if model is not None:
            model = self._make_student(model, args)
        super().__init__(model=model, args=args, **trainer_kwargs)
        self.model_accepts_loss_kwargs = False

    # What a subclass may change

    def losses_for(self, task: Task) -> list[Loss]:
        """The losses where none were given: labels and soft targets in equal parts, or the last hidden state."""
        if task is Task.EMBEDDING:
            return [HiddenCosine("last")]
        return [TaskLoss(weight=0.5), SoftTargets(temperature=2.0, weight=0.5)]

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Mapping[str, Tensor] | Tensor | None = None,
    ) -> Any:
        """The teacher is observed, the student is observed, the objective compares what was seen.

        Args:
            model: the student as it is wrapped (DDP, FSDP); its forward is called once.
            inputs: one micro-batch, labels included.
            return_outputs: whether to return the outputs too.
            num_items_in_batch: what the whole optimizer step holds, from `get_batch_samples`; None in evaluation.

        Returns:
            The loss, this micro-batch's share of the step's mean; with `return_outputs` also `{"logits": ...}`.
        """
        counts = num_items_in_batch if isinstance(num_items_in_batch, Mapping) else None
        batch = Batch(inputs, self.task, counts, self.args.world_size if counts else 1)
        with self.accelerator.autocast():
            teacher = self.teacher.observe(batch)
        outputs = self._observe_student(model, batch, teacher)
        self._note(outputs["terms"], outputs["logits"], teacher.get(LOGITS), batch)
        return (outputs["loss"], {"logits": outputs["logits"]}) if return_outputs else outputs["loss"]

    # The student and what is attached to it while it trains

    def _make_student(self, student: nn.Module, args: DistillationConfig) -> nn.Module:
        """Checks the pair, and attaches the objective: before the Trainer sees the model, so that it is part of it."""
        if not isinstance(anatomy.unwrap(student), PreTrainedModel):
            raise ValueError(
                f"the student is a {type(student).__name__}; it must be a PreTrainedModel or a PeftModel."
            )
        teacher = self.teacher.model
        if teacher is not None:
            _adopt_labels(anatomy.unwrap(student), anatomy.unwrap(teacher))
        attachment.release(anatomy.unwrap(student))
        attachment.release(student)
        if self._peft_config is not None:
            from peft import get_peft_model

            student = get_peft_model(student, self._peft_config)
        self.task = find_task(anatomy.unwrap(student))
        self.objective = Objective(self.losses_for(self.task) if self._losses is None else self._losses)
        self.objective.setup(anatomy.describe(student), self.teacher.shape, self.task)
        head = set() if self.task is Task.EMBEDDING else {LOGITS}
        wanted = self.objective.wanted_of_teacher | (head if teacher is not None else set())
        self.teacher.prepare(student, frozenset(wanted), args.device, self._processing_class)
        self._capture = Capture(student, self.objective.wanted_of_student | head)
        attachment.attach(student, self.objective, args.device)
        return student

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._make_student(super().call_model_init(trial), self.args)

    def _observe_student(self, model: nn.Module, batch: Batch, teacher: Signals) -> dict[str, Any]:
        """One call of the wrapped model runs the student and then the losses, so that DDP and FSDP see projections."""
        unwrapped = self.accelerator.unwrap_model(model)
        inputs = anatomy.accepted(unwrapped, batch.inputs)
        if self.task is not Task.SEQ2SEQ:  # there the decoder's inputs are made from the labels
            inputs.pop("labels", None)

        def student_and_objective(student: nn.Module, **kwargs: Any) -> dict[str, Any]:
            with self._capture:
                outputs = student.forward(**kwargs)
            seen = self._capture.take(outputs, batch)
            with self.accelerator.autocast():
                terms = self.objective(seen, teacher, batch)
            logits = seen.get(LOGITS)
            return {
                "loss": torch.stack(list(terms.values())).sum(),
                "terms": {name: term.detach() for name, term in terms.items()},
                "logits": None if logits is None else logits.detach(),
            }

        with attachment.redirected(unwrapped, student_and_objective):
            return model(**inputs)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        arguments["dynamo_plugin"] = TorchDynamoPlugin(backend="no")  # a redirected forward is compiled by blocks
        if self.args.ddp_find_unused_parameters is None and self.model is not None and not self.objective.uses_head:
            arguments["kwargs_handlers"][0].find_unused_parameters = True
        return arguments

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.model_wrapped is self.model:
            attachment.forget_evaluation(self.model, self.accelerator)
        if self.model.objective is not self.objective:  # another trainer had the student since
            attachment.attach(self.model, self.objective, self.args.device)
        if self.args.torch_compile:
            for block in anatomy.find_blocks(self.model):
                if block._compiled_call_impl is None:
                    block.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        self._terms, self._terms_since = {}, self.state.global_step
        self._taught_until, self._grad_norm = self.state.global_step, None
        return super()._prepare_for_training(*args, **kwargs)

    # Counting, noting, logging

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one optimizer step, and what they hold over all processes."""
        samples = list(islice(epoch_iterator, num_batches))
        if not samples:
            return samples, None
        return samples, count_step([self._prepare_inputs(each) for each in samples], self.task, self.args.world_size)

    def _note(self, terms: Mapping[str, Tensor], logits: Any, teacher_logits: Any, batch: Batch) -> None:
        if self.model.training:
            for name, term in terms.items():
                self._terms[name] = self._terms[name] + term if name in self._terms else term
            if teacher_logits is not None:
                self._teacher_finite = self._teacher_finite & teacher_logits.isfinite().all()
            return
        sums = torch.stack([*terms.values(), torch.ones_like(next(iter(terms.values())))]).float() * batch.rows
        if logits is not None and teacher_logits is not None and self.task is not Task.REGRESSION:
            agreed = batch.per_example(agreement(batch.align(logits), batch.align(teacher_logits), self.task))
            sums = torch.cat([sums, agreed.sum(0).to(sums)])
        self._evaluated.append(sums)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds every term under its own name to what the Trainer logs, averaged over steps and processes."""
        if "loss" in logs and self._terms:
            steps = max(self.state.global_step - self._terms_since, 1)
            means = self.accelerator.reduce(torch.stack(list(self._terms.values())), "mean") / steps
            logs = {**logs, **dict(zip(self._terms, means.tolist(), strict=True))}
            self._terms, self._terms_since = {}, self.state.global_step
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        self._grad_norm = grad_norm
        due = self.control.should_log or self.control.should_save or self.control.should_evaluate
        if due or self.state.global_step == 1 or self.args.device.type == "cpu":  # elsewhere it waits for the device
            self._check_finite()
        if self.state.global_step != self._taught_until:  # at the end of an epoch this is called once more
            self._taught_until = self.state.global_step
            self.teacher.step()
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._check_finite()
        return super()._finalize_training(*args, **kwargs)

    def _check_finite(self) -> None:
        step, grad_norm = self.state.global_step, self._grad_norm
        if not self._teacher_finite:
            raise FloatingPointError(
                f"the teacher's logits are not finite by step {step}. Load it in float32, or check its weights."
            )
        broken = [name for name, term in self._terms.items() if not term.isfinite()]
        scaled = self.accelerator.scaler is not None  # float16 skips a step whose gradient overflows
        if not broken and not scaled and grad_norm is not None and not torch.as_tensor(grad_norm).isfinite():
            broken = ["the gradient of the loss"]
        if broken:
            raise FloatingPointError(
                f"{', '.join(broken)} is not finite by step {step}; nothing was saved since. Lower learning_rate "
                "or the weight of that loss, or train in float32 or bfloat16."
            )

    # Evaluation

    def prediction_step(
        self, model: nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """As in the Trainer, with the objective as the loss; also without labels, where no loss asks for them."""
        inputs = self._prepare_inputs(inputs)
        labels = tuple(inputs[name] for name in self.label_names if inputs.get(name) is not None)
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.objective.needs_labels and not labels:
                known = anatomy.accepted(self.accelerator.unwrap_model(model), inputs)
                loss, logits = None, anatomy.logits_of(model(**known), self.task)
            else:
                loss, logits = self._evaluate_own_rows(model, inputs)
        if prediction_loss_only:
            return loss, None, None
        if self.task is Task.SPAN:
            logits = tuple(logits.unbind(1))
        if not labels:
            return loss, logits, None
        return loss, logits, labels[0] if len(labels) == 1 else labels

    def _evaluate_own_rows(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Loss and logits, without the rows that fill up the last batch of several processes and count twice."""
        rows, loader = Batch(inputs, self.task).rows, self.accelerator.gradient_state
        own = rows
        if self.args.world_size > 1 and loader.end_of_dataloader and loader.remainder > 0:
            own = min(max(loader.remainder - rows * self.args.process_index, 0), rows)
        if 0 < own < rows:
            inputs = {name: value[:own] if _is_rows(value, rows) else value for name, value in inputs.items()}
        loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        logits = outputs["logits"]
        if own == 0 and self._evaluated:
            self._evaluated[-1].zero_()
        elif own < rows and logits is not None:  # every process hands over equally many; the Trainer drops the rest
            logits = torch.cat([logits, logits.new_zeros(rows - own, *logits.shape[1:])])
        return loss, logits

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer, with every term and the agreement with the teacher among the metrics."""
        self._evaluated = []
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix") or (args[2] if len(args) > 2 else "eval")
        if self._evaluated:
            sums = self.accelerator.reduce(torch.stack(self._evaluated).double().sum(0))
            names = list(self.objective.losses)
            means = (sums / sums[len(names)]).tolist()
            output.metrics.update({f"{prefix}_{name}": mean for name, mean in zip(names, means, strict=False)})
            if len(sums) > len(names) + 1:
                output.metrics[f"{prefix}_agreement"] = float(sums[-2] / sums[-1].clamp(min=1))
        self._evaluated = []
        return output

    # Data

    def _validate_args(self) -> None:
        super()._validate_args()
        self._check_data()

    def _check_data(self) -> None:
        models = {"student": self.model, "teacher": self.teacher.model}
        for name in ("train_dataset", "eval_dataset"):
            known = {who: model for who, model in models.items() if model is not None}
            in_column = self.objective.needs_labels and not checks.makes_labels(self.data_collator)
            checks.check_dataset(getattr(self, name), known, in_column, name)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        new = [name for name in self.teacher.input_names if name not in self._signature_columns]
        self._signature_columns += new

    # Saving and loading

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A plain student. Checkpoints also hold the objective; no folder holds pickled arguments or a token."""
        folder = Path(output_dir or self.args.output_dir)
        heads = attachment.split_state(self.objective, state_dict)
        token, self.args.hub_token = self.args.hub_token, None
        gathered = self.is_fsdp_enabled or self.is_deepspeed_enabled  # and split already
        try:
            with nullcontext() if gathered else attachment.detached(self.model):
                super()._save(str(folder), state_dict)
        finally:
            self.args.hub_token = token
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            if self._in_checkpoint:
                attachment.save_objective(heads, folder)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._in_checkpoint = True
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self._in_checkpoint = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load = super()._load_from_checkpoint
        self._restore(resume_from_checkpoint, lambda: load(resume_from_checkpoint, model))

    def _load_best_model(self) -> None:
        self._restore(self.state.best_model_checkpoint, super()._load_best_model)

    def _restore(self, checkpoint: str, stock: Callable[[], None]) -> None:
        """Student first, without the objective, then the objective strictly."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # sharded as one module, objective included
            stock()
            return
        with attachment.detached(self.model):
            if isinstance(self.model, PreTrainedModel):
                attachment.reload(self.model, checkpoint)
            else:
                stock()
        attachment.load_objective(self.objective, checkpoint)

    # The Hub

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes README.md from what was measured: `card_facts` where they were set, else what the trainer knows."""
        if self.is_world_process_zero():
            card = render(self.card_facts or self.own_facts())
            card.save(Path(self.args.output_dir) / "README.md")

    def own_facts(self) -> CardFacts:
        """What this trainer knows for a card: labels, losses, settings, versions. `run` adds what it measured."""
        student, args = anatomy.unwrap(self.model), self.args
        shape, names = anatomy.describe(student), anatomy.named_labels(student)
        steps_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        return CardFacts(
            task=str(self.task),
            student=f"{type(student).__name__}, {shape.layers} layers, width {shape.width}",
            teacher=None if self.teacher.model is None else anatomy.unwrap(self.teacher.model).name_or_path or None,
            losses=[
                {"name": type(loss).__name__, "weight": loss.weight, "config": loss.config, "citation": loss.citation}
                for loss in self.objective
            ],
            labels=[names[index] for index in sorted(names)] if names else [],
            train_split="train",
            train_rows=len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None,
            steps=self.state.global_step,
            epochs=self.state.epoch,
            batch_size=steps_size,
            learning_rate=args.learning_rate,
            precision=self.accelerator.mixed_precision if self.accelerator.mixed_precision != "no" else "float32",
            seed=args.seed,
            device=args.device.type,
            versions={name: version(name) for name in ("hf-distill", "transformers", "torch", "datasets")},
        )

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository before step 1, so that a token that may not write is not found out after the last."""
        if self.is_world_process_zero():
            private = self.args.hub_private_repo if private is None else private
            name, token = self._repository_name, token or self.args.hub_token
            self.hub_model_id = hub.make_repository(name, private=private, token=token)

    @property
    def _repository_name(self) -> str:
        return self.args.hub_model_id or Path(self.args.output_dir).absolute().name

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Saves the student with its card and uploads what `hub.stage` allows, and nothing else.

        Args:
            commit_message: of the one commit.
            blocking: accepted for the Trainer's sake; the upload is always waited for, so that it cannot fail unseen.
            token: instead of `args.hub_token`.
            kwargs: `revision` and `private`, as in the Trainer.

        Returns:
            The URL of the commit; None on other processes than the first.
        """
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card()
        return self._push(self.args.output_dir, commit_message, token, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != "end":
            self.create_model_card()
            (Path(checkpoint_folder) / "README.md").write_bytes(
                (Path(self.args.output_dir) / "README.md").read_bytes()
            )
            self._unpushed = None
            try:
                self._push(checkpoint_folder, f"Training in progress, step {self.state.global_step}", None)
            except hub.HubError as error:  # the Hub may be back at the next save: a fault of its own ends no training
                self._unpushed = f"{checkpoint_folder} is saved and not on the Hub: {error}"
                logger.warning(self._unpushed)

    def _finish_current_push(self) -> None:
        if self._unpushed:
            raise hub.HubError(self._unpushed)

    def _push(
        self,
        folder: str,
        message: str | None,
        token: str | None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str:
        return hub.push(
            folder,
            self._repository_name,
            private=self.args.hub_private_repo if private is None else private,
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            commit_message=message or "End of training",
        )


def _is_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows


def _own_arguments(args: TrainingArguments | None) -> DistillationConfig:
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


def _as_teacher(teacher: Any, args: DistillationConfig) -> Teacher:
    if teacher is None:
        raise ValueError(
            "no teacher. Pass teacher=, a model in eval mode, a model id, or a hf_distill.teachers.Teacher."
        )
    if isinstance(teacher, Teacher):
        return teacher
    if isinstance(teacher, str):
        teacher = load_teacher(teacher)
    return ModelTeacher(teacher, label_map=args.label_map)


def _teacher_model(teacher: Teacher, student: str) -> nn.Module:
    if teacher.model is None:
        raise ValueError(
            f"the student {student!r} cannot be loaded by id: this teacher has no head to copy. Load it first."
        )
    return teacher.model


def _adopt_labels(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """A student whose labels nobody named gets the teacher's names and problem type; they are the same head."""
    if student.config.num_labels != teacher.config.num_labels:
        return
    if anatomy.named_labels(student) is None and anatomy.named_labels(teacher) is not None:
        student.config.id2label, student.config.label2id = teacher.config.id2label, teacher.config.label2id
    task = find_task(teacher)
    if student.config.problem_type is None and find_task(student).per_example and task in PROBLEM_TYPES:
        student.config.problem_type = PROBLEM_TYPES[task]
