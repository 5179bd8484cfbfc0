"""A student that is trained without texts: every source, rounds, resuming, and what is refused."""

import pytest
import torch
from augment.test_sampled import tokenizer
from datasets import load_from_disk
from models import WIDTH, tiny
from runs import QUICK, classifier, exactly, rows, same, weights
from transformers import DataCollatorWithPadding

from hf_distill import DistillationConfig, schemes, students
from hf_distill.augment import statistics
from hf_distill.augment.generator import generated
from hf_distill.augment.sampled import from_masked_lm
from hf_distill.augment.soft_inputs import Wanted, soft_inputs
from hf_distill.losses import TaskLoss

TEXTS = {"rows": 12, "length": 6}
FEW = TEXTS | {"steps": 3}


def plan(folder, watch=None, resume=False, losses=None, student=None, teacher=None, **more) -> schemes.Plan:
    settings = QUICK | {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    teacher = classifier(seed=1) if teacher is None else teacher
    student = students.keep_layers(classifier(seed=1), [1]) if student is None else student
    given = {"processing_class": tokenizer(), "resume": resume, "watch": watch} | more
    return schemes.Plan(student, teacher, losses, DistillationConfig(str(folder), **settings), **given)


def differs(student) -> bool:
    return not torch.equal(student.classifier.weight, classifier(seed=1).classifier.weight)


def test_embeddings_are_made_for_the_teacher_and_the_student_is_trained_on_them(tmp_path):
    table = classifier(seed=1).get_input_embeddings().weight
    student = schemes.data_free(plan(tmp_path, eval_dataset=rows()), "embeddings", **FEW)
    made = load_from_disk(str(tmp_path / "inputs_1")).with_format("torch")["inputs_embeds"][:]
    expected = soft_inputs(classifier(seed=1), 12, 6, Wanted(), steps=3, seed=43)  # the run's seed and the round
    torch.testing.assert_close(made, expected)
    assert made.shape == (12, 6, WIDTH)
    assert differs(student)
    assert torch.equal(student.get_input_embeddings().weight, table)  # what rows of embeddings do not train


def test_published_statistics_take_part(tmp_path):
    teacher = classifier(seed=1)
    texts = rows(labels=False)
    statistics.save(statistics.measure(teacher, texts, DataCollatorWithPadding(tokenizer())), tmp_path / "published")
    made = []
    for published in (None, str(tmp_path / "published")):
        schemes.data_free(plan(tmp_path / "out"), "embeddings", published=published, **FEW)
        made.append(load_from_disk(str(tmp_path / "out" / "inputs_1")).with_format("torch")["inputs_embeds"][:])
    assert not torch.equal(*made)


def test_the_generator_of_each_round_sees_the_student_of_the_round_before(tmp_path):
    seen = []
    schemes.data_free(plan(tmp_path, seen.append), "generator", rounds=2, **FEW)
    assert [trainer.state.max_steps for trainer in seen] == [2, 2]
    first = students.keep_layers(classifier(seed=1), [1])
    first.load_state_dict(type(first).from_pretrained(tmp_path / "round_1").state_dict())
    for number, student in ((1, students.keep_layers(classifier(seed=1), [1])), (2, first)):
        made = load_from_disk(str(tmp_path / f"inputs_{number}")).with_format("torch")["inputs_embeds"][:]
        expected, _ = generated(classifier(seed=1), student, 12, 6, Wanted(), steps=3, seed=42 + number)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("source", ["masked_lm", "causal_lm", "random_tokens"])
def test_texts_are_made_and_read_by_both(tmp_path, source):
    lm = {"masked_lm": tiny("bert", "ForMaskedLM"), "causal_lm": tiny("gpt2", "LMHeadModel")}.get(source)
    if lm is not None:
        lm.save_pretrained(tmp_path / "lm")
        tokenizer().save_pretrained(tmp_path / "lm")
    seen, path = [], None if lm is None else str(tmp_path / "lm")
    student = schemes.data_free(plan(tmp_path / "out", seen.append), source, lm=path, **TEXTS)
    made = load_from_disk(str(tmp_path / "out" / "inputs_1"))
    assert len(made) == 12
    assert max(map(len, made["input_ids"])) <= 6
    assert differs(student)
    with torch.no_grad():
        moved = student.get_input_embeddings().weight != classifier(seed=1).get_input_embeddings().weight
    assert moved.any()  # ids train the table
    assert len(seen) == 1


def test_a_teacher_that_is_a_language_model_writes_its_own_texts(tmp_path):
    teacher = tiny("bert", "ForMaskedLM")
    student = students.keep_layers(teacher, [1])
    schemes.data_free(plan(tmp_path, student=student, teacher=teacher), "masked_lm", **TEXTS)
    assert len(load_from_disk(str(tmp_path / "inputs_1"))["text"]) == 12


class Killed(Exception):
    pass


def test_a_run_that_was_cut_off_goes_on_as_it_would_have(tmp_path):
    knobs = {"source": "generator", "rounds": 2, **FEW}
    whole = weights(schemes.data_free(plan(tmp_path / "whole"), **knobs))
    rounds = []

    def kill(trainer):
        rounds.append(trainer)
        if len(rounds) == 2:
            observe, calls = trainer.teacher.observe, []

            def until_the_second(batch):
                calls.append(batch)
                if len(calls) == 2:
                    raise Killed
                return observe(batch)

            trainer.teacher.observe = until_the_second

    with pytest.raises(Killed):
        schemes.data_free(plan(tmp_path / "cut", kill), **knobs)
    trained = []
    again = schemes.data_free(plan(tmp_path / "cut", trained.append, resume=True), **knobs)
    assert same(whole, weights(again))
    assert len(trained) == 1  # the first round was finished


def refused(message: str):
    return pytest.raises(ValueError, match=exactly(message))


def test_what_cannot_work_is_refused_and_nothing_is_left_behind(tmp_path):
    known = "use one of embeddings, generator, masked_lm, causal_lm, random_tokens."
    with refused(f"data_free: source='dreams' is not known; {known}"):
        schemes.data_free(plan(tmp_path), "dreams")
    with refused("data_free: rounds is 0; it must be at least 1."):
        schemes.data_free(plan(tmp_path), rounds=0)
    with refused("data_free: source='random_tokens' makes texts. Pass processing_class=tokenizer to the Plan."):
        schemes.data_free(plan(tmp_path, processing_class=None), "random_tokens")
    message = (
        "data_free: source='masked_lm' needs a language model, and the teacher is none. Pass lm=, a folder or id."
    )
    with refused(message):
        schemes.data_free(plan(tmp_path), "masked_lm")
    with pytest.raises(ValueError, match="the student's table of token embeddings is not the teacher's"):
        schemes.data_free(plan(tmp_path, student=classifier()), "embeddings")
    message = "inputs of data_free are embeddings: the student's are 16 wide, the teacher's 32. Make the student from "
    with refused(message + "the teacher (students.keep_layers, students.from_teacher)."):
        schemes.data_free(plan(tmp_path, student=classifier(hidden_size=16)), "generator")
    with pytest.raises(ValueError, match="has no labels"):
        schemes.data_free(plan(tmp_path, losses=[TaskLoss()]), "embeddings", **FEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["batch_size", "steps"])
def test_a_count_that_is_none_is_refused(tmp_path, name):
    with refused(f"data_free: {name} is 0; it must be at least 1."):
        schemes.data_free(plan(tmp_path), **{**FEW, name: 0})


@pytest.mark.parametrize(
    ("source", "name", "value"),
    [("embeddings", "learning_rate", -1.0), ("generator", "learning_rate", 0.0), ("masked_lm", "temperature", 0.0)],
)
def test_a_number_that_must_be_above_0(tmp_path, source, name, value):
    with refused(f"data_free: {name} is {value}; it must be above 0."):
        schemes.data_free(plan(tmp_path), source, **{name: value})


def test_rows_that_are_longer_than_a_model_takes_are_refused(tmp_path):
    long, short = classifier(seed=1, max_position_embeddings=99), classifier(seed=1, max_position_embeddings=40)
    for student, teacher, who in ((short, long, "student"), (long, short, "teacher")):
        for source in ("embeddings", "random_tokens"):
            with refused(f"data_free: length is 41, and the {who} takes 40 tokens. Make it shorter."):
                schemes.data_free(plan(tmp_path, student=student, teacher=teacher), source, length=41)
    tiny("bert", "ForMaskedLM", max_position_embeddings=40).save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    with refused("data_free: length is 41, and the language model takes 40 tokens. Make it shorter."):
        made = plan(tmp_path / "out", student=long, teacher=long)
        schemes.data_free(made, "masked_lm", lm=str(tmp_path / "lm"), length=41)


def test_a_language_model_that_is_not_there_is_named_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^data_free: lm 'no/such': [^\n]+$"):
        schemes.data_free(plan(tmp_path), "masked_lm", lm="no/such", **TEXTS)


OF_INPUTS = {"steps": 3, "learning_rate": 1.0, "confidence": 1.0, "diversity": 5.0, "matching": 1.0, "published": "x"}
UNREAD = [
    ("embeddings", {"lm": "x"}),
    ("generator", {"temperature": 1.0}),
    ("embeddings", {"adversarial": 1.0}),
    *((source, {name: value}) for source in ("causal_lm", "random_tokens") for name, value in OF_INPUTS.items()),
    ("masked_lm", {"adversarial": 0.0}),
    ("random_tokens", {"batch_size": 64}),
    ("random_tokens", {"lm": "x", "temperature": 1.0}),
]


@pytest.mark.parametrize(("source", "knobs"), UNREAD)
def test_knobs_that_a_source_does_not_read_are_refused(tmp_path, source, knobs):
    given, it = ", ".join(f"{name}={value!r}" for name, value in knobs.items()), "it" if len(knobs) == 1 else "them"
    with refused(
        f"data_free: {given} would change nothing, because source='{source}' does not read that. Leave {it} out."
    ):
        schemes.data_free(plan(tmp_path), source, **knobs)


def test_a_weight_of_statistics_that_nobody_published_is_refused(tmp_path):
    with refused("data_free: matching=1.0 would change nothing, because no statistics are published. Leave it out."):
        schemes.data_free(plan(tmp_path), matching=1.0)


@pytest.mark.parametrize(
    ("source", "knobs"),
    [
        ("embeddings", {"learning_rate": 0.5, "batch_size": 5, "confidence": 2.0, "diversity": 3.0}),
        ("generator", {"learning_rate": 0.5, "batch_size": 5, "adversarial": 4.0}),
    ],
)
def test_knobs_reach_what_makes_the_inputs(tmp_path, source, knobs):
    schemes.data_free(plan(tmp_path), source, **FEW, **knobs)
    made = load_from_disk(str(tmp_path / "inputs_1")).with_format("torch")["inputs_embeds"][:]
    wanted = Wanted(knobs.pop("confidence", 1.0), knobs.pop("diversity", 5.0))
    if source == "embeddings":
        expected = soft_inputs(classifier(seed=1), 12, 6, wanted, steps=3, seed=43, **knobs)
    else:
        student = students.keep_layers(classifier(seed=1), [1])
        expected, _ = generated(classifier(seed=1), student, 12, 6, wanted, steps=3, seed=43, **knobs)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)


def test_the_temperature_reaches_the_language_model(tmp_path):
    lm = tiny("bert", "ForMaskedLM").eval()
    lm.save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    made = plan(tmp_path / "out")
    schemes.data_free(made, "masked_lm", lm=str(tmp_path / "lm"), temperature=0.01, batch_size=5, **TEXTS)
    expected = from_masked_lm(lm, tokenizer(), 12, 6, temperature=0.01, batch_size=5, seed=43)
    assert load_from_disk(str(tmp_path / "out" / "inputs_1"))["text"][:] == expected


def test_a_scheme_that_needs_texts_says_so_where_there_are_none(tmp_path):
    with refused("born_again needs texts: pass train_dataset= to the Plan, or take data_free."):
        schemes.born_again(plan(tmp_path))
