"""Deep mutual learning: against a loop that is written from the paper, and as one step however it is cut."""

import pytest
import torch
import torch.nn.functional as F
from models import LABELS, tiny
from runs import classifier, distillation, exactly, rows, same, weights

from hf_distill.batch import IGNORED, Batch
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, hidden
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher, NoisyTeacher, PeerTeacher, Teacher

MUTUAL = [TaskLoss(), SoftTargets(temperature=1.0)]
STEADY = {"max_grad_norm": 0.5, "learning_rate": 0.1, "optim": "sgd", "lr_scheduler_type": "linear"}


def together(folder, peers, student=None, losses=None, **settings):
    teacher = peers if isinstance(peers, Teacher) else PeerTeacher(peers)
    student = classifier() if student is None else student
    return distillation(folder, student, teacher, MUTUAL if losses is None else losses, **{**STEADY, **settings})


def noting(trainer):
    """The batches that the trainer sees."""
    batches, collate = [], trainer.data_collator

    def note(examples):
        batches.append(collate(examples))
        return batches[-1]

    trainer.data_collator = note
    return batches


def by_hand(networks, batches, temperature=1.0):
    """Every network's own cross entropy and the mean of the KLs to the others; all step at once."""
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in networks]
    for step, batch in enumerate(batches):
        logits = [each(batch["input_ids"], batch["attention_mask"]).logits for each in networks]
        log_p = [F.log_softmax(each / temperature, dim=-1) for each in logits]
        for place, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            kls = [
                (other.exp() * (other - log_p[place])).sum(-1).mean() * temperature**2
                for other in (each.detach() for index, each in enumerate(log_p) if index != place)
            ]
            loss = F.cross_entropy(logits[place], batch["labels"]) + sum(kls) / len(kls)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * (1 - step / len(batches))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()


@pytest.mark.parametrize(("count", "temperature"), [(2, 1.0), (3, 1.0), (4, 2.0)])
def test_it_is_the_loop_of_the_paper(tmp_path, count, temperature):
    losses = [TaskLoss(), SoftTargets(temperature=temperature)]
    teacher = PeerTeacher([classifier(seed=seed) for seed in range(1, count)], temperature=temperature)
    trainer = together(tmp_path, teacher, losses=losses, max_steps=4)
    batches = noting(trainer)
    trainer.train()
    networks = [classifier(seed=seed) for seed in range(count)]
    by_hand(networks, batches, temperature)
    for found, expected in zip([trainer.model, *teacher.models], networks, strict=True):
        for name, weight in expected.named_parameters():
            assert torch.allclose(weights(found)[name], weight, atol=2e-6), name
    assert not same(weights(teacher.models[0]), weights(classifier(seed=1)))


@pytest.mark.parametrize(
    ("family", "head"), [("gpt2", "LMHeadModel"), ("bert", "ForMaskedLM"), ("t5", "ForConditionalGeneration")]
)
def test_who_is_the_student_makes_no_difference(tmp_path, family, head):
    """Before a vocabulary too, where the student's logits are not computed before somebody looks at them."""
    off = {"gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, "t5": {"dropout_rate": 0.0}}
    off["bert"] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    data = rows(16).map(lambda row: {"labels": [IGNORED, *row["input_ids"][1:]]})
    found = []
    for order in ((0, 1), (1, 0)):
        student, peer = (tiny(family, head, seed, **off[family]) for seed in order)
        trainer = together(tmp_path, peer, student, data=data)
        trainer.train()
        models = {order[0]: trainer.model, order[1]: peer}
        found.append({seed: dict(model.named_parameters()) for seed, model in models.items()})
    for seed in (0, 1):
        for name, weight in found[0][seed].items():
            assert torch.allclose(weight, found[1][seed][name], atol=1e-5), name


def test_a_step_is_the_same_however_it_is_accumulated(tmp_path):
    found = []
    for size, accumulated in ((8, 1), (2, 4)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        trainer = together(tmp_path, classifier(seed=1), train_sampling_strategy="sequential", **settings)
        trainer.train()
        found.append(weights(trainer.teacher.models[0]))
    assert all(torch.allclose(each, found[1][name], atol=1e-6) for name, each in found[0].items())


def dropping(seed=0):
    return tiny("bert", "ForSequenceClassification", seed, num_labels=LABELS, num_hidden_layers=2)  # dropout of 0.1


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "sgd"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, optim):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "optim": optim, "learning_rate": 1e-2}

    def trainer():
        return together(tmp_path, [dropping(1), dropping(2)], dropping(), **settings)

    whole, part = trainer(), trainer()
    whole.train()
    part.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for one, other in zip([whole.model, *whole.teacher.models], [part.model, *part.teacher.models], strict=True):
        assert same(weights(one), weights(other))
    assert same(whole.teacher.state(), part.teacher.state())


def test_hidden_states_go_both_ways(tmp_path):
    losses = [TaskLoss(), HiddenMSE()]
    teacher = PeerTeacher(classifier(seed=1, hidden_size=16), losses)
    trainer = together(tmp_path, teacher, losses=losses, max_steps=3)
    before = weights(teacher.models[0])
    trainer.train()
    logs = [each for each in trainer.state.log_history if "hidden_mse" in each]
    assert len(logs) == 3
    assert not torch.equal(before["bert.encoder.layer.1.output.dense.weight"],
                           weights(teacher.models[0])["bert.encoder.layer.1.output.dense.weight"])  # fmt: skip
    projections = [name for name in teacher.state() if name.startswith("1.objective.")]
    assert projections  # of the peer's own, 16 to 32 wide, trained by its optimizer


def test_a_teacher_that_learns_from_the_labels_alone_never_hears_the_student(tmp_path):
    found = []
    for seed in (0, 5):
        teacher = PeerTeacher(classifier(seed=1), both_ways=False)
        together(tmp_path, teacher, classifier(seed=seed)).train()
        found.append(weights(teacher.models[0]))
    assert same(*found)
    assert not same(found[0], weights(classifier(seed=1)))


def test_an_evaluation_teaches_nobody_and_is_without_dropout(tmp_path):
    trainer = together(tmp_path, dropping(1), dropping(), eval_dataset=rows(8))
    trainer.train()
    before = weights(trainer.teacher.models[0])
    found = [trainer.evaluate() for _ in range(2)]
    assert found[0]["eval_soft_targets"] == found[1]["eval_soft_targets"]
    assert 0 <= found[0]["eval_agreement"] <= 1
    assert same(before, weights(trainer.teacher.models[0]))
    assert all(each.grad is None for each in trainer.teacher.models[0].parameters())


def test_bfloat16_is_close_to_float32(tmp_path):
    found = []
    for bf16 in (False, True):
        trainer = together(tmp_path, classifier(seed=1), bf16=bf16)
        trainer.train()
        found.append((weights(trainer.teacher.models[0]), trainer.state.log_history[-1]["train_loss"]))
    assert found[0][1] == pytest.approx(found[1][1], rel=0.02)
    differences = [float((each - found[1][0][name]).abs().max()) for name, each in found[0][0].items()]
    assert 0 < max(differences) < 0.01


def test_a_frozen_model_is_trained_whole_and_a_learning_rate_of_its_own_is_kept(tmp_path):
    frozen = classifier(seed=1).requires_grad_(False)
    teacher = PeerTeacher(frozen, learning_rate=1e-9)
    together(tmp_path, teacher).train()
    start = weights(classifier(seed=1))
    moved = [float((each - start[name]).abs().max()) for name, each in weights(frozen).items()]
    assert max(moved) < 1e-7
    teacher = PeerTeacher(frozen)
    together(tmp_path, teacher).train()
    still = {name for name, each in frozen.named_parameters() if torch.equal(each, start[name])}
    assert all("key.bias" in name for name in still), still  # a softmax over keys does not feel it


def test_labels_in_another_order_are_put_in_the_students(tmp_path):
    names = {0: "a", 1: "b", 2: "c"}
    student = classifier(id2label=names, label2id={name: index for index, name in names.items()})
    other = {0: "c", 1: "a", 2: "b"}
    peer = classifier(seed=1, id2label=other, label2id={name: index for index, name in other.items()})
    with pytest.raises(ValueError, match="label order differs"):
        together(tmp_path, peer, student)
    teacher = PeerTeacher(peer, label_map="by_name")
    trainer = together(tmp_path, teacher, student, max_steps=60, max_grad_norm=0.0)
    trainer.train()
    batch = trainer.data_collator([rows()[index] for index in range(8)])
    with torch.no_grad():
        said = teacher.observe(Batch(batch, Task.SINGLE_LABEL))[LOGITS]
        own = peer(batch["input_ids"], batch["attention_mask"]).logits
    assert torch.allclose(said, own[:, [1, 2, 0]], atol=1e-6)
    assert (said.argmax(-1) == batch["labels"]).float().mean() > 0.6  # it learned the labels in the student's order


def test_padding_has_no_part_in_the_mean_of_spans():
    teacher = PeerTeacher([classifier(), classifier(seed=1)], temperature=2.0)
    mask = torch.tensor([[1, 1, 1, 0]])
    several = [{LOGITS: torch.randn(1, 2, 4) + 50 * (1 - mask)} for _ in range(2)]  # (rows, start and end, tokens)
    batch = Batch({"input_ids": mask, "attention_mask": mask}, Task.SPAN)
    found = teacher._together(several, frozenset({LOGITS}), batch)[LOGITS]
    expected = sum((each[LOGITS][..., :3] / 2).softmax(-1) for each in several) / 2
    torch.testing.assert_close((found / 2).softmax(-1)[..., :3], expected)


def test_of_one_peer_every_signal_is_told(tmp_path):
    teacher = PeerTeacher(classifier(seed=1))
    trainer = together(tmp_path, teacher, losses=[TaskLoss(), SoftTargets(), HiddenMSE()])
    batch = trainer.data_collator([rows()[index] for index in range(4)])
    seen = teacher.observe(Batch(batch, trainer.task))
    assert set(seen) == {LOGITS, hidden(0), hidden(1)}
    assert not any(each.requires_grad for each in seen.values())


def test_what_cannot_work_is_refused_before_the_first_step(tmp_path):
    two = [classifier(seed=1), classifier(seed=2)]
    with pytest.raises(ValueError, match=r"the losses ask 2 peers for hidden\(0\), hidden\(1\), of which no mean"):
        together(tmp_path, two, losses=[HiddenMSE()])
    averaged = (
        "the teacher's answers are averages of several at temperature=1.0, and SoftTargets compares them at 2.0. "
        "Give both the same: SoftTargets(temperature=1.0), or temperature=2.0 to who averages."
    )
    for teacher in (PeerTeacher(two), NoisyTeacher(PeerTeacher(two), sigma=0.1)):
        with pytest.raises(ValueError, match=exactly(averaged)):
            together(tmp_path, teacher, losses=[TaskLoss(), SoftTargets(temperature=2.0)])
    both = [SoftTargets(temperature=2.0), SoftTargets(temperature=1.0)]
    with pytest.raises(ValueError, match=exactly(averaged)):
        together(tmp_path, PeerTeacher(two), losses=both)
    own = PeerTeacher(two, [TaskLoss(), SoftTargets(temperature=2.0)])
    with pytest.raises(ValueError, match=exactly(averaged)):  # what the peers hear is a mean too
        together(tmp_path, own, losses=[SoftTargets(temperature=1.0)])
    members = EnsembleTeacher([PeerTeacher(two), classifier(seed=3).eval()])
    with pytest.raises(ValueError, match=exactly(averaged)):
        together(tmp_path, members, losses=[SoftTargets(temperature=2.0).of(0)])
    together(tmp_path, PeerTeacher(two, temperature=2.0), losses=[SoftTargets(temperature=2.0)])
    values = [classifier(seed=seed, num_labels=1, problem_type="regression") for seed in range(3)]
    together(tmp_path, PeerTeacher(values[1:]), values[0], [TaskLoss(), SoftTargets(temperature=2.0)])  # none softens
    usual = distillation(tmp_path, classifier(), PeerTeacher(two, temperature=3.0)).objective.losses["soft_targets"]
    assert usual.temperature == 3.0
    together(tmp_path, PeerTeacher(two[0]), losses=[SoftTargets(temperature=2.0)])  # of one there is no average
    with pytest.raises(ValueError, match=exactly("PeerTeacher: there is no peer. Pass one model or several.")):
        PeerTeacher([])
    with pytest.raises(ValueError, match="PeerTeacher trains models, and PeerTeacher is none"):
        PeerTeacher([PeerTeacher(two[0])])
    with pytest.raises(ValueError, match="PeerTeacher: learning_rate=0 must be above 0"):
        PeerTeacher(classifier(), learning_rate=0)
    with pytest.raises(ValueError, match="PeerTeacher: temperature=0 must be above 0"):
        PeerTeacher(two[0], temperature=0)
    with pytest.raises(ValueError, match="lr_scheduler_type='reduce_lr_on_plateau' follows the evaluation"):
        together(tmp_path, two[0], lr_scheduler_type="reduce_lr_on_plateau", eval_dataset=rows(8),
                 eval_strategy="steps")  # fmt: skip
    with pytest.raises(ValueError, match=r"of a peer ask for hidden\(0\) of the student, and the student's losses"):
        together(tmp_path, PeerTeacher(classifier(seed=1), [HiddenMSE({0: 0})])).train()


def test_a_checkpoint_of_others_is_refused(tmp_path):
    one = together(tmp_path, classifier(seed=1)).teacher
    two = together(tmp_path, [classifier(seed=1), classifier(seed=2)]).teacher
    for teacher, other in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"the checkpoint does not hold \d models beside the student"):
            teacher.load_state(other.state())
    narrow = together(tmp_path, classifier(seed=1, hidden_size=16)).teacher
    with pytest.raises(ValueError, match=r"is of other models beside the student: model\.bert\S+ of Ber"):
        one.load_state(narrow.state())
