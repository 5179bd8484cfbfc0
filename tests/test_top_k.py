"""The largest logits, and the rest as one class: what losses see of them, and what is refused."""

import math

import pytest
import torch
from caches import padded, ragged
from models import tiny
from runs import classifier, distillation, exactly, words

from hf_distill import losses
from hf_distill.batch import Batch
from hf_distill.losses import LogitMSE, SoftTargets
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher
from hf_distill.teachers.base import Teacher
from hf_distill.terms import EvaluatedTerms, TrainedTerms
from hf_distill.top_k import TopK, largest, rest_of

TAKE_IT = {
    "SoftTargets": lambda: SoftTargets(temperature=2.0),
    "ReverseKL": lambda: losses.ReverseKL(temperature=2.0),
    "GeneralizedJSD": lambda: losses.GeneralizedJSD(0.3, temperature=2.0),
    "SkewKL": lambda: losses.SkewKL(temperature=2.0),
    "TotalVariation": lambda: losses.TotalVariation(temperature=2.0),
}


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def kept(values: torch.Tensor, k: int) -> TopK:
    return TopK(*largest(values, k), values.shape[-1])


def test_the_largest_are_those_of_a_sorted_row_and_the_rest_is_what_is_left_of_the_probability():
    values = logits(5, 7)
    found, classes = largest(values, 3)
    for row in range(5):
        order = sorted(range(7), key=lambda each: -values[row, each].item())
        assert classes[row].tolist() == order[:3]
        assert found[row, :3].tolist() == [values[row, each].item() for each in order[:3]]
        rest = math.log(sum(math.exp(values[row, each].item()) for each in order[3:]))
        assert found[row, 3].item() == pytest.approx(rest, rel=1e-5)
    whole, few = values.softmax(-1), found.softmax(-1)
    torch.testing.assert_close(few[:, :3], whole.gather(-1, classes))
    torch.testing.assert_close(few.sum(-1), torch.ones(5))


def test_the_rest_is_finite_and_right_however_large_the_logits_are_and_in_half_precision():
    values = torch.tensor([[3e4, 1.0, -2e4, 0.0]], dtype=torch.float16)
    rest = rest_of(values, torch.tensor([[0]]))
    assert rest.dtype == torch.float32
    assert rest.item() == pytest.approx(math.log(math.e + 1), rel=1e-3)


def test_as_logits_of_all_classes_the_rest_is_spread_evenly():
    found = kept(logits(2, 4, 9), 2)
    whole = found.whole()
    assert whole.shape == (2, 4, 9)
    torch.testing.assert_close(whole.gather(-1, found.classes), found.logits[..., :-1])
    torch.testing.assert_close(rest_of(whole, found.classes), found.logits[..., -1])
    assert (whole.argmax(-1) == found.classes[..., 0]).all()


def test_classes_are_renamed_as_logits_are_reordered():
    values, order = logits(4, 5), torch.tensor([3, 0, 4, 1, 2])
    renamed, expected = kept(values, 3).renamed(order), kept(values[:, order], 3)
    assert (renamed.classes == expected.classes).all()
    assert torch.equal(renamed.logits, expected.logits)
    assert kept(values, 3).renamed(None).classes.equal(kept(values, 3).classes)


# --- what losses see


def term(loss, student, teacher, batch):
    student = student.clone().requires_grad_()
    value = loss({LOGITS: student}, {LOGITS: teacher}, batch)
    value.backward()
    return value.detach(), student.grad


def classes_batch(rows: int) -> Batch:
    return Batch({"input_ids": torch.ones(rows, 3).long()}, Task.SINGLE_LABEL)


@pytest.mark.parametrize("name", TAKE_IT)
def test_a_rest_of_one_class_is_that_class_in_value_and_gradient(name):
    mine, theirs = logits(6, 8), logits(6, 8, seed=1)
    whole = term(TAKE_IT[name](), mine, theirs, classes_batch(6))
    few = term(TAKE_IT[name](), mine, kept(theirs, 7), classes_batch(6))
    torch.testing.assert_close(few[0], whole[0])
    torch.testing.assert_close(few[1], whole[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", TAKE_IT)
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_both_sides_are_the_teachers_largest_and_the_rest(name, chunk_size):
    """Against a loop: the classes that the teacher kept, and the others added up."""
    mine, theirs, loss = logits(5, 9), logits(5, 9, seed=1), TAKE_IT[name]()
    sides = []
    for values in (mine, theirs):
        rows = []
        for row, other in zip(values.tolist(), theirs.tolist(), strict=True):
            best = sorted(range(9), key=lambda each, other=other: -other[each])[:3]
            rest = math.log(sum(math.exp(row[each]) for each in range(9) if each not in best))
            rows.append([*(row[each] for each in best), rest])
        sides.append(torch.tensor(rows))
    expected = TAKE_IT[name]().values(*sides).mean()
    loss.chunk_size = chunk_size
    found, gradient = term(loss, mine, kept(theirs, 3), classes_batch(5))
    torch.testing.assert_close(found, expected)
    at_once = term(TAKE_IT[name](), mine, kept(theirs, 3), classes_batch(5))[1]
    torch.testing.assert_close(gradient, at_once)
    assert term(loss, theirs, kept(theirs, 3), classes_batch(5))[0].item() == pytest.approx(0, abs=1e-6)


def test_what_does_not_count_may_hold_anything_on_both_sides():
    inputs = {
        "input_ids": torch.ones(2, 4).long(),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        "labels": torch.tensor([[1, -100, 2, -100], [-100, 3, 1, -100]]),
    }
    batch, mine, theirs = Batch(inputs, Task.TOKENS), logits(2, 4, 9), kept(logits(2, 4, 9, seed=1), 3)
    counted = batch.predictions
    clean = term(SoftTargets(), mine, theirs, batch)
    spoiled = TopK(torch.where(counted[..., None], theirs.logits, torch.nan), theirs.classes * counted[..., None], 9)
    value, gradient = term(SoftTargets(), torch.where(counted[..., None], mine, torch.nan), spoiled, batch)
    torch.testing.assert_close(value, clean[0])
    assert torch.equal(gradient, clean[1])
    assert not gradient[~counted].any()


def test_a_student_with_other_classes_is_refused():
    message = (
        "SoftTargets: the student's logits are (5, 8), the teacher kept the largest of (5, 9). Give both as many "
    )
    with pytest.raises(ValueError, match=exactly(message + "classes and positions.")):
        term(SoftTargets(), logits(5, 8), kept(logits(5, 9), 3), classes_batch(5))


def test_agreement_is_that_of_the_best_class_and_nobody_looks_for_nan_twice():
    batch, mine, theirs = classes_batch(4), logits(4, 9), logits(4, 9, seed=1)
    found = []
    for known in (theirs, kept(theirs, 2)):
        evaluated = EvaluatedTerms()
        evaluated.add(batch, {"a": torch.tensor(1.0)}, torch.cat([theirs[:2], mine[2:]]), {LOGITS: known})
        found.append(evaluated.means(["a"], lambda sums: sums))
    assert found[0] == found[1]
    assert found[0]["agreement"] >= 0.5
    TrainedTerms().add(batch, {"a": torch.tensor(1.0)}, mine, {LOGITS: kept(theirs, 2)})


# --- what is refused before step 1


class Few(Teacher):
    top_k = 2

    def observe(self, batch):
        raise AssertionError


NEED_ALL = {
    "LogitMSE": LogitMSE,
    "SortedLogits": losses.SortedLogits,
    "DIST": losses.DIST,
    "DecoupledKL": losses.DecoupledKL,
    "NormalizedKD": losses.NormalizedKD,
    "SoftTargets(standardize=True)": lambda: SoftTargets(standardize=True),
}


@pytest.mark.parametrize("name", NEED_ALL)
def test_losses_that_need_every_logit_are_refused_with_the_reason(tmp_path, name):
    message = f"{name} needs the teacher's logits of every class, and of this teacher only the 2 largest of each "
    message += "position are known, with the rest as one class. Use SoftTargets, ReverseKL, GeneralizedJSD, SkewKL or "
    message += "TotalVariation, or cache all logits in another folder, without top_k."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), Few(), [NEED_ALL[name]()], ragged(), data_collator=padded)


@pytest.mark.parametrize(("mine", "theirs"), [(50, 56), (56, 50)])
def test_a_vocabulary_that_is_padded_to_another_size_is_refused_and_the_cure_works(tmp_path, mine, theirs):
    student = tiny("gpt2", "LMHeadModel", vocab_size=mine)

    def trainer():
        teacher = CachedTeacher(
            tmp_path / "cache", tiny("gpt2", "LMHeadModel", 1, vocab_size=theirs), top_k=8, tokenizer=words()
        )
        data = ragged().remove_columns("labels")
        more = {"data_collator": padded, "processing_class": words()}
        return distillation(tmp_path / "out", student, teacher, [SoftTargets()], data, **more)

    message = f"the student's logits are of {mine} classes, the teacher's of {theirs}, and of those only the 8 "
    message += "largest are known, with the rest as one class, and padding cannot be taken out of it. Call "
    message += f"student.resize_token_embeddings({theirs}) before, or cache all logits in another folder, without "
    with pytest.raises(ValueError, match=exactly(message + "top_k.")):
        trainer()
    student.resize_token_embeddings(theirs)
    cured = trainer()
    cured.teacher.fill([cured.train_dataset], padded)
    cured.train()


def test_every_loss_on_logits_takes_it_or_is_refused():
    made = {name: make() for name, make in (TAKE_IT | NEED_ALL).items()}
    assert {type(each) for each in made.values()} == set(losses.CATALOGUE["logits"])
    assert {name for name, each in made.items() if each.takes_top_k} == set(TAKE_IT)


PROBLEMS = {
    "multi_label_classification": (
        2,
        "top_k=2 keeps the largest logits of a softmax over classes, and the task is mult",
    ),
    "regression": (2, "top_k=2 keeps the largest logits of a softmax over classes, and the task is regression"),
    "single_label_classification": (3, "top_k=3 of 3 classes; it must be at least 1 and leave a rest. Leave it out "),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_tasks_and_numbers_that_leave_no_rest_are_refused(tmp_path, problem):
    k, said = PROBLEMS[problem]
    teacher, student = (classifier(seed=seed, problem_type=problem) for seed in (1, 0))
    with pytest.raises(ValueError, match=said):
        CachedTeacher(tmp_path / "cache", teacher, top_k=k).prepare(
            student, frozenset({LOGITS}), torch.device("cpu"), None
        )


def filled(folder, k, *given, **settings):
    teacher = CachedTeacher(folder, classifier(seed=1), top_k=k, **settings)
    teacher.prepare(classifier(), frozenset({LOGITS}), torch.device("cpu"), None)
    teacher.fill(*given or ([ragged()], padded))
    return teacher


@pytest.mark.parametrize(("cached", "here"), [(2, None), (None, 2), (2, 1)])
def test_a_folder_with_more_or_fewer_logits_is_refused(tmp_path, cached, here):
    filled(tmp_path / "it", cached)
    found = "all logits" if cached is None else f"the {cached} largest logits"
    message = f"{tmp_path / 'it'} holds {found} of each position, not top_k={here}. Pass top_k={cached} "
    message += f"(in a recipe cache_top_k: {cached or 'null'}), or cache anew, in another folder."
    with pytest.raises(ValueError, match=exactly(message)):
        CachedTeacher(tmp_path / "it", classifier(seed=1), top_k=here)
    assert CachedTeacher(tmp_path / "it").top_k == cached
    (tmp_path / "it" / "manifest.json").unlink()
    with pytest.raises(ValueError, match=exactly(message)):
        filled(tmp_path / "it", here)


def test_a_live_answer_is_cut_to_the_largest_too(tmp_path):
    teacher = filled(tmp_path, 2, missing="live")
    for rows in (ragged(), ragged(4, seed=5)):
        batch = Batch(padded(list(rows)), Task.SINGLE_LABEL)
        with torch.no_grad():
            expected = kept(classifier(seed=1)(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits, 2)
        found = teacher.observe(batch)[LOGITS]
        assert torch.equal(found.classes, expected.classes)
        torch.testing.assert_close(found.logits, expected.logits)
