"""hf_distill, in Python, with a live teacher."""

from datasets import Dataset
from work import Work

from hf_distill import DistillationConfig, DistillationTrainer, losses


def train(work: Work) -> None:
    terms = [losses.SoftTargets(temperature=work.temperature, weight=1 - work.task_weight)]
    if work.task_weight:
        terms.insert(0, losses.TaskLoss(weight=work.task_weight))
    trainer = DistillationTrainer(
        work.student,
        work.teacher,
        terms,
        DistillationConfig(**work.trainer_arguments()),
        train_dataset=Dataset.from_list(work.rows),
        data_collator=work.collate,
    )
    trainer.train()
