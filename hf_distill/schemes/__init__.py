"""Arrangements of teachers and trainings. Each is a function of a `Plan` and its own knobs, and returns the student.

    plan = schemes.Plan(student, teacher, losses, args, train_dataset=..., processing_class=tokenizer)
    student = schemes.born_again(plan, generations=3)

None computes a loss, and none changes the trainer.
"""

from hf_distill.schemes.adversarial import adversarial
from hf_distill.schemes.born_again import born_again
from hf_distill.schemes.data_free import data_free
from hf_distill.schemes.plan import Plan, scheme

__all__ = ["Plan", "adversarial", "born_again", "data_free", "scheme"]
