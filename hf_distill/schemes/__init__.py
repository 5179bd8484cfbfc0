"""Arrangements of teachers and trainings. Each is a function of a `Plan` and its own knobs, and returns the student.

    plan = schemes.Plan(student, teacher, losses, args, train_dataset=..., processing_class=tokenizer)
    student = schemes.born_again(plan, generations=3)

None computes a loss, and none changes the trainer.
"""

from hf_distill.schemes.adversarial import adversarial
from hf_distill.schemes.augmented_self import augmented_self
from hf_distill.schemes.be_your_own_teacher import be_your_own_teacher
from hf_distill.schemes.born_again import born_again
from hf_distill.schemes.chain import chain
from hf_distill.schemes.cross_modal import cross_modal
from hf_distill.schemes.data_free import data_free
from hf_distill.schemes.early_exit import EarlyExit
from hf_distill.schemes.hints import hints
from hf_distill.schemes.iterated import iterated
from hf_distill.schemes.multi_teacher_triplet import multi_teacher_triplet
from hf_distill.schemes.mutual import mutual
from hf_distill.schemes.online import online
from hf_distill.schemes.plan import Plan
from hf_distill.schemes.progressive_self import progressive_self
from hf_distill.schemes.running import scheme
from hf_distill.schemes.specialists import specialists
from hf_distill.schemes.two_stage import two_stage
from hf_distill.schemes.unlabelled import combine, unlabelled

__all__ = [
    "EarlyExit",
    "Plan",
    "adversarial",
    "augmented_self",
    "be_your_own_teacher",
    "born_again",
    "chain",
    "combine",
    "cross_modal",
    "data_free",
    "hints",
    "iterated",
    "multi_teacher_triplet",
    "mutual",
    "online",
    "progressive_self",
    "scheme",
    "specialists",
    "two_stage",
    "unlabelled",
]
