"""silverspoon-kd 0.1.0, as its documentation does: `ResponseBasedDistiller`, a subclass of the Trainer.

Its soft loss is any callable; of several labels it is the one that everybody has here. With the option "grouped" it
also takes the Trainer's `train_sampling_strategy`, which its documentation does not mention and does not forbid.
"""

from datasets import Dataset
from silverspoon_kd import ResponseBasedDistiller, TrainingArguments
from silverspoon_kd.losses import kl_divergence_loss
from work import CAUSAL_LM, Work


def train(work: Work) -> None:
    arguments = work.trainer_arguments() | {"report_to": []}
    if "grouped" in work.options:
        arguments["train_sampling_strategy"] = "group_by_length"
    own = kl_divergence_loss(temperature=work.temperature)
    distiller = ResponseBasedDistiller(
        student_model=work.student,
        teacher_model=work.teacher,
        soft_loss_fn=own if work.kind == CAUSAL_LM else work.soft_loss,
        train_dataset=Dataset.from_list(work.rows),
        data_collator=work.collate,
        args=TrainingArguments(alpha=work.task_weight, **arguments),
    )
    distiller.train()
