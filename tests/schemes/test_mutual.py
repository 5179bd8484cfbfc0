"""Students that teach one another: where they begin, what is saved, and that a resumed scheme finds all of them."""

import re

import pytest
import torch
from models import tiny
from peft import LoraConfig, get_peft_model
from runs import classifier, exactly, rows, same, weights
from transformers import AutoModelForSequenceClassification

from hf_distill import schemes
from hf_distill.losses import RKDDistance, SoftTargets, TaskLoss
from hf_distill.teachers import PeerTeacher

from .arranged import SAVING, check_resumed, planned

ADAPTERS = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"])


def saved(folder):
    return weights(AutoModelForSequenceClassification.from_pretrained(folder))


def test_it_is_a_student_with_peers(tmp_path):
    """What the scheme does, by hand."""
    student = schemes.mutual(planned(tmp_path / "scheme", classifier(seed=1)), 3, start="head")
    peers = [classifier(seed=1) for _ in range(2)]
    for number, peer in enumerate(peers, start=2):
        torch.manual_seed(42 + number)  # 42 is the seed of the settings
        peer.classifier.weight.data.normal_(std=0.02)
        peer.classifier.bias.data.zero_()
    losses = [TaskLoss(), SoftTargets(temperature=1.0)]
    expected = planned(tmp_path / "by_hand", classifier()).stage("x", classifier(seed=1), PeerTeacher(peers), losses)
    assert same(weights(student), weights(expected))
    for number, peer in enumerate(peers, start=2):
        assert same(saved(tmp_path / "scheme" / f"peer_{number}"), weights(peer))
    assert same(saved(tmp_path / "scheme"), weights(student))
    assert not same(weights(peers[0]), weights(peers[1]))


def test_students_that_are_all_the_same_are_refused(tmp_path):
    with pytest.raises(ValueError, match='start="given" needs students that differ'):
        schemes.mutual(planned(tmp_path, classifier(seed=1)), start="given")


@pytest.mark.parametrize("start", ["random", "head", "given"])
def test_where_the_others_begin(tmp_path, start, monkeypatch):
    started = []
    init = PeerTeacher.__init__

    def noted(self, peers, *args, **kwargs):
        started.append([weights(peer) for peer in peers])
        init(self, peers, *args, **kwargs)

    monkeypatch.setattr(PeerTeacher, "__init__", noted)
    made = (lambda: classifier(seed=1)) if start == "given" else classifier(seed=1)
    schemes.mutual(planned(tmp_path, made), start=start)
    rehearsed, [peer] = started
    assert same(rehearsed[0], peer)
    given = weights(classifier(seed=1))
    differ = {name for name in given if not torch.equal(peer[name], given[name])}
    assert ("classifier.weight" in differ) == (start != "given")
    assert any("query.weight" in name for name in differ) == (start == "random")


@pytest.mark.parametrize("after", [2, 3])
def test_it_is_resumed_with_its_peers(tmp_path, after):
    """Also where only the end of the scheme was not reached: the stage is finished, the peers are not saved."""

    def run(folder, **settings):
        return schemes.mutual(planned(folder, classifier(seed=1), **{"max_steps": 4, **settings}))

    check_resumed(tmp_path, run, after)
    assert same(saved(tmp_path / "cut" / "peer_2"), saved(tmp_path / "whole" / "peer_2"))
    before = saved(tmp_path / "whole" / "peer_2")
    (tmp_path / "whole" / "peer_2" / "model.safetensors").unlink()
    run(tmp_path / "whole", resume=True, **SAVING)
    assert same(saved(tmp_path / "whole" / "peer_2"), before)


def test_all_of_them_are_measured_and_told(tmp_path):
    def right(prediction):
        return {"right": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    plan = planned(tmp_path, classifier(), eval_dataset=rows(8), compute_metrics=right)
    schemes.mutual(plan, 3)
    first, *others = plan.stages
    assert first.teacher.startswith("PeerTeacher(")
    assert "agreement" in first.metrics
    assert [each.name for each in others] == ["peer_2", "peer_3"]
    data = rows(8)
    for each in others:
        peer = AutoModelForSequenceClassification.from_pretrained(tmp_path / each.name).eval()
        logits = peer(torch.tensor(data["input_ids"]), torch.tensor(data["attention_mask"])).logits
        assert each.metrics == {"right": float((logits.argmax(-1) == torch.tensor(data["labels"])).float().mean())}


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("mutual: students=1; there must be at least 2")):
        schemes.mutual(planned(tmp_path, classifier()), 1)
    with pytest.raises(ValueError, match="mutual: start='same' is not known"):
        schemes.mutual(planned(tmp_path, classifier()), start="same")


def test_adapters_for_the_first_student_alone_are_refused(tmp_path):
    message = (
        "mutual: peft_config would give adapters to the first student alone. Pass the Plan a student that has them: "
        "student=get_peft_model(model, config)."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.mutual(planned(tmp_path, classifier(), peft_config=ADAPTERS))


def test_students_with_adapters_each_have_their_own(tmp_path):
    schemes.mutual(planned(tmp_path, get_peft_model(classifier(), ADAPTERS), max_steps=1))
    for folder in (tmp_path, tmp_path / "peer_2"):
        assert (folder / "adapter_model.safetensors").exists()
        assert not (folder / "model.safetensors").exists()


def test_weights_under_adapters_are_not_drawn_anew(tmp_path):
    message = (
        'mutual: start="random" draws all weights anew, and a PeftModelForSequenceClassification keeps those under '
        'its adapters. Use start="head", or "given" with a function that makes students.'
    )
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.mutual(planned(tmp_path, get_peft_model(classifier(), ADAPTERS)), start="random")


def test_a_model_without_a_head_needs_losses_on_vectors(tmp_path):
    message = (
        "mutual is for models with a head, and BertModel has none. Take a model that predicts, or losses on vectors "
        'such as RKDDistance in the plan and start="random".'
    )
    pairs, unlabelled = [RKDDistance()], rows(labels=False)
    for losses, start in ((None, "random"), (pairs, "head")):
        with pytest.raises(ValueError, match=exactly(message)):
            schemes.mutual(planned(tmp_path, tiny("bert", "Model"), data=unlabelled, losses=losses), start=start)
    plan = planned(tmp_path, tiny("bert", "Model"), data=unlabelled, losses=pairs, max_steps=1)
    assert type(schemes.mutual(plan, start="random")).__name__ == "BertModel"


def test_a_head_that_is_not_found_is_told(tmp_path):
    with pytest.raises(
        ValueError, match=r'^mutual: start="head" draws it anew\. no linear layer of BertForMaskedLM has'
    ):
        schemes.mutual(planned(tmp_path, tiny("bert", "ForMaskedLM")))
