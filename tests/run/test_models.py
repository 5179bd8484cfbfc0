"""The models that a recipe names, where no model teaches and where adapters learn."""

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import recipe
from hf_distill.run import models
from hf_distill.run.prepared import prepare
from hf_distill.teachers import Nobody

sys.path.insert(0, str(Path(__file__).parents[1]))
import workspace
from models import tiny
from workspace import LABELS, make

NOBODY = ["teacher={}", "student={model: teacher}", "losses=null", "scheme={name: mutual}"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    return tmp_path


def test_without_a_teacher_the_students_own_head_says_task_and_labels(folder):
    ready = prepare(recipe.load("recipe.yaml", [*NOBODY, "task=null"]))
    saved = AutoModelForSequenceClassification.from_pretrained("teacher")
    assert ready.teacher is None
    assert ready.task == "multi_label"
    assert ready.student.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(ready.student.classifier.weight, saved.classifier.weight)
    assert isinstance(ready.taught_by(), Nobody)


def test_a_student_without_a_head_gets_one_for_the_labels_of_the_data(folder):
    encoder = AutoModel.from_pretrained("teacher")
    encoder.config.id2label, encoder.config.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    encoder.save_pretrained("encoder")
    changes = [*NOBODY, "student={model: encoder}"]
    for file in Path("teacher").glob("*token*"):
        (Path("encoder") / file.name).write_bytes(file.read_bytes())
    ready = prepare(recipe.load("recipe.yaml", [*changes, "task=multi_label"]))
    assert sorted(ready.student.config.id2label.values()) == sorted(LABELS)
    assert ready.student.config.problem_type == "multi_label_classification"
    named = prepare(recipe.load("recipe.yaml", [*changes, "task=multi_label", f"dataset.label_names={LABELS[::-1]}"]))
    assert list(named.student.config.id2label.values()) == LABELS[::-1]
    assert named.student.config.label2id[LABELS[-1]] == 0
    with pytest.raises(
        ValueError, match=r"\Astudent\.model 'encoder' has no head, and no teacher says .* Add task\.\Z"
    ):
        prepare(recipe.load("recipe.yaml", [*changes, "task=null"]))


def test_the_task_of_the_recipe_wins_over_the_students_own(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path, "single_label"))
    workspace.teacher("multi_label").save_pretrained("several")
    words = AutoTokenizer.from_pretrained("teacher")
    words.save_pretrained("several")
    ready = prepare(recipe.load("recipe.yaml", [*NOBODY, "student={model: several}", "task=single_label"]))
    assert (ready.task, ready.student.config.problem_type) == ("single_label", "single_label_classification")


def test_a_head_for_fewer_labels_than_the_data_has_is_refused(folder):
    small = tiny("bert", "ForSequenceClassification", num_labels=2, max_position_embeddings=20)
    small.save_pretrained("small")
    AutoTokenizer.from_pretrained("teacher").save_pretrained("small")
    message = (
        r"\Astudent\.model 'small' has a head for 2 labels without names, and the data has 5: .* Take one without\.\Z"
    )
    with pytest.raises(ValueError, match=message):
        prepare(recipe.load("recipe.yaml", [*NOBODY, "student={model: small}"]))


def test_a_student_that_is_not_there_is_named(folder):
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"\Astudent\.model 'empty': "):
        prepare(recipe.load("recipe.yaml", [*NOBODY, "student={model: empty}"]))


def test_adapters_and_head_learn_and_are_merged_at_the_end(folder):
    ready = prepare(recipe.load("recipe.yaml", ["student={from: teacher, lora: {r: 2}}", "losses=null"]))
    assert isinstance(ready.student, PeftModel)
    learning = {name.split(".")[-3] for name, weight in ready.student.named_parameters() if weight.requires_grad}
    assert learning == {"lora_A", "lora_B", "modules_to_save"}
    query = ready.student.base_model.model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        query.lora_B["default"].weight.normal_()
    expected = query.base_layer.weight + query.get_delta_weight("default")
    whole = models.merged(ready.student)
    assert torch.allclose(whole.bert.encoder.layer[0].attention.self.query.weight, expected)
    assert not any("lora" in name for name, _ in whole.named_parameters())
    assert models.merged(whole) is whole


def test_weights_that_are_new_learn_whole_and_other_families_have_adapters_everywhere(folder):
    encoder = AutoModel.from_pretrained("teacher", add_pooling_layer=False)
    encoder.save_pretrained("encoder")
    AutoTokenizer.from_pretrained("teacher").save_pretrained("encoder")
    ready = prepare(recipe.load("recipe.yaml", ["student={model: encoder, lora: {r: 2}}", "losses=null"]))
    learning = {name for name, weight in ready.student.named_parameters() if weight.requires_grad}
    assert any("pooler.dense.modules_to_save" in name for name in learning)
    assert not any("pooler" in name and "lora" in name for name in learning)
    student = "student={from: teacher, architecture: distilbert, lora: {r: 2}}"
    ready = prepare(recipe.load("recipe.yaml", [student, "losses=null"]))
    learning = {name for name, weight in ready.student.named_parameters() if weight.requires_grad}
    assert any("ffn.lin1.lora_A" in name for name in learning)
    assert any("attention.q_lin.lora_A" in name for name in learning)
    assert {name.split(".")[2] for name in learning if "modules_to_save" in name} == {"pre_classifier", "classifier"}
    kind = ["teacher={kind: {name: AdapterOffTeacher}}", "student={model: encoder, lora: {r: 2}}", "losses=null"]
    with pytest.raises(
        ValueError, match=r"AdapterOffTeacher: .*classifier\.weight.* of the student are new, and what"
    ):
        prepare(recipe.load("recipe.yaml", kind))


def test_what_peft_refuses_is_said_in_one_line(folder):
    changes = ["student={from: teacher, lora: {target_modules: [nothing]}}", "losses=null"]
    with pytest.raises(ValueError, match=r"\Astudent\.lora: .*target_modules.+\Z"):
        prepare(recipe.load("recipe.yaml", changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["student={from: teacher, lora: {r: 2}}", "scheme={name: born_again}"],
            r"scheme born_again trains whole students in a recipe\. Leave student\.lora out\.",
        ),
        (
            ["teacher.kind={name: AdapterOffTeacher}"],
            r"teacher\.kind AdapterOffTeacher: the student has no adapters\. Add student\.lora=\{r: 8\}\.",
        ),
        (
            ["teacher.kind={name: AdapterOffTeacher}", "scheme={name: born_again}"],
            r"scheme born_again makes several students, and AdapterOffTeacher is of one\. Leave teacher\.kind out\.",
        ),
        (
            ["teacher.kind={name: NoisyTeacher, sigma: 0.1}", "scheme={name: mutual}"],
            r"scheme mutual asks no teacher\. Leave teacher\.kind out\.",
        ),
        (
            ["teacher.kind={name: PastSelf}", "teacher.cache=answers"],
            r"teacher\.kind PastSelf does not ask teacher\.model\. Leave teacher\.cache out\.",
        ),
        (
            ["teacher={}", "student={model: teacher}", "scheme={name: mutual}", "dataset.labels=null"],
            r"there is no teacher, and dataset\.labels is null: nothing to learn from\. Name their column\.",
        ),
    ],
)
def test_what_does_not_go_with_adapters_is_refused_before_anything_is_loaded(folder, monkeypatch, changes, message):
    monkeypatch.setattr(models, "load_teacher", lambda *_: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=rf"\A{message}\Z"):
        prepare(recipe.load("recipe.yaml", changes))
