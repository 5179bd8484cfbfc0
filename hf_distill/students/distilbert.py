"""BERT -> DistilBERT: the same encoder without pooler and token types, and which weight goes where."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)

from hf_distill.students.copied import copy_weights

_CLASSES: tuple[tuple[type[PreTrainedModel], type[PreTrainedModel], dict[str, str]], ...] = (
    (
        BertForSequenceClassification,
        DistilBertForSequenceClassification,
        {"pre_classifier": "bert.pooler.dense", "classifier": "classifier"},
    ),
    (BertForTokenClassification, DistilBertForTokenClassification, {"classifier": "classifier"}),
    (BertForQuestionAnswering, DistilBertForQuestionAnswering, {"qa_outputs": "qa_outputs"}),
    (
        BertForMaskedLM,
        DistilBertForMaskedLM,
        {
            "vocab_transform": "cls.predictions.transform.dense",
            "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
            "vocab_projector": "cls.predictions.decoder",
        },
    ),
    (BertModel, DistilBertModel, {}),
)
_EMBEDDINGS = ("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.LayerNorm")
_BLOCK = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
_DISTILBERT_EPS = 1e-12  # written into DistilBERT's code, no setting


def check(teacher: PreTrainedModel) -> None:
    """Refuses a teacher that has no counterpart.

    Raises:
        ValueError: it is no BERT with a known head, or a BERT that computes what DistilBERT cannot.
    """
    _classes(teacher)
    config = teacher.config
    if config.is_decoder or getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise ValueError("DistilBERT has neither a causal mask nor relative positions, and this BERT teacher has.")
    if not isinstance(config.hidden_act, str):
        raise ValueError(f"config.hidden_act is {config.hidden_act!r}; DistilBERT needs the name of an activation.")


def from_bert(teacher: PreTrainedModel, chosen: Sequence[int], dtype: torch.dtype | None) -> PreTrainedModel:
    """The DistilBERT class of the same task, with the teacher's weights; see `students.from_teacher`.

    Args:
        teacher: a BERT that `check` let pass.
        chosen: its blocks in the student's order, counted from 0.
        dtype: of the student's weights; None keeps the teacher's.

    Returns:
        The student, in eval mode, with `student.copied`.
    """
    student_class, head = _classes(teacher)
    config = teacher.config
    student = student_class._from_config(
        _config(config, len(chosen)),
        dtype=dtype or teacher.dtype,
        attn_implementation=config._attn_implementation,
    )
    sources = _sources(student, teacher, head, chosen)
    student = copy_weights(student, teacher, sources, chosen, config.num_hidden_layers, _notes(teacher))
    _fold_token_type(student, teacher)
    return student


def _classes(teacher: PreTrainedModel) -> tuple[type[PreTrainedModel], dict[str, str]]:
    """The student's class, and {module of its head: module of the teacher's}."""
    found = next((each for each in _CLASSES if isinstance(teacher, each[0])), None)
    if found is None:
        known = ", ".join(each[0].__name__ for each in _CLASSES)
        raise ValueError(
            f'architecture="distilbert" is made from {known}, and the teacher is a {type(teacher).__name__}. Leave '
            "architecture out to keep the teacher's own."
        )
    return found[1:]


def _config(bert: Any, depth: int) -> DistilBertConfig:
    classifier_dropout = getattr(bert, "classifier_dropout", None)
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        sinusoidal_pos_embds=False,
        n_layers=depth,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        dropout=bert.hidden_dropout_prob,
        attention_dropout=bert.attention_probs_dropout_prob,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        qa_dropout=0.0,  # BERT has none there
        seq_classif_dropout=bert.hidden_dropout_prob if classifier_dropout is None else classifier_dropout,
        chunk_size_feed_forward=bert.chunk_size_feed_forward,
        pad_token_id=bert.pad_token_id,
        bos_token_id=bert.bos_token_id,
        eos_token_id=bert.eos_token_id,
        tie_word_embeddings=bert.tie_word_embeddings,
        id2label=dict(bert.id2label),
        label2id=dict(bert.label2id),
        problem_type=bert.problem_type,
    )


def _sources(
    student: PreTrainedModel, teacher: PreTrainedModel, head: Mapping[str, str], chosen: Sequence[int]
) -> dict[str, str]:
    mine, theirs = ("", "") if isinstance(teacher, BertModel) else ("distilbert.", "bert.")
    modules = {f"{mine}{name}": f"{theirs}{name}" for name in _EMBEDDINGS}
    for new, old in enumerate(chosen):
        for ours, others in _BLOCK.items():
            modules[f"{mine}transformer.layer.{new}.{ours}"] = f"{theirs}encoder.layer.{old}.{others}"
    modules |= head
    known = student.state_dict().keys()
    return {
        f"{ours}.{kind}": f"{others}.{kind}"
        for ours, others in modules.items()
        for kind in ("weight", "bias")
        if f"{ours}.{kind}" in known
    }


@torch.no_grad()
def _fold_token_type(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Adds token type 0 to every position.

    The sum of the embeddings stays the same, for any words. Added to the words instead it would also be the same, but
    a masked-LM head is tied to them: its logits would change, and so would padding's row of zeros.
    """
    positions = student.get_position_embeddings().weight
    embeddings = teacher.base_model.embeddings
    folded = embeddings.position_embeddings.weight.float() + embeddings.token_type_embeddings.weight[0].float()
    positions.copy_(folded)


def _notes(teacher: PreTrainedModel) -> list[str]:
    config = teacher.config
    notes = ["token type 0 was added to every position embedding, which leaves the sum of the embeddings as it was"]
    if config.type_vocab_size > 1:
        notes.append("the other token types were left behind: of a pair, the second text is not marked any more")
    if config.layer_norm_eps != _DISTILBERT_EPS:
        notes.append(f"layer norms use eps {_DISTILBERT_EPS:g}, the teacher's {config.layer_norm_eps:g}: not exact")
    if isinstance(teacher, BertForSequenceClassification):
        notes.append("pre_classifier is the teacher's pooler with ReLU in place of tanh: a warm start, not exact")
    dropout = getattr(config, "classifier_dropout", None)
    if isinstance(teacher, BertForTokenClassification) and dropout not in (None, config.hidden_dropout_prob):
        notes.append(f"dropout before the classifier is {config.hidden_dropout_prob:g}, the teacher's {dropout:g}")
    return notes
