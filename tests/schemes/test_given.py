"""What a Plan is given: models by id, lists, and teachers of one student alone."""

import copy

import pytest
from peft import LoraConfig, get_peft_model
from runs import QUICK, classifier, exactly, rows, words

from hf_distill import DistillationConfig, schemes
from hf_distill.losses import SoftTargets
from hf_distill.teachers import AdapterOffTeacher, EnsembleTeacher, NoisyTeacher


def test_a_student_by_its_id_takes_the_teachers_head_and_brings_its_tokenizer(tmp_path):
    classifier().bert.save_pretrained(tmp_path / "small")
    words().save_pretrained(tmp_path / "small")
    teacher = classifier(seed=1).eval()
    args = DistillationConfig(str(tmp_path / "out"), **QUICK)
    plan = schemes.Plan(str(tmp_path / "small"), teacher, [SoftTargets()], args, train_dataset=rows(labels=False))
    assert plan.fresh().config.num_labels == teacher.config.num_labels
    schemes.born_again(plan, generations=1)
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_what_cannot_be_several_is_refused():
    student = get_peft_model(classifier(), LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    for teacher in (AdapterOffTeacher(student), NoisyTeacher(AdapterOffTeacher(copy.deepcopy(student)), sigma=0.1)):
        with pytest.raises(ValueError, match=r"AdapterOffTeacher is the base of one student, and a scheme makes sev"):
            schemes.Plan(student, teacher)
    message = "2 teachers in a list. Pass teachers.EnsembleTeacher([...]) of them."
    with pytest.raises(ValueError, match=exactly(message)):
        schemes.Plan(classifier(), [classifier(seed=1), classifier(seed=2)])
    with pytest.raises(ValueError, match="cannot be loaded by id"):
        schemes.Plan("somewhere")


@pytest.mark.parametrize("name", ["adversarial", "hints", "two_stage"])
def test_a_scheme_that_learns_from_the_inside_takes_one_teacher(tmp_path, name):
    several = EnsembleTeacher([classifier(seed=seed).eval() for seed in (1, 2)])
    for given in (several, NoisyTeacher(several, sigma=0.1)):
        made = schemes.Plan(classifier(), given, args=DistillationConfig(str(tmp_path), **QUICK), train_dataset=rows())
        message = (
            f"{name} learns from the inside of its teacher, and EnsembleTeacher is 2 of them. Give it one of them."
        )
        with pytest.raises(ValueError, match=exactly(message)):
            getattr(schemes, name).rehearse(made)
    getattr(schemes, name).rehearse(
        schemes.Plan(classifier(), several.members[0], args=made.args, train_dataset=rows())
    )
