"""Knowledge distillation for Hugging Face transformers: one idea, three nouns.

A **teacher** is observed, a **student** is observed, an **objective** compares what was seen:

    inputs --> Batch(inputs, counts)
                 |
                 |--> teacher.observe(batch) ------------> Signals {LOGITS: t, hidden(7): t, ...}   no gradient
                 |                                             |
                 |--> with capture: student(**inputs)          |
                 |        hooks fill, then take() -----------> Signals {LOGITS: t, hidden(3): t, ...}
                 |                                             |
                 '-------------------------------------> objective(student, teacher, batch)
                                                               |    per loss: pairs -> compare -> batch.mean -> weight
                                                         {"soft_targets": scalar, "hidden_mse": scalar, ...}
                                                               |--> logged by name, reduced across ranks once per log
                                                              sum --> Trainer.backward

`from hf_distill import DistillationTrainer, DistillationConfig, losses, teachers, students` is the whole door. Names
are imported when they are asked for, so that `hf_distill.losses` needs torch alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_distill import losses, schemes, students, teachers
    from hf_distill.config import DistillationConfig
    from hf_distill.trainer import DistillationTrainer

__version__ = "0.1.0"
__all__ = ["DistillationConfig", "DistillationTrainer", "losses", "schemes", "students", "teachers"]

_HOME = {"DistillationConfig": "hf_distill.config", "DistillationTrainer": "hf_distill.trainer"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in __all__:
        return import_module(f"hf_distill.{name}")
    raise AttributeError(f"module 'hf_distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
