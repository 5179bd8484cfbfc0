"""Who taught, in words."""

import json

import numpy as np
import torch
from runs import classifier

from hf_distill.losses import SoftTargets, TaskLoss, linear
from hf_distill.schemes.wording import _knobs_of, in_words
from hf_distill.tasks import Task
from hf_distill.teachers import EnsembleTeacher, ModelTeacher, Nobody, PeerTeacher, PermutedTeacher, Teacher


class Rules(Teacher):
    def observe(self, batch):
        return {}


def test_the_stage_that_made_it_or_where_its_weights_are_from(tmp_path):
    made, other = classifier(), classifier()
    names = {made: "generation_1"}
    folder = tmp_path / "my-teacher"
    made.save_pretrained(folder)
    loaded = type(made).from_pretrained(folder)
    assert in_words(None, names) is None
    assert in_words(Nobody(), names) is None
    assert in_words("some/model", names) == "some/model"
    assert in_words(made, names) == "generation_1"
    assert in_words(ModelTeacher(made), names) == "generation_1"
    assert in_words(other, names) == "BertForSequenceClassification"
    assert in_words(loaded, names) == "my-teacher"
    assert in_words(Rules(), names) == "Rules()"
    together = EnsembleTeacher([made, PermutedTeacher(loaded, seed=3)])
    assert in_words(together, names) == "EnsembleTeacher(generation_1, PermutedTeacher(my-teacher, seed=3))"


def test_no_folder_is_told(tmp_path):
    class Written(ModelTeacher):
        def __init__(self, model, notes):
            super().__init__(model)
            self.notes = notes

    for name in ("one", "two"):
        classifier().save_pretrained(tmp_path / name)
    folders = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert in_words(PeerTeacher(folders[0]), {}) == "PeerTeacher(one)"
    assert in_words(PeerTeacher(folders, temperature=2.0), {}) == "PeerTeacher(one, two, temperature=2.0)"
    assert in_words(EnsembleTeacher(folders), {}) == "EnsembleTeacher(one, two)"
    written = Written(classifier(), str(tmp_path / "notes"))
    assert in_words(written, {}) == "Written(BertForSequenceClassification, notes='notes')"


def test_of_many_teachers_and_long_knobs_the_words_are_short():
    models = [classifier(seed=seed) for seed in range(4)]
    names = {model: f"generation_{number}" for number, model in enumerate(models, 1)}
    three = EnsembleTeacher(models[:3], mean="probabilities", weights=[0.5, 0.25, 0.25])
    told = "generation_1, generation_2, generation_3, mean='probabilities', weights=[0.5, 0.25, 0.25]"
    assert in_words(three, names) == f"EnsembleTeacher({told})"
    four = EnsembleTeacher(models, mean="logits", weights=[0.1234567890123456, 0.2, 0.3, 0.3765432109876544])
    assert in_words(four, names) == "EnsembleTeacher(generation_1, generation_2, ... 4 in all, mean='logits')"


class Knobs(Teacher):
    def __init__(self, knob=None):
        self.knob = knob

    def observe(self, batch):
        return {}


def test_every_kind_of_knob_is_known_again(tmp_path):
    written = {
        (0.9, 0.1): [0.9, 0.1],
        frozenset("ba"): ["a", "b"],
        Task.TOKENS: "tokens",
        np.float32(0.5): 0.5,
        tmp_path / "notes": "notes",
        in_words: "in_words",
    }
    for knob, expected in [*written.items(), ({1: torch.tensor([1, 2])}, {"1": [1, 2]}), (np.ones(2), [1.0, 1.0])]:
        found = _knobs_of(Knobs(knob))
        assert json.loads(json.dumps(found)) == {"knob": expected}
    told = _knobs_of(Knobs([TaskLoss(weight=7.0), SoftTargets(1.0, weight=linear(1.0, 0.0))]))["knob"]
    assert told[0] == "TaskLoss(label_smoothing=0.0, pos_weight=None), weight 7.0"
    assert told[1].startswith("SoftTargets(temperature=1.0")
    assert _knobs_of(Knobs()) == {}


def test_how_it_is_run_is_no_knob():
    models = [classifier().eval(), classifier(seed=1).eval()]
    assert _knobs_of(EnsembleTeacher(models, one_at_a_time=True, devices=["cpu", "cpu"])) == {}
    assert _knobs_of(EnsembleTeacher(models, weights=[1, 1])) == _knobs_of(EnsembleTeacher(models, weights=[1.0, 1.0]))
