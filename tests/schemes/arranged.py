"""A small plan, and a plug that is pulled: what the tests of schemes share."""

from io import StringIO

import pytest
from rich.console import Console
from runs import QUICK, classifier, rows, same, weights
from transformers import TrainerCallback

from hf_distill import DistillationConfig, schemes

SAVING = {"save_strategy": "steps", "save_steps": 1}
OF_THE_TRAINER = ("resume", "losses", "eval_dataset", "watch", "compute_metrics", "processing_class", "data_collator")
OF_THE_TRAINER += ("peft_config", "console", "optimizers", "model_init")


def planned(folder, student, teacher=None, data=None, **settings):
    """A plan of three quick steps a stage; `settings` go to the config, or to the plan if it knows them."""
    own = {name: settings.pop(name) for name in OF_THE_TRAINER if name in settings}
    args = DistillationConfig(str(folder), **(QUICK | settings))
    console = own.pop("console", None) or Console(file=StringIO(), width=120)
    data = rows() if data is None else data
    return schemes.Plan(student, teacher, own.pop("losses", None), args, console=console, train_dataset=data, **own)


def plan(folder, student=None, teacher=None, **settings):
    """A plan with a student and a teacher."""
    return planned(folder, student or classifier(), teacher or classifier(seed=1).eval(), **settings)


def deep(blocks, seed=0, **fields):
    """A tiny classifier of so many blocks, without dropout."""
    return classifier(seed=seed, **({"num_hidden_layers": blocks} | fields)).eval()


class Stop(TrainerCallback):
    """As if somebody pulled the plug after so many steps of all stages."""

    def __init__(self, after):
        self.left = after

    def on_step_begin(self, args, state, control, **kwargs):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1


def check_resumed(folder, run, after):
    """`run(folder, **settings)` that is cut off after some steps and resumed ends where an uninterrupted one does."""
    whole = run(folder / "whole", **SAVING)
    stop = Stop(after)
    with pytest.raises(KeyboardInterrupt):
        run(folder / "cut", watch=lambda trainer: trainer.add_callback(stop), **SAVING)
    assert same(weights(run(folder / "cut", resume=True, **SAVING)), weights(whole))
