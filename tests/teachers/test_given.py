"""What may be passed as a teacher."""

import pytest
from runs import classifier

from hf_distill.teachers import CallableTeacher, EnsembleTeacher, ModelTeacher, Nobody, NoisyTeacher
from hf_distill.teachers.given import as_teacher, model_inside, models_of


def test_a_model_its_folder_and_a_teacher_are_teachers(tmp_path):
    model, nobody = classifier(), Nobody()
    made = as_teacher(model, "by_name")
    assert isinstance(made, ModelTeacher)
    assert (made.model, made.label_map) == (model, "by_name")
    model.save_pretrained(tmp_path)
    assert type(as_teacher(str(tmp_path)).model) is type(model)
    assert as_teacher(nobody) is nobody
    with pytest.raises(ValueError, match=r"no teacher\. Pass teacher="):
        as_teacher(None)


def test_a_student_by_id_takes_the_head_of_a_model():
    model = classifier()
    assert model_inside(as_teacher(model), "student") is model
    with pytest.raises(ValueError, match=r"the student 'small' cannot be loaded by id: .* Load it first\."):
        model_inside(Nobody(), "small")


def test_the_models_inside_are_those_that_are_asked():
    one, other = classifier(), classifier(seed=1)
    rules = CallableTeacher(lambda batch: None)
    assert models_of(EnsembleTeacher([NoisyTeacher(one, sigma=0.1), rules, other])) == [one, other]
    assert models_of(Nobody()) == []
