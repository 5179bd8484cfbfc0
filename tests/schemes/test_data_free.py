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
from hf_distill.augment.soft_inputs import Wanted, soft_inputs
from hf_distill.losses import TaskLoss

FEW = {"rows": 12, "length": 6, "steps": 3}


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
    student = schemes.data_free(plan(tmp_path / "out", seen.append), source, lm=path, **FEW)
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
    schemes.data_free(plan(tmp_path, student=student, teacher=teacher), "masked_lm", **FEW)
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


def test_a_scheme_that_needs_texts_says_so_where_there_are_none(tmp_path):
    with refused("born_again needs texts: pass train_dataset= to the Plan, or take data_free."):
        schemes.born_again(plan(tmp_path))
