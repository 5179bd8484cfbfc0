"""Noise on the logits: how much, on which examples, and that it does not depend on how a step is cut."""

import pytest
import torch
from models import LABELS, inputs_of, tiny
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill.batch import Batch
from hf_distill.losses import HiddenMSE, SoftTargets
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher, ModelTeacher, NoisyTeacher, OtherView, SelectiveTeacher, Teacher
from hf_distill.top_k import TopK, largest


class Fixed(Teacher):
    """Answers 2 to every question, and something else beside."""

    input_names = ("input_ids", "attention_mask")

    def __init__(self, *shape):
        self.shape_of_answers = shape

    def observe(self, batch):
        return {LOGITS: torch.full((batch.rows, *self.shape_of_answers), 2.0), hidden(0): torch.ones(1)}


def batch_of(ids, mask=None, task=Task.SINGLE_LABEL, seed=0, **more):
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask, **more}
    return Batch(inputs, task, seed=seed)


def ids(count, length=5):
    return torch.arange(count)[:, None] * 7 + torch.arange(length) + 3


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_the_noise_has_its_size_on_its_share_of_the_examples(kind):
    teacher = NoisyTeacher(Fixed(LABELS), sigma=0.25, share=0.3, kind=kind)
    found = teacher.observe(batch_of(ids(3000)))
    disturbed = (found[LOGITS] != 2).all(-1)
    assert torch.equal(disturbed, (found[LOGITS] != 2).any(-1))  # a whole example or nothing of it
    assert disturbed.float().mean() == pytest.approx(0.3, abs=0.03)
    noise = found[LOGITS][disturbed] - 2
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(0.25 * (2 if kind == "multiplicative" else 1), rel=0.05)
    assert torch.corrcoef(noise.T).triu(1).abs().max() < 0.1  # each logit by itself
    assert found[hidden(0)].item() == 1


def test_an_evaluation_hears_the_teacher_itself():
    teacher = NoisyTeacher(Fixed(LABELS), share=1.0)
    with torch.no_grad():
        assert (teacher.observe(batch_of(ids(9)))[LOGITS] == 2).all()
    assert (teacher.observe(batch_of(ids(9)))[LOGITS] != 2).all()


def test_every_example_and_every_step_has_noise_of_its_own_which_comes_again():
    teacher, other = NoisyTeacher(Fixed(LABELS), share=1.0), NoisyTeacher(Fixed(LABELS), share=1.0, seed=1)
    found = teacher.observe(batch_of(ids(50)))[LOGITS]
    assert len(found.unique(dim=0)) == 50
    torch.rand(3)  # what others draw changes nothing
    assert torch.equal(found, teacher.observe(batch_of(ids(50)))[LOGITS])
    assert not torch.isclose(found, teacher.observe(batch_of(ids(50), seed=1))[LOGITS]).all(-1).any()
    assert not torch.isclose(found, other.observe(batch_of(ids(50)))[LOGITS]).all(-1).any()


@pytest.mark.parametrize(
    ("task", "shape", "position"),
    [(Task.SINGLE_LABEL, (LABELS,), None), (Task.TOKENS, (8, 20), 0), (Task.SPAN, (2, 8), 1)],
)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_noise_knows_neither_padding_nor_place_in_the_batch(task, shape, position, side):
    read = ids(4)
    padding = torch.zeros(4, 3, dtype=torch.long)
    parts = [padding, read] if side == "left" else [read, padding]
    mask = torch.cat([torch.ones_like(each) * (each is read) for each in parts], 1)
    short = tuple(5 if size == 8 else size for size in shape)
    alone = [NoisyTeacher(Fixed(*short), share=0.7).observe(batch_of(row[None], task=task))[LOGITS] for row in read]
    order = [2, 0, 3, 1]
    together = batch_of(torch.cat(parts, 1)[order], mask[order], task)
    found = NoisyTeacher(Fixed(*shape), share=0.7).observe(together)[LOGITS]
    if position is not None:
        found = found.narrow(position + 1, 3 if side == "left" else 0, 5)
    assert torch.equal(found, torch.cat(alone)[order])


def test_of_the_largest_logits_those_and_the_rest_are_disturbed():
    class Largest(Fixed):
        def observe(self, batch):
            return {LOGITS: TopK(*largest(torch.arange(10.0).expand(batch.rows, 10), 3), 10)}

    found = NoisyTeacher(Largest(), share=1.0, kind="additive").observe(batch_of(ids(2)))[LOGITS]
    assert found.classes.tolist() == [[9, 8, 7]] * 2
    assert found.logits.shape == (2, 4)
    assert not torch.isclose(found.logits[:, :3], torch.tensor([9.0, 8.0, 7.0])).any()


def test_images_have_noise_too():
    model = tiny("vit", "ForImageClassification", num_labels=LABELS)
    batch = Batch(inputs_of(model), Task.SINGLE_LABEL)
    teacher = ModelTeacher(model)
    teacher.prepare(tiny("vit", "ForImageClassification", num_labels=LABELS), frozenset({LOGITS}), "cpu", None)
    assert (NoisyTeacher(teacher, share=1.0).observe(batch)[LOGITS] != teacher.observe(batch)[LOGITS]).all()


def test_accumulated_a_step_is_the_same_and_without_noise_nothing_changes(tmp_path):
    found = {}
    for name, sigma, size, accumulated in (
        ("8", 0.5, 8, 1),
        ("2x4", 0.5, 2, 4),
        ("none", 0.0, 8, 1),
        ("bare", None, 8, 1),
    ):
        student, teacher = classifier(), classifier(seed=1)
        if sigma is not None:
            teacher = NoisyTeacher(teacher, sigma=sigma)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "optim": "sgd"}
        trainer = distillation(tmp_path / name, student, teacher, [SoftTargets(), HiddenMSE()], rows(24), **settings)
        trainer.train()
        found[name] = weights(student)
    assert same(found["none"], found["bare"])
    for name, tensor in found["8"].items():
        torch.testing.assert_close(found["2x4"][name], tensor, rtol=0, atol=1e-6)
    assert max((found["8"][name] - found["none"][name]).abs().max() for name in found["8"]) > 1e-5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sigma": -1.0}, "NoisyTeacher: sigma is -1.0; it must be 0 or more, 0.3 for example."),
        ({"share": 1.5}, "NoisyTeacher: share is 1.5; it is a probability, 0 to 1."),
        ({"kind": "salt"}, 'NoisyTeacher: kind=\'salt\' is not known; use "multiplicative" or "additive".'),
    ],
)
def test_what_is_out_of_range_is_refused(settings, said):
    with pytest.raises(ValueError, match=exactly(said)):
        NoisyTeacher(Fixed(LABELS), **settings)


def test_another_view_inside_is_refused(tmp_path):
    """The student's padding would say where the teacher's tokens are."""
    message = (
        "NoisyTeacher draws for each example by the tokens that the student reads, and inside of it OtherView reads "
        "others. Put it inside of OtherView: OtherView(NoisyTeacher(teacher))."
    )
    viewed = OtherView(classifier(seed=1))
    for teacher in (viewed, SelectiveTeacher(viewed, wrong=0.5), EnsembleTeacher([classifier(seed=2), viewed])):
        with pytest.raises(ValueError, match=exactly(message)):
            distillation(tmp_path, classifier(), NoisyTeacher(teacher), [SoftTargets()])
    read = {f"teacher_{name}": rows()[name] for name in ("input_ids", "attention_mask")}
    right = OtherView(NoisyTeacher(classifier(seed=1)))
    distillation(tmp_path, classifier(), right, [SoftTargets()], rows(**read))
