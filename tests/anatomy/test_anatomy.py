"""What is where in a transformers model: blocks, sizes, limits, names."""

import pytest
import torch
import transformers
from models import FAMILIES, HEADS, LABELS, LAYERS, VOCABULARY, WIDTH, inputs_of, tiny
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.signals import ModelShape, key, query, value
from hf_distill.tasks import Task

# family: (class of a block, path of the list of blocks, longest sequence)
PLACES = {
    "bert": ("BertLayer", "encoder.layer", 512),
    "distilbert": ("TransformerBlock", "transformer.layer", 512),
    "roberta": ("RobertaLayer", "encoder.layer", 64),  # two of the 66 positions are for padding
    "electra": ("ElectraLayer", "encoder.layer", 512),
    "albert": ("AlbertLayerGroup", None, 512),
    "deberta_v2": ("DebertaV2Layer", "encoder.layer", 512),
    "modernbert": ("ModernBertEncoderLayer", "layers", None),
    "gpt2": ("GPT2Block", "h", 1024),
    "llama": ("LlamaDecoderLayer", "layers", None),
    "qwen3": ("Qwen3DecoderLayer", "layers", None),
    "t5": ("T5Block", "encoder.block", None),
    "bart": ("BartEncoderLayer", "encoder.layers", 64),  # two rows more than that in the table
    "vit": ("ViTLayer", "layers", None),
    "dinov2": ("Dinov2Layer", "encoder.layer", None),
    "wav2vec2": ("Wav2Vec2EncoderLayerStableLayerNorm", "encoder.layers", None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_found_where_they_are(family: str) -> None:
    model = tiny(family)
    block, path, _ = PLACES[family]
    blocks, stack = anatomy.find_blocks(model), anatomy.find_stack(model)
    assert [type(each).__name__ for each in blocks] == [block] * LAYERS
    assert (stack and stack[0]) == path
    if stack is not None:
        assert list(stack[1]) == blocks == list(model.get_submodule(stack[0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_longest_sequence_is_the_one_that_the_model_takes(family: str) -> None:
    model, longest = tiny(family), PLACES[family][2]
    assert anatomy.max_positions(model) == longest
    if longest is None or family == "bart":
        return
    with torch.no_grad():
        model(input_ids=torch.full((1, longest), 3))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 3))


def test_longest_sequence_of_bart_is_the_one_that_it_takes() -> None:
    model = tiny("bart")
    short = torch.full((1, 2), 3)
    with torch.no_grad():
        model(input_ids=torch.full((1, 64), 3), decoder_input_ids=short)
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 65), 3), decoder_input_ids=short)


def test_a_shared_block_stands_there_as_often_as_it_runs() -> None:
    blocks = anatomy.find_blocks(tiny("albert"))
    assert len(blocks) == LAYERS
    assert len({id(block) for block in blocks}) == 2
    assert blocks[0] is blocks[1]
    assert blocks[2] is blocks[3]


def test_describe_says_what_a_loss_must_know() -> None:
    for family, head, classes in (
        ("bert", "ForSequenceClassification", LABELS),
        ("bert", "ForTokenClassification", LABELS),
        ("bert", "ForQuestionAnswering", 2),
        ("bert", "ForMaskedLM", VOCABULARY),
        ("bert", "Model", 0),
        ("distilbert", "ForSequenceClassification", LABELS),
        ("t5", "EncoderModel", 0),
        ("bart", "ForConditionalGeneration", VOCABULARY),
        ("vit", "ForImageClassification", LABELS),
        ("wav2vec2", "ForSequenceClassification", LABELS),
    ):
        labels = {"num_labels": LABELS} if "Classification" in head else {}
        model = tiny(family, head, **labels)
        heads = {"key_heads": HEADS, "head_width": WIDTH // HEADS}
        assert anatomy.describe(model) == ModelShape(type(model).__name__, LAYERS, WIDTH, HEADS, classes, **heads)
    assert anatomy.describe(tiny("llama", "ForCausalLM")).causal
    assert anatomy.describe(tiny("gpt2", "LMHeadModel")).classes == VOCABULARY


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_and_their_width_are_those_of_the_recorded_queries_and_keys(family: str) -> None:
    fields = {"head_dim": 16} if family in ("llama", "qwen3") else {"d_kv": 16} if family == "t5" else {}
    model = tiny(family, **fields)  # heads x their width need not be the width
    shape = anatomy.describe(model)
    if anatomy.hands_out_maps(model):
        assert (family, shape.heads) == ("deberta_v2", HEADS)
        return
    inputs = inputs_of(model) | ({"decoder_input_ids": torch.full((3, 2), 3)} if family in ("t5", "bart") else {})
    task = Task.EMBEDDING
    with torch.no_grad(), Capture(model, {query(0), key(0), value(0)}) as capture:
        seen = capture.take(model(**inputs), Batch(inputs, task))
    for signal, heads in ((query(0), shape.heads), (key(0), shape.key_heads), (value(0), shape.key_heads)):
        assert (seen[signal].shape[1], seen[signal].shape[3]) == (heads, shape.head_width)


def test_a_number_of_key_heads_for_each_block_is_none_for_all() -> None:
    model = tiny("llama")
    vars(model.config)["num_key_value_heads"] = [2, 2, 4, 4]  # as configs of remote code say it
    assert anatomy.describe(model).key_heads == 0


def test_a_peft_model_answers_for_its_base() -> None:
    base = tiny("bert", "ForSequenceClassification", num_labels=LABELS)
    shape, blocks = anatomy.describe(base), anatomy.find_blocks(base)
    wrapped = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    assert anatomy.describe(wrapped) == shape
    assert anatomy.find_blocks(wrapped) == blocks
    assert anatomy.forward_names(wrapped) == anatomy.forward_names(base)


def test_a_model_without_blocks_has_none() -> None:
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_channels=3)
    bert = tiny("bert", num_hidden_layers=0)
    assert anatomy.find_stack(bert) is None
    assert anatomy.find_blocks(bert) == []
    assert anatomy.max_positions(transformers.ResNetModel(config)) is None


def test_accepted_keeps_what_forward_names() -> None:
    batch = {**inputs_of(tiny("bert")), "token_type_ids": torch.zeros(3, 10), "teacher_logits": torch.zeros(3)}
    assert list(anatomy.accepted(tiny("bert"), batch)) == ["input_ids", "attention_mask", "token_type_ids"]
    assert list(anatomy.accepted(tiny("distilbert"), batch)) == ["input_ids", "attention_mask"]


def test_vocabulary() -> None:
    assert anatomy.vocabulary(tiny("bert")) == VOCABULARY
    assert anatomy.vocabulary(tiny("vit")) is None
    assert anatomy.vocabulary(tiny("wav2vec2")) is None


def test_logits_are_found_in_outputs() -> None:
    start, end = torch.zeros(2, 5), torch.ones(2, 5)
    spans = anatomy.logits_of(QuestionAnsweringModelOutput(start_logits=start, end_logits=end), Task.SPAN)
    assert spans.shape == (2, 2, 5)
    assert spans[:, 1].eq(1).all()
    logits = torch.zeros(2, 3)
    assert anatomy.logits_of(SequenceClassifierOutput(logits=logits), Task.SINGLE_LABEL) is logits
    with pytest.raises(ValueError, match="no logits, only hidden_states"):
        anatomy.logits_of(SequenceClassifierOutput(hidden_states=logits), Task.SINGLE_LABEL)


def test_names_that_transformers_made_up_are_no_names() -> None:
    model = tiny("bert", "ForSequenceClassification", num_labels=2)
    assert anatomy.named_labels(model) is None
    model.config.id2label = {0: "no", 1: "yes"}
    assert anatomy.named_labels(model) == {0: "no", 1: "yes"}


def test_a_shortened_config_leaves_the_model_s_own_alone() -> None:
    model = tiny("qwen3")
    before = model.config.to_dict()
    short = anatomy.shortened_config(model, [3, 0])
    assert short.num_hidden_layers == 2
    assert short.layer_types == ["sliding_attention", "full_attention"]
    assert model.config.to_dict() == before


def test_numbers_of_blocks_in_a_config_are_renumbered() -> None:
    config = transformers.Qwen3MoeConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, intermediate_size=48, moe_intermediate_size=16, num_experts=2, num_experts_per_tok=1,
        mlp_only_layers=[1, 3], pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    short = anatomy.shortened_config(transformers.Qwen3MoeModel(config), [3, 0, 1])
    assert short.mlp_only_layers == [0, 2]


def test_a_config_that_does_not_say_its_depth_is_refused() -> None:
    model = tiny("bert")
    model.encoder.layer = nn.ModuleList(list(model.encoder.layer)[:3])
    with pytest.raises(ValueError, match="has 3 blocks, and its config does not say so in num_hidden_layers"):
        anatomy.shortened_config(model, [0])
