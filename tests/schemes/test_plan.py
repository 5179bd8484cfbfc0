"""Stages are rehearsed, trained once, found again, and told in one card."""

import json
import shutil
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from models import LABELS
from rich.console import Console
from runs import QUICK, classifier, distillation, exactly, rows, same, weights
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, TrainerCallback

from hf_distill import DistillationConfig, losses, schemes
from hf_distill.anatomy import describe
from hf_distill.schemes import wording
from hf_distill.signals import LOGITS
from hf_distill.teachers import CachedTeacher, EnsembleTeacher, NoisyTeacher, PeerTeacher, Teacher

from .arranged import SAVING, Stop, plan, planned


@schemes.scheme
def twice(plan, again=True):
    """Two stages, the second taught by the first."""
    first = plan.stage("first", plan.fresh(), plan.teacher)
    return plan.stage("second", plan.fresh(), first) if again else first


def test_a_stage_is_what_one_trainer_does(tmp_path):
    made = twice(plan(tmp_path / "plan"), again=False)
    alone = distillation(tmp_path / "alone", classifier(), classifier(seed=1).eval())
    alone.train()
    assert same(weights(made), weights(alone.model))
    assert not made.training


def test_the_second_stage_is_taught_by_the_first_and_starts_fresh(tmp_path):
    first = twice(plan(tmp_path / "one"), again=False)
    alone = distillation(tmp_path / "alone", classifier(), first)
    alone.train()
    assert same(weights(twice(plan(tmp_path / "two"))), weights(alone.model))


@pytest.mark.parametrize("after", [0, 2, 3, 4])
def test_a_scheme_that_was_cut_off_goes_on_and_ends_the_same(tmp_path, after):
    whole = twice(plan(tmp_path / "whole", **SAVING))
    stop = Stop(after)
    with pytest.raises(KeyboardInterrupt):
        twice(plan(tmp_path / "cut", watch=lambda trainer: trainer.add_callback(stop), **SAVING))
    taken = []
    console = Console(file=StringIO(), width=200)

    def count(trainer):
        trainer.add_callback(Counted(taken))

    resumed = twice(plan(tmp_path / "cut", resume=True, watch=count, console=console, **SAVING))
    assert same(weights(whole), weights(resumed))
    assert len(taken) == 6 - after  # each step was taken once
    assert ("first: finished before" in console.file.getvalue()) == (after >= 3)
    saved = [json.loads((tmp_path / name / "stages.json").read_text()) for name in ("whole", "cut")]
    for each in saved:
        for stage in each["stages"]:
            stage.pop("seconds")
    assert saved[0] == saved[1]


class Counted(TrainerCallback):
    def __init__(self, taken):
        self.taken = taken

    def on_step_end(self, args, state, control, **kwargs):
        self.taken.append(state.global_step)


def test_without_resume_it_starts_anew(tmp_path):
    first = twice(plan(tmp_path, **SAVING))
    (tmp_path / "first" / "checkpoint-99").mkdir()
    again = twice(plan(tmp_path, **SAVING))
    assert same(weights(first), weights(again))
    assert not (tmp_path / "first" / "checkpoint-99").exists()


def test_what_somebody_else_keeps_there_is_refused_and_left(tmp_path):
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="second is needed for a part of the scheme"):
        twice(plan(tmp_path))
    assert (tmp_path / "second" / "notes.txt").exists()
    assert not (tmp_path / "first").exists()


def test_a_former_runs_later_stages_are_not_taken_for_this_ones(tmp_path):
    other = rows().map(lambda row: {"labels": (row["labels"] + 1) % 3})
    whole = twice(plan(tmp_path / "whole", data=other, **SAVING))
    twice(plan(tmp_path / "cut", **SAVING))
    stop = Stop(1)
    with pytest.raises(KeyboardInterrupt):
        twice(plan(tmp_path / "cut", data=other, watch=lambda trainer: trainer.add_callback(stop), **SAVING))
    assert same(weights(twice(plan(tmp_path / "cut", data=other, resume=True, **SAVING))), weights(whole))


def test_after_a_stage_that_was_trained_again_the_rest_is_too(tmp_path):
    twice(plan(tmp_path, **SAVING))
    before = (tmp_path / "second" / "stage.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "first")
    twice(plan(tmp_path, resume=True, **SAVING))
    assert (tmp_path / "second" / "stage.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("changed", ["knob", "teacher", "kind", "decay", "epsilon"])
def test_whatever_else_differs_is_refused_before_anything_trains(tmp_path, changed):
    @schemes.scheme
    def one(plan, knob=1):
        return plan.stage("one", plan.fresh(), plan.teacher)

    model = classifier(seed=1).eval()
    one(plan(tmp_path, teacher=NoisyTeacher(model, sigma=0.1)))
    again = {
        "knob": lambda: one(plan(tmp_path, teacher=NoisyTeacher(model, sigma=0.1), resume=True), knob=2),
        "teacher": lambda: one(
            plan(tmp_path, teacher=NoisyTeacher(classifier(seed=2).eval(), sigma=0.1), resume=True)
        ),
        "kind": lambda: one(plan(tmp_path, teacher=NoisyTeacher(model, sigma=5.0), resume=True)),
        "decay": lambda: one(plan(tmp_path, teacher=NoisyTeacher(model, sigma=0.1), resume=True, weight_decay=0.5)),
        "epsilon": lambda: one(plan(tmp_path, teacher=NoisyTeacher(model, sigma=0.1), resume=True, adam_epsilon=1e-3)),
    }[changed]
    with pytest.raises(ValueError, match="one was begun with"):
        again()


def test_other_rows_and_another_second_teacher_are_refused(tmp_path):
    one, two, three = (classifier(seed=seed).eval() for seed in (1, 2, 3))
    twice(plan(tmp_path, teacher=EnsembleTeacher([one, two])))
    with pytest.raises(ValueError, match=r"first was begun with settings {'teachers': .*Resume with what it was"):
        twice(plan(tmp_path, teacher=EnsembleTeacher([one, three]), resume=True))
    others = rows().map(lambda row: {"input_ids": row["input_ids"][::-1]})
    with pytest.raises(
        ValueError, match=r"first was begun with settings {'content_of_rows': .*Resume with what it was"
    ):
        twice(plan(tmp_path, teacher=EnsembleTeacher([one, two]), data=others, resume=True))
    again = rows().map(lambda row: row)  # of another history, and the same
    again = again.select_columns(again.column_names[::-1]).with_format("torch")
    twice(plan(tmp_path, teacher=EnsembleTeacher([one, two]), data=again, resume=True))


def test_a_knob_that_is_too_long_for_the_words_is_compared_too(tmp_path):
    models = [classifier(seed=seed).eval() for seed in (1, 2)]
    weights = [[0.1234567890123456, 0.8765432109876544], [0.1234567890123457, 0.8765432109876543]]
    twice(plan(tmp_path, teacher=EnsembleTeacher(models, weights=weights[0])))
    with pytest.raises(ValueError, match=r"first was begun with settings {'knobs': .*Resume with what it was"):
        twice(plan(tmp_path, teacher=EnsembleTeacher(models, weights=weights[1]), resume=True))
    twice(plan(tmp_path, teacher=EnsembleTeacher(models, weights=weights[0]), resume=True))


def test_another_second_peer_is_refused(tmp_path):
    seeds = [1, 2]

    @schemes.scheme
    def beside(plan):
        return plan.stage("one", plan.fresh(), PeerTeacher([classifier(seed=seed) for seed in seeds], temperature=2.0))

    beside(plan(tmp_path))
    seeds[1] = 3
    with pytest.raises(ValueError, match=r"one was begun with settings {'teachers': "):
        beside(plan(tmp_path, resume=True))
    seeds[1] = 2
    beside(plan(tmp_path, resume=True))


def test_the_answers_of_another_cached_teacher_are_refused(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        cached = CachedTeacher(tmp_path / name, classifier(seed=seed).eval())
        trainer = distillation(tmp_path, classifier(), cached)
        cached.fill([trainer.train_dataset], trainer.data_collator)
    twice(plan(tmp_path / "out", teacher=CachedTeacher(tmp_path / "one")))
    with pytest.raises(ValueError, match=r"first was begun with settings {'teachers': "):
        twice(plan(tmp_path / "out", teacher=CachedTeacher(tmp_path / "two"), resume=True))
    twice(plan(tmp_path / "out", teacher=CachedTeacher(tmp_path / "one"), resume=True))
    with_model = CachedTeacher(tmp_path / "one", classifier(seed=1).eval(), missing="live", batch_size=4)
    twice(plan(tmp_path / "out", teacher=with_model, resume=True))  # the same answers


def test_rows_are_told_apart_by_what_is_in_them_and_not_by_where_it_lies():
    def drawn(path, colour):
        content = {"image": [{"bytes": colour, "path": path}] * 3, "labels": [0, 1, 2]}
        return Dataset.from_dict(content, features=Features({"image": Image(decode=False), "labels": Value("int64")}))

    def told(rows):
        return wording.making_of(SimpleNamespace(trainer_kwargs={"train_dataset": rows}, teacher=None, scheme=""))

    assert told(drawn("a/1.png", b"red")) == told(drawn("b/1.png", b"red"))
    assert told(drawn("a/1.png", b"red")) != told(drawn("a/1.png", b"blue"))
    pixels = np.zeros((100, 3, 64, 64), np.float32)
    large = told(Dataset.from_dict({"pixels": pixels}))
    pixels[-1] = 1  # beyond the first megabyte, which is not read
    assert told(Dataset.from_dict({"pixels": pixels})) == large
    pixels[0] = 1
    assert told(Dataset.from_dict({"pixels": pixels})) != large


def test_a_stage_of_other_settings_is_refused(tmp_path):
    twice(plan(tmp_path))
    with pytest.raises(ValueError, match=r"first was begun with settings .*'learning_rate': 0.01.* and now it is"):
        twice(plan(tmp_path, resume=True, learning_rate=1e-3))
    with pytest.raises(ValueError, match="first was begun with losses"):
        twice(plan(tmp_path, resume=True, losses=[losses.SoftTargets()]))


def test_the_given_student_is_left_alone(tmp_path):
    student = classifier()
    before = weights(student)
    twice(plan(tmp_path, student))
    assert same(before, weights(student))
    assert all(weight.requires_grad for weight in student.parameters())


def test_a_function_may_make_the_student(tmp_path):
    made = []

    def make():
        made.append(classifier())
        return made[-1]

    assert same(weights(twice(plan(tmp_path / "a", make))), weights(twice(plan(tmp_path / "b"))))
    assert len(made) == 4  # two stages, rehearsed and trained


def test_students_that_are_drawn_are_the_same_in_a_resumed_run_and_differ_among_themselves(tmp_path):
    drawn, config = [], classifier().config

    def make():
        student = BertForSequenceClassification(config)
        drawn.append(student.classifier.weight.detach().clone())
        return student

    torch.manual_seed(1)
    whole = twice(plan(tmp_path / "whole", make, **SAVING))
    assert not torch.equal(drawn[-1], drawn[-2])
    stop = Stop(4)
    with pytest.raises(KeyboardInterrupt):
        twice(plan(tmp_path / "cut", make, watch=lambda trainer: trainer.add_callback(stop), **SAVING))
    torch.manual_seed(2)
    assert same(weights(twice(plan(tmp_path / "cut", make, resume=True, **SAVING))), weights(whole))


def test_the_end_is_saved_with_a_card_that_tells_the_lineage(tmp_path):
    student = twice(plan(tmp_path, eval_dataset=rows(8)))
    assert same(weights(AutoModelForSequenceClassification.from_pretrained(tmp_path)), weights(student))
    card = (tmp_path / "README.md").read_text()
    assert "`twice(again=True)`" in card
    lines = [line for line in card.splitlines() if line.startswith(("| first", "| second"))]
    assert [line.split(" | ")[1] for line in lines] == ["BertForSequenceClassification", "first"]
    stages = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert [stage["steps"] for stage in stages] == [3, 3]
    assert all(set(stage["metrics"]) == {"agreement"} for stage in stages)


class Rules(Teacher):
    """A function of its own, with a model inside that is none of transformers."""

    known_as = "some rules"

    def __init__(self):
        self.shape, self.model = describe(classifier()), torch.nn.Linear(1, 1)

    def observe(self, batch):
        return {LOGITS: torch.zeros(batch.rows, LABELS)}


def named(folder, name, seed):
    """A classifier that was loaded from a folder of that name."""
    classifier(seed=seed).save_pretrained(folder / name)
    return AutoModelForSequenceClassification.from_pretrained(folder / name).eval()


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        (lambda one, two: one, "distilled from `one`."),
        (lambda one, two: EnsembleTeacher([one, NoisyTeacher(two, sigma=0.1)]), "distilled from `one` and `two`."),
        (lambda one, two: classifier(seed=1).eval(), "distilled from `BertForSequenceClassification`."),
        (lambda one, two: EnsembleTeacher([one, Rules()]), "taught by some rules and one, by `twice(again=True)`."),
        (lambda one, two: None, "trained without a teacher of its own, by `twice(again=True)`."),
    ],
)
def test_the_card_names_the_teacher_of_the_scheme_and_no_stage_of_it(tmp_path, teacher, said):
    student, taught_by = named(tmp_path, "start", 0), teacher(named(tmp_path, "one", 1), named(tmp_path, "two", 2))
    twice(planned(tmp_path / "out", student, taught_by))
    card = (tmp_path / "out" / "README.md").read_text()
    assert said in card
    assert "`start`" not in card


def test_the_card_names_a_teacher_that_is_put_together_anew_or_is_of_one_stage(tmp_path):
    @schemes.scheme
    def anew(plan, other):
        teacher = EnsembleTeacher(plan.teacher.members) if other is None else other
        return plan.stage("one", plan.fresh(), teacher)

    one, two = named(tmp_path, "one", 1), named(tmp_path, "two", 2)
    anew(plan(tmp_path / "members", teacher=EnsembleTeacher([one, two])), None)
    assert "distilled from `one` and `two`." in (tmp_path / "members" / "README.md").read_text()
    anew(planned(tmp_path / "other", classifier()), two)
    assert "distilled from `two`." in (tmp_path / "other" / "README.md").read_text()


def test_the_card_of_a_run_that_was_cut_off_at_its_very_end_says_how_long_it_trained(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(schemes.Plan, "finish", lambda self, student: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            twice(plan(tmp_path))
    twice(plan(tmp_path, resume=True))
    assert "| epochs | 0.75 |" in (tmp_path / "README.md").read_text()  # three steps of four rows each, of 16


def test_a_share_of_the_steps_and_other_fields(tmp_path):
    @schemes.scheme
    def shared(plan, by):
        return plan.stage("only", plan.fresh(), plan.teacher, share=0.5, args=by)

    folder = tmp_path / "steps"
    shared(plan(folder, max_steps=4), {"learning_rate": 1e-3})
    (stage,) = json.loads((folder / "stages.json").read_text())["stages"]
    assert (stage["steps"], stage["settings"]["learning_rate"]) == (2, 1e-3)
    folder = tmp_path / "epochs"
    shared(plan(folder, max_steps=-1, num_train_epochs=2), {})
    (stage,) = json.loads((folder / "stages.json").read_text())["stages"]
    assert stage["steps"] == 4  # 16 rows, 4 a step, one epoch of two
    with pytest.raises(ValueError, match=exactly("DistillationConfig has no field 'lr'.")):
        shared(plan(folder), {"lr": 1})


@schemes.scheme
def keeping(plan):
    """A stage, and a model beside it."""
    made = plan.stage("only", plan.fresh(), plan.teacher)
    plan.keep("beside", classifier(seed=5))
    return made


@pytest.mark.parametrize("resume", [True, False])
def test_what_was_cut_off_while_it_was_kept_is_kept_again(tmp_path, monkeypatch, resume):
    def cut_off(self, model, folder):
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(schemes.Plan, "_save", cut_off)
        with pytest.raises(KeyboardInterrupt):
            keeping(plan(tmp_path))
    keeping(plan(tmp_path, resume=resume))
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "beside")
    assert same(weights(found), weights(classifier(seed=5)))


def test_what_a_learning_teacher_refuses_is_refused_before_the_first_stage(tmp_path):
    @schemes.scheme
    def late(plan):
        first = plan.stage("first", plan.fresh(), plan.teacher)
        return plan.stage("second", first, PeerTeacher(classifier(seed=2)))

    trained = []
    with pytest.raises(ValueError, match="lr_scheduler_type='reduce_lr_on_plateau' follows the evaluation"):
        late(plan(tmp_path, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_dataset=rows(4),
                  watch=trained.append))  # fmt: skip
    assert not trained


@pytest.mark.parametrize("share", [0, -1, float("nan")])
def test_a_share_of_nothing_is_refused_before_the_first_stage(tmp_path, share):
    @schemes.scheme
    def shared(plan):
        first = plan.stage("first", plan.fresh(), plan.teacher, share=2.0)
        return plan.stage("second", first, plan.teacher, share=share)

    trained = []
    message = f"stage 'second': share is {share}, of the plan's epochs or steps; it must be above 0."
    with pytest.raises(ValueError, match=exactly(message)):
        shared(plan(tmp_path, watch=trained.append))
    assert not trained


def test_data_that_takes_long_is_made_once(tmp_path):
    made = []

    @schemes.scheme
    def with_rows(plan):
        def make():
            made.append(plan.rehearsing)
            return Dataset.from_dict(rows(8).to_dict())

        return plan.stage("only", plan.fresh(), plan.teacher, train_dataset=plan.once("more_rows", make))

    with_rows(plan(tmp_path))
    assert made == [True, False]
    with_rows(plan(tmp_path, resume=True))
    assert made == [True, False, True]
    with_rows(plan(tmp_path))
    assert made == [True, False, True, True, False]
    (stage,) = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert stage["settings"]["rows"] == 8


def test_data_of_another_call_or_of_other_rows_is_refused_before_anything_trains(tmp_path):
    @schemes.scheme
    def with_rows(plan, count=8):
        made = plan.once("more_rows", lambda: Dataset.from_dict(rows(count).to_dict()))
        return plan.stage("only", plan.fresh(), plan.teacher, train_dataset=made)

    class Stopped(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_rows(plan(tmp_path, watch=lambda trainer: trainer.add_callback(Stopped())))
    shutil.rmtree(tmp_path / "only")  # it was made, and the stage had not begun
    for changed, knobs in (({}, {"count": 4}), ({"data": rows(4)}, {}), ({"teacher": classifier(seed=5).eval()}, {})):
        with pytest.raises(ValueError, match=r"more_rows was made of \{'.*Resume with what it was made of"):
            with_rows(plan(tmp_path, resume=True, **changed), **knobs)
    with_rows(plan(tmp_path, resume=True))


def test_a_student_that_two_stages_train_has_adapters_once(tmp_path):
    from peft import LoraConfig, PeftModel

    @schemes.scheme
    def longer(plan):
        student = plan.stage("first", plan.fresh(), plan.teacher)
        return plan.stage("second", student, plan.teacher)

    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    made = longer(plan(tmp_path, peft_config=lora))
    again = PeftModel.from_pretrained(classifier(), tmp_path)
    assert same(weights(again), weights(made))
    assert same(weights(longer(plan(tmp_path, peft_config=lora, resume=True))), weights(made))


def test_adapters_are_trained_and_found_again(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])
    first = twice(plan(tmp_path, peft_config=lora))
    again = twice(plan(tmp_path, peft_config=lora, resume=True))
    assert same(weights(first), weights(again))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"optimizers": (None, None)}, "optimizers is for one training"),
        ({"model_init": classifier}, "model_init is for one training"),
    ],
)
def test_what_is_for_one_training_is_refused(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        plan(tmp_path, **changed)


def test_what_cannot_be_a_plan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="born_again needs texts: pass train_dataset="):
        schemes.born_again(schemes.Plan(classifier(), args=DistillationConfig(str(tmp_path), use_cpu=True)))

    @schemes.scheme
    def same_name(plan):
        plan.stage("a", plan.fresh(), plan.teacher)
        return plan.stage("a", plan.fresh(), plan.teacher)

    with pytest.raises(ValueError, match=exactly("two stages are called 'a'; give each a name of its own.")):
        same_name(plan(tmp_path))

    @schemes.scheme
    def needy(plan):
        return plan.stage("a", plan.fresh(), plan.need_teacher())

    alone = schemes.Plan(classifier(), args=DistillationConfig(str(tmp_path), use_cpu=True), train_dataset=rows())
    with pytest.raises(ValueError, match=exactly("needy needs a teacher. Pass teacher= to the Plan.")):
        needy(alone)


def test_without_a_teacher_the_labels_are_learned(tmp_path):
    args = DistillationConfig(str(tmp_path), **QUICK)
    alone = schemes.Plan(classifier(), args=args, train_dataset=rows(), console=Console(file=StringIO()))
    twice(alone)
    found = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert found[0]["losses"][0].startswith("TaskLoss")
    assert [stage["teacher"] for stage in found] == [None, "first"]


def test_a_teacher_in_words(tmp_path):
    class Rules(Teacher):
        def observe(self, batch):
            return {LOGITS: torch.zeros(len(batch.inputs["input_ids"]), 3)}

    twice(plan(tmp_path, teacher=Rules()), again=False)
    (stage,) = json.loads((tmp_path / "stages.json").read_text())["stages"]
    assert stage["teacher"] == "Rules()"
