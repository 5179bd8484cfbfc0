"""Teacher and student in one run: who learns from whom, and that the user's own teacher stays as it was."""

import pytest
from runs import classifier, same, weights
from transformers import AutoModelForSequenceClassification

from hf_distill import schemes
from hf_distill.teachers import EMATeacher, Nobody, PeerTeacher

from .arranged import check_resumed, planned


@pytest.mark.parametrize("both_ways", [False, True])
def test_it_is_a_peer_that_is_saved_too(tmp_path, both_ways):
    teacher = classifier(seed=1, num_hidden_layers=3)
    student = schemes.online(planned(tmp_path / "scheme", classifier(), teacher), both_ways, learning_rate=1e-3)
    assert same(weights(teacher), weights(classifier(seed=1, num_hidden_layers=3)))
    peer = PeerTeacher(teacher, both_ways=both_ways, learning_rate=1e-3)
    expected = planned(tmp_path / "by_hand", classifier()).stage("x", classifier(), peer)
    assert same(weights(student), weights(expected))
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "scheme" / "teacher")
    assert same(weights(saved), weights(teacher))
    assert not same(weights(saved), weights(classifier(seed=1, num_hidden_layers=3)))


def test_it_is_resumed(tmp_path):
    def run(folder, **settings):
        return schemes.online(planned(folder, classifier(), classifier(seed=1), **settings), both_ways=True)

    check_resumed(tmp_path, run, 2)


def test_a_teacher_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="online trains its teacher, and Nobody is no plain model"):
        schemes.online(planned(tmp_path, classifier(), Nobody()))
    average = EMATeacher(classifier(seed=1))  # whose answers are not those of its model
    with pytest.raises(ValueError, match="online trains its teacher, and EMATeacher is no plain model"):
        schemes.online(planned(tmp_path, classifier(), average))
    with pytest.raises(ValueError, match="online needs a teacher"):
        schemes.online(planned(tmp_path, classifier()))


@pytest.mark.parametrize("rate", [0.0, -1e-3])
def test_a_learning_rate_that_is_none_is_refused_in_the_rehearsal(tmp_path, rate):
    plan = planned(tmp_path, classifier(), classifier(seed=1))
    with pytest.raises(ValueError, match=f"PeerTeacher: learning_rate={rate} must be above 0"):
        schemes.online.rehearse(plan, learning_rate=rate)
