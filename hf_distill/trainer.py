"""`DistillationTrainer`: the flow, and nothing else."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, enable_full_determinism, set_seed
from transformers.trainer import TRAINING_ARGS_NAME

from hf_distill import anatomy, attachment, checks, data, own_rows, sampling, students, vocabulary
from hf_distill.batch import Batch, count_step, host
from hf_distill.card import CardFacts, render
from hf_distill.config import DistillationConfig, take_over
from hf_distill.hub.publishing import Publication
from hf_distill.losses import Loss, SoftTargets, TaskLoss
from hf_distill.losses.hidden_cosine import HiddenCosine
from hf_distill.pairing import check_student, compile_in_place, pair
from hf_distill.profiling import STEP, part
from hf_distill.signals import LOGITS, Signals
from hf_distill.tasks import Task
from hf_distill.teachers import Teacher
from hf_distill.teachers.given import as_teacher, model_inside
from hf_distill.teachers.model import tokenizer_beside
from hf_distill.terms import EvaluatedTerms, TrainedTerms
from hf_distill.training_facts import training_facts


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

    loss_is_scaled_for_ga = False  # so that the Trainer treats a subclass's own term as it does everywhere

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
        args = take_over(args)
        self.teacher = as_teacher(teacher, args.label_map)
        self._losses = losses if losses is None or isinstance(losses, Loss) else list(losses)
        self._peft_config = peft_config
        self._processing_class = trainer_kwargs.get("processing_class")
        self._trained, self._evaluated = TrainedTerms(), EvaluatedTerms()
        self._noted: TrainedTerms | EvaluatedTerms | None = None  # where terms go now
        self._counts: Mapping[str, Tensor] | None = None  # what the optimizer step under way holds
        self._balance_now, self._taught_until, self._in_checkpoint = False, 0, False
        self._grad_norm: Any = None
        self._publication, self.card_facts = Publication(args), None  # the facts: where somebody measured more
        enable_full_determinism(args.seed) if args.full_determinism else set_seed(args.seed)  # projections are random
        if isinstance(model, str):
            model = students.load(model, like=model_inside(self.teacher, model))
            self._processing_class = self._processing_class or tokenizer_beside(model, local_files_only=False)
            trainer_kwargs["processing_class"] = self._processing_class
        if model is not None:
            model = self._make_student(model, args)
        super().__init__(model=model, args=args, **trainer_kwargs)
        self.model_accepts_loss_kwargs = False
        if self.optimizer is not None:
            attachment.check_optimizer(self.optimizer, self.objective)

    # What a subclass may change

    def losses_for(self, task: Task) -> list[Loss]:
        """The losses where none were given: labels and soft targets in equal parts, or the last hidden state."""
        if task is Task.EMBEDDING:
            return [HiddenCosine("last")]
        return [TaskLoss(weight=0.5), SoftTargets(temperature=self.teacher.compared_at or 2.0, weight=0.5)]

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
            num_items_in_batch: what the whole optimizer step holds, from `get_batch_samples`; need not be passed on.

        Returns:
            The loss; with `return_outputs` also `{"logits": ...}`, detached. In training it is this micro-batch's
            share of the step's mean times the number of micro-batches, by which the Trainer divides, so that a
            subclass may add a mean of its own.
        """
        counts = num_items_in_batch if isinstance(num_items_in_batch, Mapping) else self._counts
        processes, step = self.args.world_size if counts else 1, self.state.global_step
        training = model.training and step > 0  # in the first step all that the teacher says is looked at, and checked
        needs_all = return_outputs or self.is_fsdp_enabled or self.is_deepspeed_enabled  # sharded heads
        counted = model.training and not needs_all and self.objective.reads_counted_only
        batch = Batch(inputs, self.task, counts, processes, step, self._causal, training, counted)
        with part("teacher"), self.accelerator.autocast():
            teacher = self.teacher.observe(batch)
        outputs = self._observe_student(model, batch, teacher)
        if self._noted is not None:
            self._noted.add(batch, outputs["terms"], outputs["logits"], teacher)
        loss = outputs["loss"] if self._counts is None else outputs["loss"] * self.current_gradient_accumulation_steps
        return (loss, {"logits": outputs["logits"]}) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """As in the Trainer; what the step holds is kept for `compute_loss`."""
        self._counts, self._noted = num_items_in_batch, self._trained
        try:
            with part(STEP):
                return super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._counts = self._noted = None

    # The student and what is attached to it while it trains

    def _make_student(self, student: nn.Module, args: DistillationConfig) -> nn.Module:
        """Checks the pair, and attaches the objective: before the Trainer sees the model, so that it is part of it."""
        check_student(student)
        attachment.release(anatomy.unwrap(student))
        attachment.release(student)
        if self._peft_config is not None:
            from peft import get_peft_model

            student = get_peft_model(student, self._peft_config)
        own = self._losses
        losses_for = self.losses_for if own is None else lambda task: own
        made = pair(student, self.teacher, losses_for, args, self._processing_class)
        self.task, self.objective, self._capture, self._causal = made.task, made.objective, made.capture, made.causal
        attachment.attach(student, self.objective, args.device)
        return student

    def call_model_init(self, trial: Any = None) -> nn.Module:
        return self._make_student(super().call_model_init(trial), self.args)

    def _observe_student(self, model: nn.Module, batch: Batch, teacher: Signals) -> dict[str, Any]:
        """One call of the wrapped model runs the student and then the losses, so that DDP and FSDP see projections."""
        unwrapped = self.accelerator.unwrap_model(model)
        inputs = vocabulary.inputs_for(unwrapped, batch, self._capture.head)

        def student_and_objective(student: nn.Module, **kwargs: Any) -> dict[str, Any]:
            with part("student forward"), self._capture.counting(batch):
                outputs = student.forward(**kwargs)
            seen = self._capture.take(outputs, batch)
            with part("losses"), self.accelerator.autocast():
                said = {**teacher, **self.teacher.respond(batch, seen)}
                layers = anatomy.trainable_layers(student) if self._balance_now else None
                self._balance_now = False
                terms = self.objective(seen, said, batch, layers)
            logits = seen.get(LOGITS)
            return {
                "loss": torch.stack(list(terms.values())).sum(),
                "terms": {name: term.detach() for name, term in terms.items()},
                "logits": None if logits is None or batch.counted_only else logits.detach(),
            }

        with attachment.redirected(unwrapped, student_and_objective):
            return model(**inputs)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        arguments = super()._build_accelerator_args(**kwargs)
        arguments["dynamo_plugin"] = TorchDynamoPlugin(backend="no")  # a redirected forward is compiled by blocks
        if self.args.ddp_find_unused_parameters is None and self.model is not None and not self.objective.uses_head:
            arguments["kwargs_handlers"][0].find_unused_parameters = True
        return arguments

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        if self.model_wrapped is self.model:
            attachment.forget_evaluation(self.model, self.accelerator)
        evaluated = None if self.args.eval_strategy == "no" else self.eval_dataset
        self.teacher.check_evaluation(evaluated, self.data_collator)
        self.teacher.begin(self.args, max_steps)
        attachment.attach(self.model, self.objective, self.args.device)  # anew, after a training or another trainer
        if self.args.torch_compile:
            compile_in_place(self.model, self.objective, self.args)
        sampling.leave_on_host(train_dataloader)
        self._trained.restart(self.state.global_step)
        self._taught_until, self._grad_norm = self.state.global_step, None
        return super()._prepare_for_training(max_steps, train_dataloader, *args, **kwargs)

    # Counting, noting, logging

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one optimizer step, and what they hold over all processes."""
        with part("data"):
            samples = [self._prepare_inputs(host.moved(each, device)) for each in islice(epoch_iterator, num_batches)]
        if not samples:
            return samples, None
        step, args = self.state.global_step, self.args
        self.objective.progress = step / max(self.state.max_steps, 1)
        self._balance_now = args.balance is not None and step % args.balance_every == 0
        return samples, count_step(samples, self.task, args.world_size, self._causal)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds every term under its own name to what the Trainer logs, averaged over steps and processes."""
        if "loss" in logs:
            step = self.state.global_step
            logs = logs | self._trained.take(step, lambda sums: self.accelerator.reduce(sums, "mean"))
            if self.objective.changes_weights:
                logs |= {f"{name}_weight": weight for name, weight in self.objective.weights().items()}
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
        result = super()._finalize_training(*args, **kwargs)
        attachment.detach(self.model)
        return result

    def _check_finite(self) -> None:
        scaled = self.accelerator.scaler is not None  # float16 skips a step whose gradient overflows
        self._trained.check_finite(self.state.global_step, None if scaled else self._grad_norm)

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
        return loss, logits, labels[0] if len(labels) == 1 else labels or None

    def _evaluate_own_rows(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
        """Loss and logits, without the rows that fill up the last batch of several processes and count twice."""
        rows = Batch(inputs, self.task).rows
        own = own_rows.count(rows, self.accelerator)
        loss, outputs = self.compute_loss(model, own_rows.cut(inputs, rows, own), return_outputs=True)
        if own == 0:
            self._evaluated.drop_last()
        return loss, own_rows.fill(outputs["logits"], rows, own)

    def evaluation_loop(self, dataloader: Any, description: str, *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer, with every term and the agreement with the teacher among the metrics."""
        self._evaluated = self._noted = EvaluatedTerms()
        self.objective.eval()  # with the student, also where it is not attached
        try:
            output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        finally:
            self._noted = None
        prefix = kwargs.get("metric_key_prefix") or (args[2] if len(args) > 2 else "eval")
        means = self._evaluated.means(self.objective.losses, self.accelerator.reduce)
        output.metrics.update({f"{prefix}_{name}": mean for name, mean in means.items()})
        self._evaluated = EvaluatedTerms()
        return output

    # Data

    def _validate_args(self) -> None:
        super()._validate_args()
        models = {"student": self.model, "teacher": self.teacher.model}
        made, asked = checks.makes_labels(self.data_collator), self.objective.needs_labels
        self.data_collator = data.collator_for(self.data_collator, self.train_dataset, self.eval_dataset)
        for name, by in (("train_dataset", asked or self.teacher.needs_labels), ("eval_dataset", asked)):
            checks.check_dataset(getattr(self, name), models, "" if made else by, name, self.teacher.view)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        like = sampling.grouped(dataset, self.args, self.processing_class, lambda: int(self.state.epoch or 0))
        return super()._get_train_sampler(train_dataset) if like is None else like

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns += [name for name in self.teacher.input_names if name not in self._signature_columns]

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
                attachment.save_beside(heads, self.teacher.state(), folder)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._in_checkpoint = True
        try:
            super()._save_checkpoint(*args, **kwargs)
        finally:
            self._in_checkpoint = False

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load = super()._load_from_checkpoint
        self._restore(resume_from_checkpoint, lambda: load(resume_from_checkpoint, model))
        self.teacher.load_state(attachment.teacher_state(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._restore(self.state.best_model_checkpoint, super()._load_best_model)

    def _restore(self, checkpoint: str, stock: Callable[[], None]) -> None:
        """Student first, without the objective, then the objective strictly."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # sharded as one module, objective included
            stock()
        else:
            attachment.restore(self.model, self.objective, checkpoint, stock)

    # The Hub

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Writes README.md from what was measured: `card_facts` where they were set, else what the trainer knows."""
        if self.is_world_process_zero():
            render(self.card_facts or self.own_facts()).save(Path(self.args.output_dir) / "README.md")

    def own_facts(self) -> CardFacts:
        """What this trainer knows for a card: labels, losses, settings, versions. `run` adds what it measured."""
        return training_facts(self)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository before step 1, so that a token that may not write is not found out after the last."""
        if self.is_world_process_zero():
            self.hub_model_id = self._publication.make_repository(token, private)

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
        return self._publication.push(self.args.output_dir, commit_message, token, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != "end":
            self.create_model_card()
            self._publication.push_checkpoint(checkpoint_folder, self.state.global_step)

    def _finish_current_push(self) -> None:
        self._publication.finish()
