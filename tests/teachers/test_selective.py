"""How much a teacher's answers count: worked out by hand, and in a training against the same rows left out."""

import math

import pytest
import torch
from datasets import Dataset
from models import LABELS, VOCABULARY, tiny
from runs import classifier, distillation, exactly, rows, weights

from hf_distill import DistillationConfig, DistillationTrainer
from hf_distill.batch import Batch
from hf_distill.losses import DIST, HiddenMSE, LogitMSE, ReverseKL, RKDDistance, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, TRUST
from hf_distill.tasks import Task
from hf_distill.teachers import ModelTeacher, SelectiveTeacher, Teacher
from hf_distill.top_k import TopK, largest


class Says(Teacher):
    """Answers what it is told to."""

    def __init__(self, logits):
        self.logits = logits

    def observe(self, batch):
        return {LOGITS: self.logits}


def trust(logits, labels=None, task=Task.SINGLE_LABEL, mask=None, **settings):
    count, length = len(logits), 3 if mask is None else mask.shape[1]
    inputs = {"input_ids": torch.ones(count, length, dtype=torch.long)}
    inputs |= {} if mask is None else {"attention_mask": mask}
    inputs |= {} if labels is None else {"labels": torch.tensor(labels)}
    return SelectiveTeacher(Says(logits), **settings).observe(Batch(inputs, task))[TRUST].tolist()


def of(*probabilities):
    return torch.tensor(probabilities).log()


def test_where_it_is_wrong_it_counts_less():
    answers = of([0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1])
    assert trust(answers, [0, 1, -100]) == [1, 0, 1]
    assert trust(answers, [0, 1, -100], wrong=0.25) == [1, 0.25, 1]
    assert trust(answers, [0, 1, -100], wrong=1.0, min_confidence=0.5) == [1, 1, 1]


def test_where_it_is_unsure_it_counts_less():
    answers = of([0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [0.98, 0.01, 0.01])
    alone = {"wrong": 1.0, "unsure": 0.5}
    assert trust(answers, min_confidence=0.6, **alone) == [1, 0.5, 1]
    share = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)) / math.log(3)
    assert trust(answers, max_entropy=share + 0.001, **alone) == [1, 0.5, 1]
    assert trust(answers, max_entropy=share - 0.001, **alone) == [0.5, 0.5, 1]
    assert trust(of([1 / 3] * 3), wrong=0.5, labels=[0]) == [1]  # even odds are no more than 1
    assert trust(answers, [1, 1, 1], min_confidence=0.6, unsure=0.5, wrong=0.2) == pytest.approx([0.2, 0.2, 0.2])
    assert trust(answers, [1, 1, 1], min_confidence=0.6, unsure=0.1, wrong=0.2) == pytest.approx([0.2, 0.1, 0.2])


def test_labels_go_one_by_one():
    answers = torch.tensor([[0.9, 0.2, 0.6], [0.1, 0.8, 0.5001]]).logit()
    found = trust(answers, [[1, 1, -100], [0, 1, 0]], Task.MULTI_LABEL)
    assert found == [[1, 0, 1], [1, 1, 0]]
    found = trust(answers, None, Task.MULTI_LABEL, wrong=1.0, min_confidence=0.75)
    assert found == [[1, 1, 0], [1, 1, 0]]
    entropy = -(0.8 * math.log2(0.8) + 0.2 * math.log2(0.2))
    found = trust(answers, None, Task.MULTI_LABEL, wrong=1.0, max_entropy=entropy + 0.001)
    assert found == [[1, 1, 0], [1, 1, 0]]


def test_tokens_and_words_go_one_by_one():
    answers = of([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert trust(answers, [[0, 0, -100], [1, 0, 0]], Task.TOKENS, mask)[0][:2] == [1, 0]
    assert trust(answers, [[0, 0, -100], [1, 0, 0]], Task.TOKENS, mask)[1][:2] == [0, 1]
    # a position predicts the label of the next one
    found = trust(answers, [[-100, 0, 0], [-100, 1, 0]], Task.CAUSAL_LM, mask)
    assert (found[0], found[1][0]) == ([1, 0], 0)


def test_a_span_is_sure_among_the_places_that_it_has():
    answers = torch.zeros(1, 2, 4)
    answers[0, 1, 0] = 4.0  # among two places
    answers[0, :, 2:] = 30.0  # in padding
    mask = torch.tensor([[1, 1, 0, 0]])
    inputs = {"input_ids": torch.ones(1, 4, dtype=torch.long), "attention_mask": mask}
    inputs |= {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([0])}
    found = SelectiveTeacher(Says(answers), wrong=1.0, max_entropy=0.5).observe(Batch(inputs, Task.SPAN))[TRUST]
    assert found.tolist() == [[0, 1]]
    found = SelectiveTeacher(Says(answers)).observe(Batch(inputs, Task.SPAN))[TRUST]
    assert found.tolist() == [[0, 1]]


def test_two_around_one_another_multiply_and_the_largest_logits_are_enough():
    answers = of([0.7, 0.2, 0.1], [0.2, 0.5, 0.3])
    kept = TopK(*largest(answers, 1), 3)
    assert trust(kept.whole(), [1, 1]) == [0, 1]
    inner = SelectiveTeacher(Says(kept), wrong=1.0, min_confidence=0.6, unsure=0.5)
    outer = SelectiveTeacher(inner, wrong=0.25)
    inputs = {"input_ids": torch.ones(2, 3, dtype=torch.long), "labels": torch.tensor([1, 0])}
    assert outer.observe(Batch(inputs, Task.SINGLE_LABEL))[TRUST].tolist() == [0.25, 0.125]


def rows_of(task, count=16):
    """Ragged rows with labels of a task."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, VOCABULARY, (3 + i % 4,), generator=generator).tolist() for i in range(count)]
    if task == "one label":
        labels = [sum(row) % LABELS for row in ids]
    elif task == "labels":
        labels = [[float(sum(row) % (label + 2) == 0) for label in range(LABELS)] for row in ids]
    else:
        labels = [[each % LABELS for each in row] for row in ids]
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def padded(examples):
    length = max(len(each["input_ids"]) for each in examples)

    def fill(row, value):
        return row + [value] * (length - len(row))

    made = {"input_ids": torch.tensor([fill(each["input_ids"], 0) for each in examples])}
    made["attention_mask"] = torch.tensor([fill([1] * len(each["input_ids"]), 0) for each in examples])
    labels = [each["labels"] for each in examples]
    if isinstance(labels[0], list) and isinstance(labels[0][0], int):
        labels = [fill(each, -100) for each in labels]
    return made | {"labels": torch.tensor(labels)}


TASKS = {
    "one label": ("ForSequenceClassification", {"problem_type": "single_label_classification"}),
    "labels": ("ForSequenceClassification", {"problem_type": "multi_label_classification"}),
    "tokens": ("ForTokenClassification", {}),
}


def model_for(task, seed):
    head, fields = TASKS[task]
    fields = {**fields, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_hidden_layers": 2}
    return tiny("bert", head, seed, num_labels=LABELS, **fields)


def by_hand(task, student, teacher, data, wrong):
    """Gradient of half the labels' loss and the KL of what the teacher knows, summed up one by one."""
    inputs = padded(list(data))
    labels = inputs.pop("labels")
    with torch.no_grad():
        theirs = teacher(**inputs).logits
    mine = student(**inputs).logits
    total, taught, count = 0.0, 0.0, 0
    places = [(row,) for row in range(len(labels))]
    if task == "tokens":
        places = [(row, place) for row, place in (labels >= 0).nonzero().tolist()]
    for place in places:
        count += 1
        s, t, label = mine[place], theirs[place], labels[place]
        if task == "labels":
            total = total + torch.nn.functional.binary_cross_entropy_with_logits(s, label)
            for one, other, truth in zip(s, t, label, strict=True):
                p, q = other.sigmoid(), one.sigmoid()
                kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
                taught = taught + kl * (1.0 if (p > 0.5) == (truth > 0.5) else wrong)
        else:
            total = total - s.log_softmax(-1)[label]
            kl = (t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum()
            taught = taught + kl * (1.0 if t.argmax() == label else wrong)
    return (0.5 * total + taught) / count


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("size", "accumulated"), [(8, 1), (2, 4)])
@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_a_step_is_that_of_a_naive_sum(tmp_path, task, size, accumulated, wrong):
    student, teacher, data = model_for(task, 0), model_for(task, 1), rows_of(task, 8)
    expected = model_for(task, 0)
    by_hand(task, expected, teacher, data, wrong).backward()
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_grad_norm": 0.0}
    settings |= {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    losses = [TaskLoss(weight=0.5), SoftTargets(temperature=1.0)]
    before = weights(student)
    selective = SelectiveTeacher(teacher, wrong=wrong)
    trainer = distillation(tmp_path, student, selective, losses, data, data_collator=padded, **settings)
    trainer.train()
    if task == "one label":
        inputs = padded(list(data))
        right = teacher(inputs["input_ids"], inputs["attention_mask"]).logits.argmax(-1) == inputs["labels"]
        assert trainer.state.log_history[0]["trust"] == pytest.approx(torch.where(right, 1.0, wrong).mean().item())
    for name, parameter in expected.named_parameters():
        if parameter.grad is not None:
            moved = before[name] - student.get_parameter(name)
            torch.testing.assert_close(moved, parameter.grad, rtol=1e-4, atol=2e-6)


def test_all_losses_on_the_teacher_are_weighed_and_the_evaluation_likewise(tmp_path):
    losses = [TaskLoss(), SoftTargets(), ReverseKL(), LogitMSE(), HiddenMSE()]
    found = {}
    for name, wrong in (("all", 1.0), ("half", 0.5)):
        teacher = ModelTeacher(classifier(seed=1))
        if name == "half":  # it is never so sure
            teacher = SelectiveTeacher(teacher, wrong=wrong, unsure=wrong, min_confidence=1.0)
        trainer = distillation(tmp_path / name, classifier(), teacher, losses, eval_dataset=rows())
        found[name] = trainer.evaluate()
    assert found["half"]["eval_task_loss"] == found["all"]["eval_task_loss"]
    for name in ("soft_targets", "reverse_kl", "logit_mse", "hidden_mse"):
        assert found["half"][f"eval_{name}"] == pytest.approx(0.5 * found["all"][f"eval_{name}"], rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_vocabulary_behind_a_fused_head_is_weighed_too(tmp_path, kind):
    """The head is not computed as a whole in training; the naive sum computes it."""
    head, fields = ("ForMaskedLM", {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    if kind == "gpt2":
        head, fields = "LMHeadModel", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    student, teacher, expected = (tiny(kind, head, seed, **fields) for seed in (0, 1, 0))
    data = rows(8, labels=False)
    with torch.no_grad():
        known = teacher(input_ids=torch.tensor(data["input_ids"])).logits.argmax(-1)
    labels = torch.where(torch.arange(6) % 3 == 0, torch.tensor(data["input_ids"]), -100)
    shift = int(kind == "gpt2")
    right = torch.arange(8) % 2 == 0  # every other row agrees with the teacher
    labels[right, shift:] = torch.where(labels[right, shift:] >= 0, known[right, : 6 - shift], -100)
    data = data.add_column("labels", labels.tolist())
    ids = torch.tensor(data["input_ids"])
    mine, theirs = expected(input_ids=ids).logits, teacher(input_ids=ids).logits.detach()
    total, count, wrong = 0.0, 0, 0
    for row, place in (labels >= 0).nonzero().tolist():
        if place < shift:
            continue
        s, t = mine[row, place - shift], theirs[row, place - shift]
        agrees = t.argmax() == labels[row, place]
        wrong, count = wrong + int(not agrees), count + 1
        total = total + agrees * (t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum()
    assert 0 < wrong < count
    (total / count).backward()
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant"}
    settings |= {"per_device_train_batch_size": 8, "max_grad_norm": 0.0}
    before = weights(student)
    losses = [SoftTargets(temperature=1.0)]
    distillation(tmp_path, student, SelectiveTeacher(teacher), losses, data, **settings).train()
    for name, parameter in expected.named_parameters():
        if parameter.grad is not None:
            moved = before[name] - student.get_parameter(name)
            torch.testing.assert_close(moved, parameter.grad, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("loss", [RKDDistance, DIST])
def test_losses_of_a_whole_batch_are_refused_before_step_1(tmp_path, loss):
    said = (
        f"{loss.__name__} compares the rows of a batch with one another, and SelectiveTeacher says how much each row"
    )
    with pytest.raises(ValueError, match=said):
        distillation(tmp_path, classifier(), SelectiveTeacher(classifier(seed=1)), [loss()])


def test_labels_are_asked_for_where_they_are_needed(tmp_path):
    data = rows(labels=False)
    selective, losses = SelectiveTeacher(classifier(seed=1)), [SoftTargets()]
    with pytest.raises(ValueError, match=r"no labels, only .*, and SelectiveTeacher\(wrong=0\.0\) asks for them"):
        distillation(tmp_path, classifier(), selective, losses, data)
    late = data.with_transform(lambda some: some)  # what comes out of it is seen in the first batch
    trainer = distillation(tmp_path, classifier(), selective, losses, late, remove_unused_columns=False)
    with pytest.raises(
        ValueError, match=r"compares the teacher with labels, and the batch has none\. Pass wrong=1\.0"
    ):
        trainer.train()
    assert "eval_soft_targets" in trainer.evaluate(data)
    teacher = SelectiveTeacher(classifier(seed=1), wrong=1.0, min_confidence=0.5)
    assert distillation(tmp_path, classifier(), teacher, [SoftTargets()], data).train().training_loss >= 0


def test_losses_that_look_at_layers_alone_are_weighed_by_the_answers(tmp_path):
    args = DistillationConfig(str(tmp_path), max_steps=2, logging_steps=1, use_cpu=True, save_strategy="no")
    teacher = SelectiveTeacher(classifier(seed=1), unsure=0.0, min_confidence=1.0)
    trainer = DistillationTrainer(classifier(), teacher, [HiddenMSE()], args, train_dataset=rows())
    trainer.train()
    assert [each["hidden_mse"] for each in trainer.state.log_history if "hidden_mse" in each] == [0, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"wrong": 2.0}, "SelectiveTeacher: wrong is 2.0; it must be between 0 and 1."),
        (
            {"wrong": 1.0},
            "SelectiveTeacher: everything counts in full. Pass wrong=0.0, or wrong=1.0 with min_confidence=0.8 for "
            "example.",
        ),
    ],
)
def test_what_cannot_work_is_refused(settings, said):
    with pytest.raises(ValueError, match=exactly(said)):
        SelectiveTeacher(classifier(), **settings)


def test_a_regression_has_nothing_to_be_wrong_about(tmp_path):
    fields = {"num_labels": 1, "problem_type": "regression"}
    student, teacher = (tiny("bert", "ForSequenceClassification", seed, **fields) for seed in (0, 1))
    with pytest.raises(ValueError, match="in regression there is nothing to be unsure of"):
        distillation(tmp_path, student, SelectiveTeacher(teacher), [SoftTargets()])
