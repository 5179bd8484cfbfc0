"""A recipe, carried out in this process: what is trained, from where, how long, and what is written."""

import json
import re
import shutil
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from rich.console import Console
from sklearn.metrics import average_precision_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill import evaluation, metrics, recipe, report, run, teachers
from hf_distill.tasks import find_task

sys.path.insert(0, str(Path(__file__).parents[1]))
from runs import same, weights
from workspace import LABELS, QUICK, make


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    time = report.Latency(1.0, 0.1, 8, 1, "cpu", 5)
    monkeypatch.setattr(report, "latencies", lambda models, inputs: dict.fromkeys(models, time))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(make(tmp_path))
    return tmp_path


def train(*overrides: str, quick: bool = True, **options):
    """The recipe of the current folder, two steps of it; and what was printed."""
    console = Console(file=StringIO(), width=80)
    changes = [*(QUICK if quick else ()), *overrides]
    return run.train(recipe.load("recipe.yaml", changes), console, **options), console.file.getvalue()


# ---- what is trained ----------------------------------------------------------------------------------------------


def test_the_student_alone_has_the_same_start_and_the_same_steps_and_no_teacher(folder, monkeypatch):
    seen, real = [], run._run

    def watched(trainer, resume):
        before = weights(trainer.model)
        real(trainer, resume)
        seen.append((before, weights(trainer.model), trainer.state.global_step, list(trainer.objective.losses)))

    monkeypatch.setattr(run, "_run", watched)
    result, printed = train(quick=False)
    (alone, distilled) = seen
    assert same(alone[0], distilled[0])
    assert not same(alone[1], distilled[1])
    assert alone[2] == distilled[2] == 6  # 24 rows, 8 a step, 2 epochs
    assert alone[3] == ["task_loss"]
    assert distilled[3] == ["task_loss", "soft_targets", "hidden_mse"]
    assert [fact.name for fact in result.facts] == ["teacher", "student alone", "distilled student"]
    assert "student alone: same start, same steps, no teacher" in printed
    saved = AutoModelForSequenceClassification.from_pretrained("out/student_alone")
    assert same(weights(saved), alone[1])
    assert same(weights(AutoModelForSequenceClassification.from_pretrained("out")), distilled[1])


def test_what_the_teacher_is_worth_is_said_before_anybody_learns_from_it(folder):
    _, printed = train(quick=False)
    before, _ = printed.split("student alone: same start")
    (said,) = re.findall(r"teacher: validation: mean average precision ([\d.]+), macro f1", before)
    lines = Path("data/dev.tsv").read_text().splitlines()[1:]
    texts, named = zip(*(line.split("\t") for line in lines), strict=True)
    labels = np.array([[label in names.split(",") for label in LABELS] for names in named])
    tokenizer, teacher = AutoTokenizer.from_pretrained("teacher"), teachers.load("teacher").eval()
    with torch.no_grad():
        logits = teacher(**tokenizer(list(texts), padding=True, return_tensors="pt")).logits
    assert float(said) == pytest.approx(average_precision_score(labels, logits), abs=1e-4)


@pytest.mark.parametrize(
    ("task", "quality"), [("single_label", ["accuracy", "macro_f1"]), ("regression", ["mse", "pearson", "spearman"])]
)
def test_other_tasks(tmp_path, monkeypatch, task, quality):
    monkeypatch.chdir(make(tmp_path, task))
    result, printed = train()
    assert [list(fact.metrics) for fact in result.facts] == [quality, quality]
    model, tokenizer = (kind.from_pretrained("out") for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    assert find_task(model) == task
    assert not hasattr(model.config, "thresholds")
    rows = run.prepare(recipe.load("recipe.yaml")).dataset["test"]
    logits, labels = evaluation.predict(model, rows, tokenizer), np.asarray(rows["labels"])
    assert result.facts[1].metrics == pytest.approx(
        metrics.for_task(task).compute(predictions=logits, references=labels)
    )
    assert (result.facts[1].agreement is None) == (task == "regression")
    assert task in printed


def test_labels_in_another_order_are_refused_or_matched_by_name_in_training_and_figures(folder):
    teacher = AutoModelForSequenceClassification.from_pretrained("teacher")
    with torch.no_grad():
        for parameter in teacher.classifier.parameters():
            parameter.copy_(parameter.flip(0))
    teacher.config.id2label = dict(enumerate(reversed(LABELS)))
    teacher.config.label2id = {name: index for index, name in teacher.config.id2label.items()}
    teacher.save_pretrained("reversed")
    AutoTokenizer.from_pretrained("teacher").save_pretrained("reversed")
    changes = ["student={model: reversed}", "losses=[{name: SoftTargets}]", "train.learning_rate=0"]
    with pytest.raises(ValueError, match="label order differs"):
        train(*changes)
    result, _ = train(*changes, "teacher.label_map=by_name")
    teacher, student = result.facts
    assert student.agreement == 1.0
    assert student.metrics == pytest.approx(teacher.metrics)
    assert result.trainer.state.log_history[-2]["eval_loss"] == pytest.approx(0, abs=1e-6)


def test_without_labels_the_student_learns_from_the_teacher_alone(folder):
    result, printed = train("dataset.labels=null", "losses=[{name: SoftTargets}]")
    assert [fact.metrics for fact in result.facts] == [{}, {}]
    assert 0 < result.facts[1].agreement <= 1
    assert "agreement" in printed


# ---- what is refused, and when ------------------------------------------------------------------------------------


def test_a_best_checkpoint_without_validation_is_refused(folder):
    Path("data/dev.tsv").unlink()
    best = ["train.load_best_model_at_end=true", "train.save_strategy=epoch"]
    with pytest.raises(ValueError, match=r"needs a validation split. Set dataset.eval_fraction above 0"):
        run.prepare(recipe.load("recipe.yaml", [*best, "dataset.eval_fraction=0"]))
    ready = run.prepare(recipe.load("recipe.yaml", best))
    assert len(ready.dataset["validation"]) == 2
    assert ready.args.eval_strategy == "epoch"
    assert run.prepare(recipe.load("recipe.yaml", ["dataset.eval_fraction=0"])).args.eval_strategy == "no"


def test_what_cannot_be_written_or_measured_is_found_before_training(folder, monkeypatch):
    monkeypatch.setattr(run, "_run", lambda *_: pytest.fail("trained"))
    Path("file").touch()
    with pytest.raises(OSError, match=r"train.output_dir 'file/out': nothing can be written there"):
        train("train.output_dir=file/out")
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"metric './nothing.py' is none of"):
        train("metrics=[./nothing.py]")
    assert not Path("out").exists()


def test_check_finds_what_the_trainer_refuses_and_leaves_nothing_behind(folder):
    before = sorted(folder.rglob("*"))
    assert run.check(recipe.load("recipe.yaml")).task == "multi_label"
    with pytest.raises(ValueError, match="7"):
        run.check(recipe.load("recipe.yaml", ["losses.2.layers={0: 7}"]))
    assert sorted(folder.rglob("*")) == before


# ---- what is written ----------------------------------------------------------------------------------------------


def test_figures_are_of_the_saved_student_at_thresholds_of_the_validation_split(folder):
    result, printed = train()
    assert result.folder == Path("out")
    assert report.load("out/results.json") == result.facts
    student, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained("out"),
        AutoTokenizer.from_pretrained("out"),
    )
    dataset = run.prepare(recipe.load("recipe.yaml")).dataset
    logits = {split: evaluation.predict(student, dataset[split], tokenizer) for split in ("validation", "test")}
    labels = {split: np.asarray(dataset[split]["labels"]) for split in logits}
    tuned = metrics.tune_thresholds(logits["validation"], labels["validation"])
    np.testing.assert_allclose(student.config.thresholds, tuned, atol=1e-6)
    at_tuned = metrics.for_task("multi_label").compute(
        predictions=logits["test"], references=labels["test"], thresholds=tuned
    )
    assert result.facts[1].metrics == pytest.approx(at_tuned, abs=1e-6)
    text = Path("out/README.md").read_text()
    assert "13 rows of the test split" in text
    assert "The thresholds were tuned on the validation split" in text
    assert "cross-fitted" not in text
    assert "best student" not in printed
    assert recipe.load("out/recipe.yaml").losses == recipe.load("recipe.yaml").losses


def test_without_a_test_split_f1_is_cross_fitted_and_the_card_says_so(folder):
    Path("data/test.tsv").unlink()
    result, _ = train()
    student, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained("out"),
        AutoTokenizer.from_pretrained("out"),
    )
    rows = run.prepare(recipe.load("recipe.yaml")).dataset["validation"]
    logits, labels = evaluation.predict(student, rows, tokenizer), np.asarray(rows["labels"])
    np.testing.assert_allclose(student.config.thresholds, metrics.tune_thresholds(logits, labels), atol=1e-6)
    # by hand: even rows at the thresholds of odd rows, and the reverse
    given = np.empty_like(labels)
    for half in (0, 1):
        tuned = metrics.tune_thresholds(logits[1 - half :: 2], labels[1 - half :: 2])
        given[half::2] = 1 / (1 + np.exp(-logits[half::2].astype(float))) >= tuned
    hits = (given * labels).sum()
    assert result.facts[1].metrics["micro_f1"] == pytest.approx(2 * hits / (given.sum() + labels.sum()))
    assert "The F1 in the table is cross-fitted" in Path("out/README.md").read_text()


def test_the_card_says_what_was_done(folder):
    train("train.load_best_model_at_end=true", "train.save_strategy=epoch", command="hf-distill train recipe.yaml")
    card = ModelCard.load("out/README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.base_model is None  # `teacher` is a folder here
    text = " ".join(str(card).split())
    for said in (
        "distilled from `teacher`",
        "blocks 0, 2 of 4",
        "hf-distill train recipe.yaml",
        "Labels, in the order of the logits: refund, delivery, praise, bug, how_to.",
        "| optimizer steps | 2 |",
        "Trained on 24 rows of the train split",
        "| HiddenMSE | 0.1 | layers={0: 0, 1: 2}",
    ):
        assert said in text, said
    support = dict(re.findall(r"(\w+) \((\d+)\)", text.partition("positives among")[2]))
    lines = Path("data/test.tsv").read_text().splitlines()[1:]
    expected = {name: str(sum(name in line.split("\t")[1].split(",") for line in lines)) for name in LABELS}
    assert {name: support[name] for name in LABELS} == expected


def test_folders_beside_the_recipe_are_no_hub_ids_wherever_it_is_run_from(folder, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    changes = [*QUICK, "dataset.path=data", f"train.output_dir={folder}/out"]
    run.train(recipe.load(folder / "recipe.yaml", changes), Console(file=StringIO()))
    card = ModelCard.load(folder / "out" / "README.md")
    assert not {"base_model", "base_model_relation", "datasets", "model-index"} & set(card.data.to_dict())
    assert str(folder) not in card.content


def test_what_the_best_checkpoint_was_chosen_on_is_named(folder):
    Path("data/test.tsv").unlink()
    train("train.load_best_model_at_end=true", "train.save_strategy=epoch")
    assert "The checkpoint was chosen by its figures on the validation split" in Path("out/README.md").read_text()


# ---- going on -----------------------------------------------------------------------------------------------------


def test_resume_goes_on_from_the_newest_whole_checkpoint_and_ends_where_the_whole_run_ended(folder, capsys):
    long = ["train.max_steps=4", "train.save_strategy=steps", "train.save_steps=2", "train.logging_steps=1"]
    whole, _ = train(*long)
    expected = weights(whole.trainer.model)
    shutil.rmtree("out/checkpoint-4")
    Path("out/checkpoint-3").mkdir()  # killed while it was written
    capsys.readouterr()
    again, printed = train(*long, resume=True)
    assert same(weights(again.trainer.model), expected)
    assert re.findall(r"step (\d)/4  loss", capsys.readouterr().out) == ["3", "4"]
    assert "starting from the beginning" not in printed


def test_checkpoints_of_a_former_run_are_pointed_out_and_not_taken(folder):
    saving = ["train.save_strategy=steps", "train.save_steps=1"]
    _, printed = train(*saving, resume=True)
    assert "no checkpoint in out: starting from the beginning" in printed
    first, printed = train(*saving)
    assert "out holds parts of a former run; this one starts anew" in " ".join(printed.split())
    assert first.trainer.state.global_step == 2


# ---- pushing ------------------------------------------------------------------------------------------------------


def test_a_profile_is_of_the_distillation_and_lies_in_the_output_folder(folder):
    result, said = train("train.max_steps=6", "baseline=true", quick=False, profile=True)
    assert said.count("student forward") == 1
    assert said.index("distilled student") < said.index("student forward")
    assert (result.folder / "profile" / "profile.json").is_file()


def test_a_push_comes_last_and_once_and_its_repository_first(folder, monkeypatch):
    calls = []
    monkeypatch.setattr(run.hub, "make_repository", lambda name, **_: calls.append(("made", name)) or name)

    def push(source, name, **options):
        state = {file.name for file in Path(source).iterdir()}
        calls.append(("pushed", name, options["private"], {"README.md", "recipe.yaml", "config.json"} <= state))
        assert json.loads((Path(source) / "config.json").read_text())["thresholds"]
        return "url"

    monkeypatch.setattr(run.hub, "push", push)
    result, printed = train("push={repo_id: me/small, private: true}")
    assert calls == [("made", "me/small"), ("pushed", "me/small", True, True)]
    assert result.url == "url"
    assert "on the Hub: url" in printed
    assert 'model="me/small"' in Path("out/README.md").read_text()
    calls.clear()
    train("train.push_to_hub=true", "train.hub_strategy=end", "train.hub_private_repo=false")
    assert calls == [("made", "out"), ("pushed", "out", False, True)]


def test_a_push_that_fails_loses_nothing(folder, monkeypatch):
    def fail(*_args, **_options):
        raise run.hub.HubError("the Hub is gone")

    monkeypatch.setattr(run.hub, "make_repository", lambda name, **_: name)
    monkeypatch.setattr(run.hub, "push", fail)
    console = Console(file=StringIO(), width=80)
    with pytest.raises(run.hub.HubError, match="gone"):
        run.train(recipe.load("recipe.yaml", [*QUICK, "push.repo_id=me/small"]), console)
    assert "mean average" in console.file.getvalue()
    assert len(report.load("out/results.json")) == 2
    assert AutoModelForSequenceClassification.from_pretrained("out").config.thresholds


def test_fine_tune_learns_the_labels_and_no_teacher_is_asked(folder):
    ready = run.prepare(recipe.load("recipe.yaml", ["train.num_train_epochs=1"]))
    before = weights(ready.student)
    trainer = run.fine_tune(ready.student, ready.dataset, ready.tokenizer, ready.args)
    assert not same(before, weights(trainer.model))
    assert list(trainer.objective.losses) == ["task_loss"]
    assert "eval_mean_average_precision" in trainer.state.log_history[-2]


# ---- schemes ------------------------------------------------------------------------------------------------------


def test_a_scheme_takes_the_place_of_the_one_training(folder):
    changes = ["scheme={name: born_again, generations: 2}", "baseline=true", "losses=null"]
    result, printed = train(*changes)
    assert [fact.name for fact in result.facts] == ["teacher", "student alone", "distilled student"]
    for part in ("generation_1", "generation_2"):
        assert (folder / "out" / part / "model.safetensors").exists()
    last = AutoModelForSequenceClassification.from_pretrained("out/generation_2")
    assert same(weights(AutoModelForSequenceClassification.from_pretrained("out")), weights(last))
    card = Path("out/README.md").read_text()
    assert "| generation_2 | generation_1 |" in card
    assert "`born_again(generations=2, weighting='none', ensemble=False)`" in card
    assert "| distilled student |" in card
    assert recipe.load("out/recipe.yaml").scheme.arguments == {"generations": 2}
    assert "generation_1" in printed
    again, printed = train(*changes, resume=True)
    assert "generation_2: finished before" in printed
    assert again.facts[2].metrics == result.facts[2].metrics


def test_other_knobs_than_before_are_refused_before_the_baseline_is_trained(folder, monkeypatch):
    train("scheme={name: born_again, generations: 2}", "losses=null")
    monkeypatch.setattr(run, "_run", lambda *_: pytest.fail("something trained"))
    with pytest.raises(ValueError, match=r"generation_1 was begun with settings .*generations=2"):
        train("scheme={name: born_again, generations: 3}", "losses=null", "baseline=true", resume=True)


def test_further_models_without_a_kind_are_refused(folder):
    with pytest.raises(ValueError, match=r"teacher.also names further models, and teacher.kind does not say"):
        train("teacher.also=[teacher]")


def test_a_profile_of_a_scheme_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"\Aa profile is of one training, and a scheme has several\. Leave --profile"
    ):
        train("scheme={name: born_again}", profile=True)
    assert not Path("out").exists()


def test_what_a_later_stage_refuses_is_refused_before_the_baseline_trains(folder, monkeypatch):
    monkeypatch.setattr(run, "_run", lambda *_: pytest.fail("something trained"))
    for carry_out in (train, lambda *changes: run.check(recipe.load("recipe.yaml", changes))):
        with pytest.raises(ValueError, match="HiddenMSE: teacher layer 2 does not exist"):  # of the first generation
            carry_out("scheme={name: born_again, generations: 2}", "baseline=true")


@pytest.mark.parametrize(
    "kind",
    [
        "{name: NoisyTeacher, sigma: 0.1}",
        "{name: SelectiveTeacher, wrong: 0.0}",
        "{name: EnsembleTeacher, mean: probabilities}",
        "{name: EMATeacher, decay: 0.5}",
        "{name: PastSelf}",
    ],
)
def test_a_kind_of_teacher_takes_the_place_of_the_model(folder, kind):
    also = ["teacher.also=[teacher]"] if "Ensemble" in kind else []
    result, _ = train(f"teacher.kind={kind}", *also, "losses=[{name: TaskLoss}, {name: SoftTargets}]")
    assert type(result.trainer.teacher).__name__ in kind
    made_of_it = any(name in kind for name in ("Noisy", "Selective", "Ensemble"))
    assert [fact.name for fact in result.facts] == ["teacher"] * made_of_it + ["distilled student"]


@pytest.mark.parametrize("arranged", [[], ["scheme={name: born_again, generations: 2}"]])
def test_the_card_names_all_teachers(folder, arranged):
    shutil.copytree("teacher", "second")
    train("teacher.kind={name: EnsembleTeacher}", "teacher.also=[second]", "losses=null", *arranged)
    card = Path("out/README.md").read_text()
    assert "distilled from `teacher` and `second`." in card
    assert "- Teachers: `teacher` and `second`\n" in card
    assert "the teachers' errors and biases are inherited" in card


def test_a_kind_around_a_cached_teacher_asks_it_once(folder):
    changes = ["teacher.kind={name: NoisyTeacher, sigma: 0.1}", "teacher.cache=answers", "losses=null"]
    result, printed = train(*changes)
    assert "the teacher answers" in printed
    cached = result.trainer.teacher.teacher
    assert isinstance(cached, teachers.CachedTeacher)
    shutil.rmtree("teacher/model.safetensors", ignore_errors=True)
    again, _ = train(*changes, "student={model: out}")
    assert again.facts[0].metrics == result.facts[0].metrics


# ---- without a teacher's model, and with adapters ------------------------------------------------------------------


def test_a_function_teaches(folder):
    Path("rules_of_run.py").write_text(
        "asked = []\n"
        "def answer(batch):\n"
        "    asked.append(len(batch.labels))\n"  # seen in every batch, the one before step 1 too
        "    return [[2.0, -2.0, 0.0, 0.0, 1.0]] * batch.rows\n"
    )
    kind = "{kind: {name: CallableTeacher, function: rules_of_run.answer}}"
    changes = [*QUICK, f"teacher={kind}", "student={model: teacher}", "losses=[{name: SoftTargets}]", "baseline=true"]
    loaded = recipe.load("recipe.yaml", changes, allow_custom_code=True)
    console = Console(file=StringIO(), width=80)
    result = run.train(loaded, console, allow_custom_code=True)
    assert sys.modules["rules_of_run"].asked[:2] == [8, 8]
    assert [fact.name for fact in result.facts] == ["student alone", "distilled student"]
    assert result.facts[1].agreement is None
    card = Path("out/README.md").read_text()
    assert "taught by the function answer." in card
    assert "- Teacher:" not in card
    assert "teacher:" not in console.file.getvalue()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("[[0.0]] * batch.rows", r"answered \(8, 1\) for logits of a batch of 8 rows; expected \(8, 5\)\."),
    ],
)
def test_a_function_is_asked_before_anything_is_trained(folder, monkeypatch, answer, message):
    monkeypatch.setattr(run, "_run", lambda *_: pytest.fail("something trained"))
    Path("rules_that_fail.py").write_text(f"def answer(batch):\n    return {answer}\n")
    sys.modules.pop("rules_that_fail", None)
    kind = "{kind: {name: CallableTeacher, function: rules_that_fail.answer}}"
    changes = [*QUICK, f"teacher={kind}", "student={model: teacher}", "losses=[{name: SoftTargets}]", "baseline=true"]
    with pytest.raises((ValueError, RuntimeError), match=message):
        run.train(recipe.load("recipe.yaml", changes, True), Console(quiet=True), allow_custom_code=True)
    with pytest.raises((ValueError, RuntimeError), match=message):
        run.check(recipe.load("recipe.yaml", changes, True), allow_custom_code=True)


def test_the_card_of_generations_says_who_taught_the_first(folder):
    Path("rules_of_first.py").write_text("def answer(batch):\n    return [[1.0] * 5] * batch.rows\n")
    kind = "{kind: {name: CallableTeacher, function: rules_of_first.answer}}"
    changes = [*QUICK, f"teacher={kind}", "student={model: teacher}", "losses=null", "train.seed=7"]
    loaded = recipe.load("recipe.yaml", [*changes, "scheme={name: born_again, generations: 2}"], True)
    run.train(loaded, Console(quiet=True), allow_custom_code=True)
    card = Path("out/README.md").read_text()
    assert "taught by the function answer, by `born_again(" in card
    assert "| seed | 7 |" in card


def test_losses_of_a_scheme_without_a_teacher_are_those_of_its_students(folder):
    changes = ["teacher={}", "student={model: teacher}", "scheme={name: mutual}"]
    train(*changes, "losses=[{name: TaskLoss, weight: 0.5}, {name: SoftTargets, temperature: 2.0}]")
    assert "| SoftTargets | 1.0 | temperature=2," in Path("out/README.md").read_text()


def test_a_scheme_without_a_teacher_needs_none_in_the_recipe(folder):
    changes = ["teacher={}", "student={model: teacher}", "losses=null", "scheme={name: progressive_self}"]
    result, _ = train(*changes)
    assert [fact.name for fact in result.facts] == ["distilled student"]
    assert "taught by its own answers of an epoch before, by `progressive_self(" in Path("out/README.md").read_text()


def test_a_student_with_adapters_is_saved_whole_and_goes_on_from_its_checkpoint(folder):
    changes = [
        "teacher.kind={name: AdapterOffTeacher}",
        "student={from: teacher, lora: {r: 2}}",
        "losses=[{name: TaskLoss}, {name: SoftTargets}]",
        "baseline=true",
        "train.learning_rate=0.01",
    ]
    result, printed = train(*changes, "train.save_steps=1", "train.save_strategy=steps", "train.max_steps=2")
    assert re.search(r"\n  [\d,]+ weights trained \(LORA\)\n", printed)
    assert [fact.name for fact in result.facts] == ["teacher", "student alone", "distilled student"]
    assert result.facts[0].parameters == result.facts[2].parameters
    assert not list(Path("out").glob("adapter*"))
    assert list(Path("out/checkpoint-1").glob("adapter*"))
    card = Path("out/README.md").read_text()
    assert "weights trained (LORA), made from `teacher`" in card
    assert "taught by the model that it was before its adapters" in card
    saved, started = (AutoModelForSequenceClassification.from_pretrained(each) for each in ("out", "teacher"))
    for name in ("query", "key"):  # PEFT adapts queries and values of a BERT
        pair = [getattr(each.bert.encoder.layer[0].attention.self, name).weight for each in (saved, started)]
        assert torch.equal(*pair) == (name == "key")
    for file in ("model.safetensors", "config.json"):
        Path("out", file).unlink()
    shutil.rmtree("out/checkpoint-2")
    for file in Path("out/checkpoint-1").glob("adapter*"):  # of a run without a recipe, in the same folder
        shutil.copy(file, "out")
    train(*changes, "train.save_strategy=steps", "train.save_steps=1", "train.max_steps=2", resume=True)
    for lora, message in (("{r: 4}", "r=2, and this one has r=4"), ("null", "r=2, and this one has r=None")):
        other = ["teacher={model: teacher}", f"student={{from: teacher, lora: {lora}}}", "losses=null", *changes[3:]]
        with pytest.raises(
            ValueError, match=rf"checkpoint-2 is of a student with adapters of {message}\. Take the for"
        ):
            train(*other, "baseline=false", "train.max_steps=2", resume=True)
    assert not list(Path("out").glob("adapter*"))
    again = AutoModelForSequenceClassification.from_pretrained("out")
    assert all(torch.allclose(value, weights(saved)[name], atol=1e-6) for name, value in weights(again).items())
