"""Teachers and stages in words."""

from runs import classifier

from hf_distill.schemes import described
from hf_distill.teachers import EnsembleTeacher, ModelTeacher, Nobody, NoisyTeacher


def test_a_teacher_is_called_by_the_stage_that_made_it_or_where_it_is_from():
    first, second = classifier(), classifier(seed=1)
    second.config.name_or_path = "somewhere/deep/second"
    second.name_or_path = "somewhere/deep/second"
    names = {id(first): "generation_1"}
    assert described.teacher(None, names) is None
    assert described.teacher(Nobody(), names) is None
    assert described.teacher("me/hub", names) == "me/hub"
    assert described.teacher(first, names) == described.teacher(ModelTeacher(first), names) == "generation_1"
    assert described.teacher(second, names) == "second"
    assert described.teacher(NoisyTeacher(first, sigma=0.1), names) == "NoisyTeacher(generation_1)"
    assert described.teacher(EnsembleTeacher([first, second]), names) == "EnsembleTeacher(generation_1, second)"
