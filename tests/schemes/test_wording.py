"""Who taught, in words."""

from runs import classifier

from hf_distill.schemes.wording import in_words
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
