"""What a recipe names, loaded and checked before anything is trained."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertTokenizerFast

from hf_distill import evaluation, progress, recipe
from hf_distill.batch import Batch
from hf_distill.run import train
from hf_distill.run.prepared import prepare
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher, ModelTeacher

sys.path.insert(0, str(Path(__file__).parents[1]))
import workspace
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


FRENCH = ["remboursement", "colis", "retard", "application", "plante", "adore", "merci"]
OWN_TEXT = ["teacher={model: other, text: french}", "student={model: teacher}"]


def with_other_texts(folder, task="multi_label"):
    """Each row has a second text, of words that only another teacher knows."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FRENCH])}
    BertTokenizerFast(vocab=vocabulary, model_max_length=16).save_pretrained(folder / "other")
    workspace.teacher(task, vocab_size=len(vocabulary)).save_pretrained(folder / "other")
    for path in sorted((folder / "data").glob("*.tsv")):
        first, *lines = path.read_text().splitlines()
        texts = [" ".join(FRENCH[(i + j) % 7] for j in range(1 + i % 4)) for i in range(len(lines))]
        both = [f"{line}\t{text}" for line, text in zip(lines, texts, strict=True)]
        path.write_text("\n".join([f"{first}\tfrench", *both]) + "\n")


def test_a_teacher_reads_another_column_by_its_own_tokenizer(folder):
    with_other_texts(folder)
    ready = prepare(recipe.load("recipe.yaml", [*OWN_TEXT, "losses=[{name: TaskLoss}, {name: SoftTargets}]"]))
    trainer = ready.trainer()
    batch = next(iter(trainer.get_train_dataloader()))
    theirs, mine = batch["teacher_input_ids"], batch["input_ids"]
    words = {AutoTokenizer.from_pretrained("other").decode(row, skip_special_tokens=True) for row in theirs}
    assert all(set(text.split()) <= set(FRENCH) for text in words)
    assert theirs.shape[1] != mine.shape[1]
    inputs = {name: batch[f"teacher_{name}"] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = ready.teacher(**inputs).logits
    said = ready.taught_by()
    said.prepare(ready.student, frozenset({LOGITS}), torch.device("cpu"), ready.tokenizer)
    assert torch.allclose(said.observe(Batch(batch, ready.task))[LOGITS], expected)
    rows, tokenizer = ready.seen_by_teacher(ready.dataset["validation"])
    logits = evaluation.predict(ready.teacher, rows, tokenizer)
    with torch.no_grad():
        one = ready.teacher(**{name: torch.tensor([rows[3][name]]) for name in ("input_ids", "attention_mask")}).logits
    assert torch.allclose(torch.from_numpy(logits[3]), one[0], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher.text=german"], r"teacher\.text: train has no column 'german', only text, labels, french\."),
        (
            ["teacher.cache=answers"],
            r"teacher\.text: a recipe caches no answers to other texts\. Leave",
        ),
        (
            ["teacher.kind={name: EnsembleTeacher}", "teacher.also=[teacher]"],
            r"teacher\.text is encoded by the tokenizer of teacher\.model, and those of teacher\.also may have others",
        ),
        (["teacher.kind={name: PastSelf}"], r"teacher\.text: PastSelf reads what the student reads\. Leave"),
        (["scheme={name: chain, sizes: [3]}"], r"scheme chain shows the teacher what the student reads"),
        (
            ["scheme={name: cross_modal}", "teacher.text=null"],
            r"scheme cross_modal: the teacher reads another column\. Name it as teacher\.text\.",
        ),
    ],
)
def test_what_does_not_go_with_a_text_of_its_own_is_refused(folder, changes, message):
    with_other_texts(folder)
    with pytest.raises(ValueError, match=message):
        prepare(recipe.load("recipe.yaml", [*OWN_TEXT, *changes]))


@pytest.mark.parametrize(
    "more", [[], ["teacher.kind={name: NoisyTeacher, sigma: 0.1}"], ["scheme={name: cross_modal}"]]
)
def test_it_is_distilled_measured_and_loaded_again(folder, more):
    with_other_texts(folder)
    losses = [] if "scheme={name: cross_modal}" in more else ["losses=[{name: TaskLoss}, {name: SoftTargets}]"]
    quick = ["train.max_steps=2", "train.save_strategy=no", "losses=null"]
    found = train(recipe.load("recipe.yaml", [*OWN_TEXT, *quick, *losses, *more]))
    by_name = {each.name: each for each in found.facts}
    teacher = AutoModelForSequenceClassification.from_pretrained("other").eval()
    tokenizer = AutoTokenizer.from_pretrained("other")
    texts = [line.split("\t") for line in Path("data/test.tsv").read_text().splitlines()[1:]]
    with torch.no_grad():
        logits = torch.cat([teacher(**tokenizer(row[2], return_tensors="pt")).logits for row in texts])
    truth = [[name in row[1].split(",") for name in workspace.LABELS] for row in texts]
    expected = evaluation.quality(Task.MULTI_LABEL, logits.numpy(), np.array(truth, dtype=np.float32))
    assert by_name["teacher"].metrics["mean_average_precision"] == pytest.approx(expected["mean_average_precision"])
    assert AutoModelForSequenceClassification.from_pretrained("out").config.vocab_size != teacher.config.vocab_size
