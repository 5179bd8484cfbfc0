"""Every scheme, on one process or two: what the student and the models beside it became, and after a cut.

    torchrun --nproc_per_node 2 tests/schemes/processes.py FOLDER

writes FOLDER/results.pt. The tests run it, and the same on one process with twice the batch.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from transformers import DataCollatorWithPadding, PrinterCallback, TrainerCallback
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parents[1]))
from runs import classifier, rows, weights, words

from hf_distill import DistillationConfig, DistillationTrainer, schemes, students
from hf_distill.evaluation import compute_metrics
from hf_distill.teachers import EnsembleTeacher, PairedCollator
from schemes.arranged import Stop

logging.set_verbosity_error()
logging.disable_progress_bar()

DATA = rows(32)
CUT = 5  # steps: in the middle of a stage of each scheme
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 2, "optim": "sgd", "learning_rate": 0.05, "lr_scheduler_type": "constant", "use_cpu": True,
    "per_device_eval_batch_size": 4, "disable_tqdm": True, "report_to": "none", "max_grad_norm": 0.2,
    "save_strategy": "steps", "save_steps": 1, "logging_steps": 1,
    "dataloader_drop_last": True,  # a batch that is cut short is filled up where there are two processes
}  # fmt: skip


def deep(blocks: int, seed: int = 0) -> Any:
    return classifier(seed=seed, num_hidden_layers=blocks).eval()


def data_free(source: str) -> Callable[[schemes.Plan], Any]:
    return lambda plan: schemes.data_free(plan, source, rows=32, length=6, rounds=2)


def unlabelled(plan: schemes.Plan) -> Any:
    return schemes.unlabelled(plan, confidence=[0.3, 0.0])


PAIRS = DATA.add_column("teacher_input_ids", DATA["input_ids"][:]).add_column(
    "teacher_attention_mask", DATA["attention_mask"][:]
)
NO_TEACHER: dict[str, Any] = {"teacher": None}
NO_TEXTS: dict[str, Any] = {"train_dataset": None, "student": lambda: students.keep_layers(deep(4, seed=1), [1, 3])}
MEAN: dict[str, Any] = {"mean": "probabilities", "temperature": 2.0}
TWO: dict[str, Any] = {"teacher": lambda: EnsembleTeacher([deep(4, seed=1), deep(3, seed=2)], **MEAN)}
RUNS: dict[str, tuple[Callable[[schemes.Plan], Any], dict[str, Any]]] = {
    "adversarial": (lambda plan: schemes.adversarial(plan, iterations=3), {}),
    "augmented_self": (lambda plan: schemes.augmented_self(plan, share=0.4), NO_TEACHER),
    "be_your_own_teacher": (lambda plan: schemes.be_your_own_teacher(plan, keep_exits=True), NO_TEACHER),
    "born_again": (lambda plan: schemes.born_again(plan, 2, ensemble=True), {}),
    "chain": (lambda plan: schemes.chain(plan, [3]), {}),
    "cross_modal": (schemes.cross_modal, {"train_dataset": PAIRS, "data_collator": PairedCollator(words(), words()),
                                          "eval_dataset": PAIRS}),
    "data_free, embeddings": (data_free("embeddings"), NO_TEXTS),
    "data_free, generator": (data_free("generator"), NO_TEXTS),
    "data_free, random_tokens": (data_free("random_tokens"), NO_TEXTS),
    "hints": (schemes.hints, {}),
    "iterated": (lambda plan: schemes.iterated(plan, drop=1), {}),
    "multi_teacher_triplet": (schemes.multi_teacher_triplet, TWO),
    "mutual": (lambda plan: schemes.mutual(plan, students=3), NO_TEACHER),
    "online": (schemes.online, {}),
    "progressive_self": (schemes.progressive_self, NO_TEACHER),
    "specialists": (lambda plan: schemes.specialists(plan, count=2), {}),
    "two_stage": (schemes.two_stage, {}),
    "unlabelled": (unlabelled, {}),
}  # fmt: skip


class Counting(TrainerCallback):
    """Steps of all stages."""

    steps = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1


def plan_of(folder: Path, batch: int, *callbacks: TrainerCallback, resume: bool = False, **more: Any) -> schemes.Plan:
    given = {"student": lambda: deep(2), "teacher": lambda: deep(4, seed=1), "train_dataset": DATA,
             "eval_dataset": DATA.select(range(9)), **more}  # fmt: skip
    student, teacher = (given.pop(name) for name in ("student", "teacher"))
    args = DistillationConfig(str(folder), per_device_train_batch_size=batch, **SETTINGS)

    def watch(trainer: DistillationTrainer) -> None:
        trainer.remove_callback(PrinterCallback)
        for each in callbacks:
            trainer.add_callback(each)

    kwargs = {"data_collator": DataCollatorWithPadding(words()), "compute_metrics": compute_metrics("single_label")}
    kwargs |= {"processing_class": words(), "console": Console(quiet=True), "watch": watch, **given}
    return schemes.Plan(student(), teacher and teacher(), args=args, resume=resume, **kwargs)


def outcome(name: str, folder: Path, batch: int) -> dict[str, Any]:
    """The student, what is beside it, and the student of a run that was cut off after `CUT` steps and resumed."""
    run, more = RUNS[name]
    every, left = Counting(), Counting()
    plan = plan_of(folder / "whole", batch, every, **copy.copy(more))
    student = weights(run(plan))
    try:
        run(plan_of(folder / "cut", batch, Stop(CUT), **more))
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError(f"{name} was not cut off")
    resumed = weights(run(plan_of(folder / "cut", batch, left, resume=True, **more)))
    files = [path for path in sorted(folder.rglob("*")) if "checkpoint-" not in str(path)]
    flat = torch.cat([value.flatten().double() for value in student.values()])
    return {
        "student": student,
        "beside": {str(path.relative_to(folder)): load_file(path) for path in files if path.suffix == ".safetensors"},
        "resumed": all(torch.equal(student[key], resumed[key]) for key in student),
        "steps": (every.steps, left.steps),
        "agree": same_everywhere(flat),
        "stages": {stage.name: stage.metrics for stage in plan.stages},
        "files": [str(path.relative_to(folder)) for path in files],
    }


def same_everywhere(values: Tensor) -> bool:
    if not dist.is_initialized():
        return True
    every = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(every, values)
    return all(torch.equal(each, values) for each in every)


def all_of(folder: Path, batch: int, names: list[str] | None = None) -> dict[str, dict[str, Any]]:
    return {name: outcome(name, folder / name, batch) for name in names or RUNS}


if __name__ == "__main__":
    found = all_of(Path(sys.argv[1]), 4, sys.argv[2:])
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]) / "results.pt")
    dist.barrier()
    dist.destroy_process_group()
