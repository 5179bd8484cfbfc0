"""BERT -> DistilBERT: the same numbers, after reloading with plain transformers too."""

from pathlib import Path

import pytest
import torch
import transformers
from models import inputs_of, tiny
from surgery import cut_by_hand, labelled, logits, reloaded

from hf_distill import anatomy, students

MAPPED = {
    "ForSequenceClassification": "DistilBertForSequenceClassification",
    "ForTokenClassification": "DistilBertForTokenClassification",
    "ForQuestionAnswering": "DistilBertForQuestionAnswering",
    "ForMaskedLM": "DistilBertForMaskedLM",
    "Model": "DistilBertModel",
}


@pytest.mark.parametrize("head", MAPPED)
@torch.no_grad()
def test_distilbert_with_all_blocks_computes_what_bert_computes(head: str, tmp_path: Path) -> None:
    teacher = tiny("bert", head)
    student = reloaded(students.from_teacher(teacher, "distilbert"), tmp_path)
    assert type(student).__name__ == MAPPED[head]
    inputs = inputs_of(teacher)
    mine, theirs = student(**inputs, output_hidden_states=True), teacher(**inputs, output_hidden_states=True)
    attended = inputs["attention_mask"].bool()
    expected = theirs.last_hidden_state if head == "Model" else theirs.hidden_states[-1]
    found = mine.last_hidden_state if head == "Model" else mine.hidden_states[-1]
    torch.testing.assert_close(found[attended], expected[attended], rtol=0, atol=1e-5)
    if head in ("ForTokenClassification", "ForMaskedLM"):
        torch.testing.assert_close(mine.logits[attended], theirs.logits[attended], rtol=0, atol=1e-5)
    if head == "ForQuestionAnswering":
        torch.testing.assert_close(mine.start_logits[attended], theirs.start_logits[attended], rtol=0, atol=1e-5)
        torch.testing.assert_close(mine.end_logits[attended], theirs.end_logits[attended], rtol=0, atol=1e-5)
    auto = transformers.AutoModel.from_pretrained(tmp_path)
    assert type(auto).__name__ == "DistilBertModel"


@torch.no_grad()
def test_distilbert_keeps_the_chosen_blocks() -> None:
    teacher = labelled()
    student = students.from_teacher(teacher, "distilbert", [3, 0])
    expected = cut_by_hand(teacher, [3, 0]).bert(**inputs_of(teacher)).last_hidden_state
    found = student.distilbert(**inputs_of(teacher)).last_hidden_state
    attended = inputs_of(teacher)["attention_mask"].bool()
    torch.testing.assert_close(found[attended], expected[attended], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_classifier_is_copied_and_only_its_activation_differs() -> None:
    teacher = labelled()
    student = students.from_teacher(teacher, "distilbert")
    first = teacher.bert(**inputs_of(teacher)).last_hidden_state[:, 0]
    expected = teacher.classifier(teacher.bert.pooler.dense(first).relu())
    torch.testing.assert_close(logits(student), expected, rtol=0, atol=1e-5)
    assert "ReLU in place of tanh" in str(student.copied)
    assert student.copied.fresh == ()


def test_the_teacher_s_settings_become_distilbert_s() -> None:
    teacher = labelled(
        hidden_dropout_prob=0.2,
        attention_probs_dropout_prob=0.3,
        classifier_dropout=0.4,
        hidden_act="relu",
        max_position_embeddings=20,
        layer_norm_eps=1e-5,
        pad_token_id=4,
        type_vocab_size=1,
    )
    student = students.from_teacher(teacher, "distilbert", [0])
    config = student.config
    assert (config.dropout, config.attention_dropout, config.seq_classif_dropout) == (0.2, 0.3, 0.4)
    assert (config.activation, config.max_position_embeddings, config.pad_token_id) == ("relu", 20, 4)
    assert not config.sinusoidal_pos_embds
    assert anatomy.max_positions(student) == 20
    assert any("eps 1e-12, the teacher's 1e-05: not exact" in note for note in student.copied.notes)
    assert not any("token types were left behind" in note for note in student.copied.notes)


def test_without_a_classifier_dropout_bert_s_own_is_taken() -> None:
    config = students.from_teacher(labelled(hidden_dropout_prob=0.25), "distilbert", [0]).config
    assert config.seq_classif_dropout == 0.25


def test_token_type_0_goes_into_the_positions_and_the_words_stay() -> None:
    teacher = tiny("bert", "ForMaskedLM")
    student = students.from_teacher(teacher, "distilbert", [0])
    theirs, mine = teacher.bert.embeddings, student.distilbert.embeddings
    assert torch.equal(mine.word_embeddings.weight, theirs.word_embeddings.weight)
    assert student.vocab_projector.weight is mine.word_embeddings.weight
    expected = theirs.position_embeddings.weight + theirs.token_type_embeddings.weight[0]
    assert torch.equal(mine.position_embeddings.weight, expected)
    assert any("of a pair, the second text is not marked" in note for note in student.copied.notes)
    assert "bert.embeddings.token_type_embeddings.weight" in student.copied.left


def test_teachers_that_cannot_be_mapped_are_refused() -> None:
    with pytest.raises(ValueError, match=r"made from BertForSequenceClassification.*teacher is a RobertaModel"):
        students.from_teacher(tiny("roberta"), "distilbert")
    with pytest.raises(ValueError, match="neither a causal mask nor relative positions"):
        students.from_teacher(tiny("bert", is_decoder=True), "distilbert")
