"""What came over from a teacher: every tensor is accounted for."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from models import tiny
from surgery import labelled, logits, reloaded

from hf_distill import students
from hf_distill.students import copied


def test_the_report_survives_copy_and_pickle_and_is_not_saved(tmp_path: Path) -> None:
    student = students.keep_layers(labelled(), [0, 2])
    for again in (copy.deepcopy(student), pickle.loads(pickle.dumps(student))):
        assert again.copied == student.copied
        assert torch.equal(logits(again), logits(student))
    assert not hasattr(reloaded(student, tmp_path), "copied")
    assert "copied" not in json.loads((tmp_path / "config.json").read_text())
    assert not any("copied" in name for name in student.state_dict())


def test_the_report_accounts_for_every_tensor() -> None:
    teacher = labelled()
    for architecture in (None, "distilbert"):
        student = students.from_teacher(teacher, architecture, [1, 3])
        report = student.copied
        assert {*report.copied, *report.fresh} == student.state_dict().keys()
        assert {*report.copied.values(), *report.left} == teacher.state_dict().keys()
        assert not set(report.copied) & set(report.fresh)
        text = str(report)
        assert "blocks 1, 3 of 4" in text
        assert "bert.encoder.layer.0.* (16)" in text


def test_two_steps_are_told_as_one() -> None:
    teacher = labelled()
    first = students.from_teacher(teacher, "distilbert", [0, 2, 3])
    second = students.keep_layers(first, [2, 1])
    told = second.copied.since(first.copied)
    at_once = students.from_teacher(teacher, "distilbert", [3, 2]).copied
    assert (told.teacher, told.student, told.layers, told.of) == (
        at_once.teacher,
        at_once.student,
        (3, 2),
        4,
    )
    assert told.copied == at_once.copied
    assert set(told.fresh) == set(at_once.fresh)
    assert set(told.left) == set(at_once.left)
    assert told.notes == at_once.notes


def test_a_tensor_of_another_shape_is_refused() -> None:
    teacher, student = tiny("bert"), tiny("bert", intermediate_size=40)
    name = "encoder.layer.0.output.dense.weight"
    with pytest.raises(ValueError, match=rf"{name} of the teacher is \(32, 48\) and .* \(32, 40\)"):
        copied.copy_weights(student, teacher, {name: name}, [0], 4, [])
