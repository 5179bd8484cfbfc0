"""Run-level switches: what differs from transformers, what is refused, and that no token is shown."""

import copy
import pickle
from typing import Any

import pytest
import torch
from runs import QUICK, classifier, exactly, rows
from transformers import HfArgumentParser, Seq2SeqTrainingArguments, TrainingArguments

from hf_distill import DistillationConfig, DistillationTrainer

TOKEN = "hf_" + "Canary7Canary7Canary7Canary7Canary"


def own(args: TrainingArguments | None) -> DistillationConfig:
    """What the trainer makes of arguments."""
    trainer = DistillationTrainer(classifier(), classifier(), None, args, train_dataset=rows())
    assert isinstance(trainer.args, DistillationConfig)
    return trainer.args


def test_defaults_differ_from_the_trainers_only_where_the_docstring_says(tmp_path):
    mine, stock = (cls(str(tmp_path)).to_dict() for cls in (DistillationConfig, TrainingArguments))
    changed = {name: mine[name] for name in mine if name not in stock or mine[name] != stock[name]}
    assert changed == {
        "label_map": None,
        "balance": None,
        "balance_every": 100,
        "train_sampling_strategy": "auto",
        "logging_steps": 50,
        "logging_nan_inf_filter": False,
        "activation_checkpointing_kwargs": {"use_reentrant": False},
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        **({} if torch.accelerator.is_available() else {"dataloader_pin_memory": False}),
    }


def test_plain_training_arguments_are_taken_over(tmp_path):
    given: dict[str, Any] = {
        **QUICK,
        "bf16": True,
        "warmup_steps": 0.1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "eval_on_start": True,
        "gradient_accumulation_steps": 3,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 2},
        "accelerator_config": {"even_batches": False},
        "activation_checkpointing": True,
        "hub_token": TOKEN,
        "hub_strategy": "end",
        "label_names": ["labels"],
        "seed": 7,
    }
    stock = TrainingArguments(str(tmp_path), **given)
    made = DistillationTrainer(classifier(), classifier(), None, stock, train_dataset=rows(), eval_dataset=rows()).args
    before, after = stock.to_dict(), made.to_dict()
    assert {name for name in before if before[name] != after[name]} == {
        "logging_nan_inf_filter",
        "activation_checkpointing_kwargs",
        "gradient_checkpointing_kwargs",
    }
    assert made.hub_token == TOKEN
    assert stock.logging_nan_inf_filter, "the caller's own object stays as it was"


def test_no_arguments_are_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert own(None).logging_steps == 50


def test_fields_of_other_arguments_that_do_nothing_here_are_named(tmp_path, caplog):
    made = own(Seq2SeqTrainingArguments(str(tmp_path), predict_with_generate=True, use_cpu=True))
    assert not hasattr(made, "predict_with_generate")
    assert "predict_with_generate of Seq2SeqTrainingArguments: does nothing here." in caplog.text
    caplog.clear()
    own(TrainingArguments(str(tmp_path), use_cpu=True))
    assert "does nothing" not in caplog.text


def test_the_command_line_parser_of_transformers_knows_it():
    parser = HfArgumentParser(DistillationConfig)
    line = "--output_dir out --label_map by_name --logging_steps 0.5 --learning_rate 3e-4 --use_cpu"
    (args,) = parser.parse_args_into_dataclasses(line.split())
    assert (args.label_map, args.logging_steps, args.learning_rate) == ("by_name", 0.5, 3e-4)
    (args,) = parser.parse_dict({"output_dir": "out", "use_cpu": True})
    assert args.label_map is None
    with pytest.raises(SystemExit):
        parser.parse_args_into_dataclasses(["--output_dir", "out", "--label_map", "by_size"])


def test_no_token_in_any_text_of_it():
    args = DistillationConfig("out", hub_token=TOKEN)
    texts = [repr(args), str(args), args.to_json_string(), str(args.to_dict()), str(args.to_sanitized_dict())]
    assert not [text for text in texts if TOKEN in text]
    assert args.to_dict()["hub_token"] == "<HUB_TOKEN>"
    assert copy.deepcopy(args).hub_token == TOKEN
    assert pickle.loads(pickle.dumps(args)).hub_token == TOKEN


REENTRANT = (
    "activation_checkpointing_kwargs use_reentrant=True: what is caught inside a block would have no gradient, "
    'without any error. Pass {"use_reentrant": False}.'
)
NO_OPTIMIZER_STATES = (
    'hub_strategy="{}" would upload optimizer states, and only models are published here. Use "every_save" or "end".'
)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_kwargs.*:FutureWarning")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_map": "by_size"}, "label_map='by_size' is not known; use \"by_name\" or leave it out."),
        ({"balance": "equal"}, "balance='equal' is not known; use \"gradient_norm\" or leave it out."),
        ({"balance_every": 0}, "balance_every is 0; it must be at least 1."),
        (
            {"logging_nan_inf_filter": True},
            "logging_nan_inf_filter=True hides losses that are not finite as 0.0. Leave it out.",
        ),
        (
            {"label_smoothing_factor": 0.1},
            "label_smoothing_factor does nothing here. Pass TaskLoss(label_smoothing=...) in losses.",
        ),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, REENTRANT),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, REENTRANT),
        ({"activation_checkpointing_kwargs": '{"use_reentrant": true}'}, REENTRANT),
        ({"hub_strategy": "checkpoint"}, NO_OPTIMIZER_STATES.format("checkpoint")),
        ({"hub_strategy": "all_checkpoints"}, NO_OPTIMIZER_STATES.format("all_checkpoints")),
    ],
)
def test_switches_that_would_do_the_wrong_thing_are_refused(settings, message):
    with pytest.raises(ValueError, match=exactly(message)):
        DistillationConfig("out", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"label_smoothing_factor": 0.1},
            "label_smoothing_factor does nothing here. Pass TaskLoss(label_smoothing=...) in losses.",
        ),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, REENTRANT),
    ],
)
def test_they_are_refused_in_plain_training_arguments_too(tmp_path, settings, message):
    with pytest.raises(ValueError, match=exactly(message)):
        own(TrainingArguments(str(tmp_path), **settings))


def test_other_checkpointing_arguments_stay():
    args = DistillationConfig("out", activation_checkpointing=True, activation_checkpointing_kwargs={"debug": True})
    assert args.activation_checkpointing_kwargs == {"debug": True, "use_reentrant": False}
