"""What a recipe names, loaded and checked before anything is trained."""

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from hf_distill import progress, recipe
from hf_distill.run.prepared import prepare
from hf_distill.teachers import CachedTeacher, ModelTeacher

sys.path.insert(0, str(Path(__file__).parents[1]))
from workspace import make


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    return tmp_path


def test_the_task_of_a_recipe_wins_over_a_teacher_that_does_not_say_its_own(folder):
    config = json.loads(Path("teacher/config.json").read_text())
    Path("teacher/config.json").write_text(json.dumps(config | {"problem_type": None}))
    assert prepare(recipe.load("recipe.yaml")).student.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize(("layers", "kept"), [("2", (1, 3)), ("[0, 3]", (0, 3)), ("null", (0, 1, 2, 3))])
def test_layers_are_named_or_counted(folder, layers, kept):
    assert prepare(recipe.load("recipe.yaml", [f"student.layers={layers}"])).student.copied.layers == kept


def test_texts_are_cut_to_what_tokenizer_and_models_take(folder):
    with Path("data/train.tsv").open("a") as file:
        file.write("thanks " * 40 + "\tpraise\n")
    longest = max(map(len, prepare(recipe.load("recipe.yaml")).dataset["train"]["input_ids"]))
    assert longest == 16  # the tokenizer's; the models have 20 positions
    tokenizer = AutoTokenizer.from_pretrained("teacher")
    tokenizer.model_max_length = 100
    tokenizer.save_pretrained("teacher")
    assert max(map(len, prepare(recipe.load("recipe.yaml")).dataset["train"]["input_ids"])) == 20


@pytest.mark.parametrize(
    ("role", "change"), [("teacher", "teacher.model=empty"), ("student", "student={model: empty}")]
)
def test_a_model_that_cannot_be_loaded_is_named_in_one_line(folder, role, change):
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=rf"\A{role}\.model 'empty': .+\Z"):
        prepare(recipe.load("recipe.yaml", [change]))


def test_without_a_validation_split_nothing_is_evaluated_and_no_best_checkpoint_can_be_chosen(folder):
    Path("data/dev.tsv").unlink()
    ready = prepare(recipe.load("recipe.yaml", ["dataset.eval_fraction=0"]))
    assert ready.args.eval_strategy == "no"
    assert ready.trainer().eval_dataset is None
    best = ["train.load_best_model_at_end=true", "train.save_strategy=epoch", "dataset.eval_fraction=0"]
    with pytest.raises(ValueError, match=r"load_best_model_at_end needs a validation split\. Set dataset\.eval_fract"):
        prepare(recipe.load("recipe.yaml", best))


@pytest.mark.parametrize("head", ["ForTokenClassification", "Model"])
def test_a_teacher_that_is_no_classifier_is_refused(folder, head):
    config = json.loads(Path("teacher/config.json").read_text())
    Path("teacher/config.json").write_text(json.dumps(config | {"architectures": [f"Bert{head}"]}))
    with pytest.raises(ValueError, match="recipes are for classifiers and regression, and the teacher solves"):
        prepare(recipe.load("recipe.yaml"))


def test_the_trainer_asks_the_model_or_the_folder_that_the_recipe_names(folder):
    live = prepare(recipe.load("recipe.yaml", ["teacher.label_map=by_name"])).trainer()
    assert type(live.teacher) is ModelTeacher
    changes = ["teacher.cache=answers", "teacher.cache_dtype=float16", "teacher.label_map=by_name"]
    ready = prepare(recipe.load("recipe.yaml", changes))
    trainer = ready.trainer()
    assert type(trainer.teacher) is CachedTeacher
    assert trainer.teacher.model is ready.teacher
    assert trainer.teacher.model.dtype is torch.float32
    assert (trainer.teacher.folder, trainer.teacher.dtype) == (Path("answers"), "float16")
    assert live.teacher.label_map == trainer.teacher.label_map == "by_name"
    assert not Path("answers").exists()
    assert any(isinstance(each, progress.Progress) for each in trainer.callback_handler.callbacks)
