"""Several teachers: what their mean is, whose inside a loss sees, and what is refused."""

import math

import pytest
import torch
from models import LABELS, inputs_of, tiny
from runs import classifier, distillation, exactly, rows, weights

from hf_distill.batch import Batch
from hf_distill.losses import AttentionKL, HiddenMSE, RelativeSimilarity, RKDDistance, SoftTargets, TaskLoss, fused
from hf_distill.objective import Objective
from hf_distill.signals import LOGITS, TRUST, attention, hidden, pooled
from hf_distill.tasks import Task
from hf_distill.teachers import CachedTeacher, EnsembleTeacher, ModelTeacher, Teacher
from hf_distill.teachers.ensemble import confidence, mean_answer

CPU = torch.device("cpu")


def three(*shape: int):
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(*shape, generator=generator) for _ in range(3)]


def softmax(row):
    total = sum(math.exp(each) for each in row)
    return [math.exp(each) / total for each in row]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("mean", ["logits", "probabilities"])
@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 0.0], "confidence"])
def test_the_mean_of_classes_is_that_of_a_loop(mean, weights):
    answers = three(4, 5)
    found = mean_answer(answers, Task.SINGLE_LABEL, mean, weights)
    for row in range(4):
        own = [softmax(each[row].tolist()) for each in answers]
        shares = {None: [1, 1, 1], "confidence": [max(each) for each in own]}.get(str(weights) if weights else None)
        shares = [3, 1, 0] if isinstance(weights, list) else shares
        shares = [each / sum(shares) for each in shares]
        for label in range(5):
            if mean == "logits":
                expected = sum(w * each[row, label].item() for w, each in zip(shares, answers, strict=True))
            else:
                expected = math.log(sum(w * each[label] for w, each in zip(shares, own, strict=True)))
            assert found[row, label].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weights", [None, "confidence"])
def test_the_mean_probability_of_a_label_comes_back_as_its_logit(weights):
    answers = three(4, 5)
    found = mean_answer(answers, Task.MULTI_LABEL, "probabilities", weights)
    for row in range(4):
        own = [[sigmoid(value) for value in each[row].tolist()] for each in answers]
        sure = [sum(max(p, 1 - p) for p in each) / 5 for each in own]
        shares = [1 / 3] * 3 if weights is None else [each / sum(sure) for each in sure]
        for label in range(5):
            p = sum(w * each[label] for w, each in zip(shares, own, strict=True))
            assert found[row, label].item() == pytest.approx(math.log(p / (1 - p)), abs=1e-4)


@pytest.mark.parametrize("task", [Task.SINGLE_LABEL, Task.MULTI_LABEL])
def test_softened_at_its_temperature_it_is_the_mean_of_the_softened(task):
    answers = three(4, 5)
    found = mean_answer(answers, task, "probabilities", None, temperature=3.0) / 3
    if task is Task.MULTI_LABEL:
        torch.testing.assert_close(found.sigmoid(), sum((each / 3).sigmoid() for each in answers) / 3)
    else:
        torch.testing.assert_close(found.softmax(-1), sum((each / 3).softmax(-1) for each in answers) / 3)


def test_answers_without_doubt_have_a_finite_mean():
    sure = [torch.tensor([[200.0, -200.0, 0.0]]), torch.tensor([[-200.0, -200.0, 0.0]])]
    for task in (Task.SINGLE_LABEL, Task.MULTI_LABEL):
        found = mean_answer([each.half() for each in sure], task, "probabilities", [1.0, 0.0])
        assert found.isfinite().all()
        torch.testing.assert_close(found.softmax(-1) if task is Task.SINGLE_LABEL else found,
                                   sure[0].softmax(-1) if task is Task.SINGLE_LABEL else sure[0])  # fmt: skip
    assert confidence(sure[0], Task.SINGLE_LABEL).item() == pytest.approx(1.0)


def observed(teacher, wanted, **inputs):
    student = classifier(seed=5)
    teacher.prepare(student, frozenset(wanted), CPU, None)
    return teacher.observe(Batch(inputs or inputs_of(student), Task.SINGLE_LABEL))


def test_each_member_says_what_is_asked_of_it_and_the_ensemble_their_mean():
    one, other = classifier(seed=1), classifier("distilbert", seed=2, n_layers=3)
    teacher = EnsembleTeacher([one, ModelTeacher(other)])
    seen = observed(teacher, {LOGITS, hidden(1).of(0), hidden(2).of(1), LOGITS.of(1)})
    inputs = inputs_of(one)
    with torch.no_grad():
        logits = [one(**inputs).logits, other(**inputs).logits]
        inside = one(**inputs, output_hidden_states=True).hidden_states[2]
    assert set(seen) == {LOGITS, hidden(1).of(0), hidden(2).of(1), LOGITS.of(1)}
    torch.testing.assert_close(seen[LOGITS], (logits[0] + logits[1]) / 2)
    torch.testing.assert_close(seen[LOGITS.of(1)], logits[1])
    torch.testing.assert_close(seen[hidden(1).of(0)], inside)


def test_members_of_other_number_formats_answer_in_float32():
    half = classifier(seed=1).to(torch.bfloat16)
    seen = observed(EnsembleTeacher([half, classifier(seed=2)]), {LOGITS, hidden(0).of(0)})
    assert {each.dtype for each in seen.values()} == {torch.float32}


def test_losses_on_two_members_learn_what_those_losses_learn_of_each_alone(tmp_path):
    """The terms are those of three trainings with one teacher each, on the same first batch."""
    one, other = classifier(seed=1), classifier(seed=2, num_hidden_layers=3, hidden_size=48)

    def log_of(folder, teacher, losses):
        trainer = distillation(tmp_path / folder, classifier(), teacher, losses, max_steps=1, learning_rate=1e-9)
        trainer.train()
        return trainer.state.log_history[0]

    losses = [
        SoftTargets(),
        HiddenMSE("last").of(0),
        RKDDistance().of(1),
        AttentionKL("last").of(1),
        SoftTargets().of(1),
    ]
    found = log_of("both", EnsembleTeacher([one, other]), losses)
    assert list(found)[4:9] != []
    first = log_of("one", one, [HiddenMSE("last")])
    second = log_of("other", other, [RKDDistance(), AttentionKL("last"), SoftTargets()])
    assert found["hidden_mse_of_0"] == pytest.approx(first["hidden_mse"], rel=1e-4)
    assert found["rkd_distance_of_1"] == pytest.approx(second["rkd_distance"], rel=1e-4)
    assert found["attention_kl_of_1"] == pytest.approx(second["attention_kl"], rel=1e-4)
    assert found["soft_targets_of_1"] == pytest.approx(second["soft_targets"], rel=1e-4)
    assert found["soft_targets"] != pytest.approx(second["soft_targets"], rel=1e-2)


def test_the_student_comes_to_the_mean(tmp_path):
    teachers = [classifier(seed=1), classifier(seed=2)]
    student = classifier()
    trainer = distillation(tmp_path, student, EnsembleTeacher(teachers), [SoftTargets()], max_steps=60,
                           eval_dataset=rows())  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.2 * before["eval_loss"]
    inputs = {name: torch.tensor(rows()[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        mean = (teachers[0](**inputs).logits + teachers[1](**inputs).logits) / 2
        agreement = (student(**inputs).logits.argmax(-1) == mean.argmax(-1)).float().mean()
    assert after["eval_agreement"] == pytest.approx(agreement.item())


def test_a_vocabulary_is_learned_of_each_member_as_without_leaving_positions_out(tmp_path, monkeypatch):
    calls = []
    apart = fused.terms_on_counted
    monkeypatch.setattr("hf_distill.objective.terms_on_counted", lambda *args: calls.append(args) or apart(*args))

    def trained(folder):
        student, *teachers = (tiny("gpt2", "LMHeadModel", seed) for seed in (0, 1, 2))
        losses = [SoftTargets().of(0), SoftTargets(temperature=1.0).of(1), SoftTargets(), TaskLoss()]
        data = rows(8).map(lambda row: {"labels": row["input_ids"]})
        trainer = distillation(tmp_path / folder, student, EnsembleTeacher(teachers), losses, data, optim="sgd")
        trainer.train()
        return weights(trainer.model)

    counted = trained("counted")
    assert len(calls) == 3 * 3  # a step: behind the head once for each member, and once for the mean
    monkeypatch.setattr(Objective, "reads_counted_only", property(lambda self: False))
    torch.testing.assert_close(counted, trained("all"), rtol=1e-3, atol=1e-5)


def test_of_a_cached_member_what_is_cached_is_taken(tmp_path):
    def trained(folder, first):
        trainer = distillation(
            tmp_path / folder,
            classifier(),
            EnsembleTeacher([first, classifier(seed=2)]),
            [SoftTargets(), HiddenMSE("last").of(0)],
        )
        if isinstance(first, CachedTeacher):
            first.fill(trainer.train_dataset, trainer.data_collator)
        trainer.train()
        return weights(trainer.model)

    cached = CachedTeacher(tmp_path / "cache", classifier(seed=1))
    torch.testing.assert_close(trained("cached", cached), trained("live", classifier(seed=1)), rtol=1e-4, atol=1e-5)


class Learner(Teacher):
    """Says something once the student has spoken, counts steps, and keeps that in checkpoints."""

    def __init__(self) -> None:
        self.steps = torch.zeros(1)

    def observe(self, batch):
        return {}

    def respond(self, batch, student):
        return {LOGITS: torch.full_like(student[LOGITS], 1.0).cumsum(-1).detach()}

    def step(self):
        self.steps += 1

    def state(self):
        return {"steps": self.steps}

    def load_state(self, state):
        self.steps = state["steps"].clone()


def test_members_that_speak_after_the_student_are_in_the_mean_and_in_the_checkpoint(tmp_path):
    def trainer_of(learner):
        teacher = EnsembleTeacher([classifier(seed=1), learner])
        return distillation(tmp_path, classifier(), teacher, [SoftTargets()], save_strategy="steps", save_steps=2)

    trainer = trainer_of(Learner())
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    batch = Batch(batch, Task.SINGLE_LABEL)
    student = {LOGITS: torch.zeros(4, LABELS)}
    assert set(trainer.teacher.observe(batch)) == set()
    said = trainer.teacher.respond(batch, student)
    one = trainer.teacher.members[0].observe(batch)[LOGITS]
    torch.testing.assert_close(said[LOGITS], (one + torch.tensor([1.0, 2.0, 3.0])) / 2)
    trainer.train()
    again = Learner()
    trainer_of(again).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.steps.item() == 3


def test_a_member_that_never_answers_is_named(tmp_path):
    class Silent(Teacher):
        def observe(self, batch):
            return {}

    trainer = distillation(tmp_path, classifier(), EnsembleTeacher([classifier(seed=1), Silent()]), [SoftTargets()])
    message = "teacher 1 of the ensemble gave no logits, and the losses ask for their mean."
    with pytest.raises(ValueError, match=exactly(message)):
        trainer.train()


def test_one_at_a_time_only_one_is_on_the_device(monkeypatch):
    """Where each model is sent to is written down, since no machine has two devices for sure."""
    teachers = [classifier(seed=1), classifier(seed=2)]
    there, most, moves = set(), [], []

    def to(model, device, *args):
        moves.append((teachers.index(model), str(device)))
        (there.discard if str(device) == "cpu" else there.add)(teachers.index(model))
        most.append(len(there))
        return model

    monkeypatch.setattr(type(teachers[0]), "to", to)
    teacher = EnsembleTeacher(teachers, one_at_a_time=True)
    teacher.prepare(classifier(seed=3), frozenset({LOGITS}), CPU, None)
    teacher._where = [torch.device("meta")] * 2  # somewhere else than where they rest
    moves.clear()
    monkeypatch.setattr("hf_distill.teachers.ensemble._moved", lambda batch, device: batch)
    teacher.observe(Batch(inputs_of(teachers[0]), Task.SINGLE_LABEL))
    assert moves == [(0, "meta"), (0, "cpu"), (1, "meta"), (1, "cpu")]
    assert max(most) == 1


def test_the_triplets_are_voted_on_by_all_members(tmp_path):
    teachers = [classifier(seed=seed) for seed in (1, 2, 3)]
    trainer = distillation(
        tmp_path, classifier(), EnsembleTeacher(teachers), [RelativeSimilarity(margin=0.5)], max_steps=1,
        learning_rate=1e-9, train_sampling_strategy="sequential",
    )  # fmt: skip
    assert trainer.objective.wanted_of_teacher == {pooled("first").of(i) for i in range(3)}
    trainer.train()
    batch = {name: torch.tensor(rows()[name][:4]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        vectors = [m(**batch, output_hidden_states=True).hidden_states[-1][:, 0] for m in (classifier(), *teachers)]
    apart = [torch.cdist(each.double(), each.double()) for each in vectors]
    mine = apart[0] / (apart[0].sum() / 12)
    terms = []
    for i in range(4):
        for j in range(4):
            for k in range(4):
                votes = sum((d[i, j] < d[i, k]).item() - (d[i, j] > d[i, k]).item() for d in apart[1:])
                if len({i, j, k}) == 3 and votes > 0:
                    terms.append(max(0.0, (0.5 + mine[i, j] - mine[i, k]).item()))
    assert trainer.state.log_history[0]["relative_similarity"] == pytest.approx(sum(terms) / len(terms), rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            [HiddenMSE("last")],
            "HiddenMSE looks at hidden(1), and the teacher is an ensemble of 2, each with its own. Say whose: "
            "HiddenMSE(...).of(0).",
        ),
        ([SoftTargets(), HiddenMSE("last").of(2)], "HiddenMSE(...).of(2): the ensemble has 2 teachers, 0 to 1."),
    ],
)
def test_a_loss_says_whose_inside_it_looks_at(tmp_path, losses, message):
    teacher = EnsembleTeacher([classifier(seed=1), classifier(seed=2)])
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), teacher, losses)


def test_of_one_teacher_there_are_no_members(tmp_path):
    message = "SoftTargets(...).of(0) looks at a member of an ensemble, and there is one teacher. Leave .of(0) out."
    with pytest.raises(ValueError, match=exactly(message)):
        distillation(tmp_path, classifier(), classifier(seed=1), [SoftTargets().of(0)])
    with pytest.raises(ValueError, match=r"SoftTargets\.of\(-1\): an ensemble's teachers are counted 0, 1, 2"):
        SoftTargets().of(-1)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mean": "median"}, 'mean=\'median\' is not known; use "logits" or "probabilities".'),
        ({"weights": [1.0]}, 'weights=[1.0]; pass 2 numbers, or "confidence".'),
        ({"weights": "sure"}, "weights='sure'; pass 2 numbers, or \"confidence\"."),
        ({"weights": [1.0, -1.0]}, "weights=[1.0, -1.0]; none may be negative, and one must be above 0."),
        ({"temperature": 0.0}, "temperature is 0.0; it must be above 0."),
        (
            {"temperature": 2.0},
            "temperature=2.0 is of probabilities, and logits are averaged. "
            'Pass mean="probabilities", or leave it out.',
        ),
        ({"devices": ["cpu"]}, "1 devices for 2 teachers. Name one each."),
        (
            {"devices": ["cpu", "gpu7"]},
            'devices names \'gpu7\', and there is none here. Use names such as "cpu" or "cuda:0".',
        ),
        (
            {"devices": ["cuda:99", "cpu"]},
            'devices names \'cuda:99\', and there is none here. Use names such as "cpu" or "cuda:0".',
        ),
    ],
)
def test_knobs_that_do_not_fit(knobs, message):
    with pytest.raises(ValueError, match=exactly(f"EnsembleTeacher: {message}")):
        EnsembleTeacher([classifier(), classifier()], **knobs)


def test_one_teacher_is_no_ensemble():
    for given in ([classifier()], classifier()):
        with pytest.raises(ValueError, match="EnsembleTeacher takes a list of two teachers or more"):
            EnsembleTeacher(given)


def test_what_a_member_refuses_names_it(tmp_path):
    other = classifier(seed=1, num_labels=LABELS + 1)
    with pytest.raises(ValueError, match=r"^teacher 1 of the ensemble: the student has 3 labels, the teacher 4\."):
        distillation(tmp_path, classifier(), EnsembleTeacher([classifier(seed=2), other]))


def test_values_have_no_probabilities(tmp_path):
    one, two, three = (classifier(seed=seed, num_labels=1) for seed in range(3))
    for knobs in ({"mean": "probabilities"}, {"weights": "confidence"}):
        with pytest.raises(
            ValueError, match=r"is for classes and labels, and the task is regression\. Leave it out\."
        ):
            distillation(tmp_path, one, EnsembleTeacher([two, three], **knobs), [SoftTargets()])


def test_labels_in_another_order_are_put_right_in_every_member(tmp_path):
    names = {0: "a", 1: "b", 2: "c"}
    turned = {0: "c", 1: "a", 2: "b"}
    one = classifier(seed=1, id2label=names)
    other = classifier(seed=1, id2label=turned)  # the same logits under other names
    teacher = EnsembleTeacher([one, other])
    distillation(tmp_path, classifier(seed=3, id2label=names), teacher, [SoftTargets()], label_map="by_name")
    inputs = inputs_of(one)
    with torch.no_grad():
        logits = one(**inputs).logits
    found = teacher.observe(Batch(inputs, Task.SINGLE_LABEL))[LOGITS]
    torch.testing.assert_close(found, (logits + logits[:, [1, 2, 0]]) / 2)


def test_it_shows_whose_a_loss_is():
    loss = HiddenMSE("last", weight=0.5).of(1)
    assert "teacher=1" in repr(loss)
    assert loss.config["teacher"] == 1
    assert loss.name == "hidden_mse_of_1"
    assert "teacher" not in HiddenMSE("last").config
    assert str(attention(2).of(1)) == "attention(2) of teacher 1"


class Doubtful(Teacher):
    """Says always the same, and how far that is to be trusted; in training something else than in an evaluation."""

    says_trust = True

    def __init__(self, logits, trust) -> None:
        self.logits, self.trust = torch.tensor(logits), torch.tensor(trust)

    def observe(self, batch):
        return {LOGITS: self.logits + 100.0 * (not torch.is_grad_enabled()), TRUST: self.trust}


def said_by(members, task, inputs, **knobs):
    teacher = EnsembleTeacher(members, **knobs)
    assert teacher.says_trust
    teacher._wanted, teacher._device, teacher._where = {LOGITS}, CPU, [CPU] * len(members)
    return teacher.observe(Batch(inputs, task))


def test_who_is_trusted_less_weighs_less():
    ids = {"input_ids": torch.ones(3, 2, dtype=torch.long)}
    one = Doubtful([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], [1.0, 0.5, 0.0])
    other = Doubtful([[0.0, 5.0], [0.0, 6.0], [0.0, 7.0]], [1.0, 0.0, 0.0])
    found = said_by([one, other], Task.SINGLE_LABEL, ids, weights=[3, 1])
    expected = [[0.75, 1.25], [2.0, 0.0], [2.25, 1.75]]  # nobody is trusted in the last row: the weights alone
    torch.testing.assert_close(found[LOGITS], torch.tensor(expected))
    torch.testing.assert_close(found[TRUST], torch.tensor([1.0, 0.375, 0.0]))
    torch.testing.assert_close(found[TRUST.of(1)], torch.tensor([1.0, 0.0, 0.0]))


def test_trust_in_each_label_and_in_each_position():
    ids = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    sure = Doubtful([[4.0, 4.0]], [[1.0, 0.0]])
    found = said_by([sure, Doubtful([[0.0, 2.0]], [[1.0, 1.0]])], Task.MULTI_LABEL, ids)
    torch.testing.assert_close(found[LOGITS], torch.tensor([[2.0, 2.0]]))
    torch.testing.assert_close(found[TRUST], torch.tensor([[1.0, 0.5]]))
    logits = [[[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]]
    members = [Doubtful(logits, [[1.0, 0.0]]), Doubtful([[[0.0, 2.0]] * 3], [[1.0, 1.0]])]  # a causal model's
    for knobs in ({}, {"weights": "confidence"}):
        found = said_by(members, Task.CAUSAL_LM, ids, **knobs)
        torch.testing.assert_close(found[LOGITS][0, 1], torch.tensor([0.0, 2.0]))
        assert found[TRUST].shape == (1, 2)
        assert found[LOGITS][0, 0].tolist() == found[LOGITS][0, 2].tolist()


def test_members_know_whether_the_student_trains():
    """What disturbs its teacher in training asks torch for it, also inside of an ensemble."""
    ids = {"input_ids": torch.ones(1, 2, dtype=torch.long)}
    members = [Doubtful([[1.0, 0.0]], [1.0]), Doubtful([[3.0, 0.0]], [1.0])]
    assert said_by(members, Task.SINGLE_LABEL, ids)[LOGITS][0, 0] == 2.0
    with torch.no_grad():
        assert said_by(members, Task.SINGLE_LABEL, ids)[LOGITS][0, 0] == 102.0
