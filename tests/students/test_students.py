"""Students made from a teacher: the right weights in the right place, after reloading with plain transformers too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, LABELS, LAYERS, inputs_of, tiny
from peft import LoraConfig, get_peft_model
from surgery import NAMES, cut_by_hand, labelled, logits, reloaded
from torch import Tensor, nn

from hf_distill import anatomy, students

IN_ONE_LIST = [family for family in FAMILIES if family != "albert"]
HEADS = {
    "bert": "ForSequenceClassification",
    "distilbert": "ForTokenClassification",
    "roberta": "ForMaskedLM",
    "electra": "ForSequenceClassification",
    "deberta_v2": "ForSequenceClassification",
    "modernbert": "ForMaskedLM",
    "gpt2": "LMHeadModel",
    "llama": "ForCausalLM",
    "qwen3": "ForCausalLM",
    "t5": "ForConditionalGeneration",
    "bart": "ForConditionalGeneration",
    "vit": "ForImageClassification",
    "dinov2": "ForImageClassification",
    "wav2vec2": "ForSequenceClassification",
}


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# keep_layers


@pytest.mark.parametrize("family", IN_ONE_LIST)
def test_the_student_computes_with_the_chosen_blocks_and_reloads(family: str, tmp_path: Path) -> None:
    teacher = tiny(family, HEADS[family])
    layers = [0, 3, 1]
    if family == "modernbert":
        layers = [0, 2, 3]
    before = weights(teacher), teacher.config.to_dict()
    student = students.keep_layers(teacher, layers)
    again = reloaded(student, tmp_path)
    torch.testing.assert_close(logits(student), logits(cut_by_hand(teacher, layers)), rtol=0, atol=1e-6)
    assert torch.equal(logits(again), logits(student))
    assert again.config.num_hidden_layers == len(anatomy.find_blocks(again)) == 3
    assert type(student) is type(teacher)
    assert teacher.config.to_dict() == before[1]
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in teacher.state_dict().items())
    assert student.copied.layers == tuple(layers)
    assert student.copied.fresh == ()


@pytest.mark.parametrize("family", IN_ONE_LIST)
def test_all_layers_are_the_teacher_and_share_nothing_with_it(family: str) -> None:
    teacher = tiny(family, HEADS[family])
    student = students.from_teacher(teacher)
    assert torch.equal(logits(student), logits(teacher))
    theirs = {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in student.state_dict().values()}
    assert student.copied.left == student.copied.fresh == ()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert logits(teacher).abs().max() > 0


def test_t5_keeps_its_position_table_when_its_first_block_goes(tmp_path: Path) -> None:
    teacher = tiny("t5", "EncoderModel")
    student = reloaded(students.keep_layers(teacher, [1, 2]), tmp_path)
    table = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    assert torch.equal(student.state_dict()[table], teacher.state_dict()[table])


def test_the_decoder_is_kept_whole() -> None:
    student = students.keep_layers(tiny("bart", "ForConditionalGeneration"), [0, -1])
    assert len(student.get_encoder().layers) == 2
    assert len(student.get_decoder().layers) == LAYERS + 1
    assert "the decoder is kept whole" in str(student.copied)


def test_modernbert_s_first_block_has_no_norm_and_the_report_says_so(tmp_path: Path) -> None:
    student = students.keep_layers(tiny("modernbert", "ForMaskedLM"), [2, 0])
    assert student.copied.fresh == ("model.layers.1.attn_norm.weight",)
    assert "model.layers.2.attn_norm.weight" in student.copied.left
    reloaded(student, tmp_path)


def test_layers_are_renumbered_and_may_count_from_the_end() -> None:
    student = students.keep_layers(tiny("llama", "ForCausalLM"), [1, -1])
    assert student.copied.layers == (1, 3)
    assert [block.self_attn.layer_idx for block in anatomy.find_blocks(student)] == [0, 1]
    student.generate(**inputs_of(student, rows=1), max_new_tokens=2, min_new_tokens=2)  # the cache is by number


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 4], r"layers=\[0, 4\]: layer 4 does not exist: BertModel has 4, 0 to 3"),
        ([-5], "layer -5 does not exist"),
        ([1, 2, 1], "layer 1 of BertModel stands there more than once"),
        ([3, -1], "layer 3 of BertModel stands there more than once"),
        ([], "layers is empty: choose at least one of the 4 blocks"),
        ([True], "True is not a layer number"),
        (["0"], "'0' is not a layer number"),
    ],
)
def test_wrong_layers_are_refused(layers: list[Any], message: str) -> None:
    teacher = tiny("bert")
    with pytest.raises(ValueError, match=message):
        students.keep_layers(teacher, layers)
    with pytest.raises(ValueError, match=message):
        students.from_teacher(teacher, "distilbert", layers)


def test_what_cannot_be_cut_is_refused_with_the_cure() -> None:
    with pytest.raises(ValueError, match=r"one shared block 4 times.*from_pretrained\(path, num_hidden_layers=2\)"):
        students.keep_layers(tiny("albert"), [0])
    peft = get_peft_model(tiny("bert", "ForSequenceClassification"), LoraConfig(target_modules=["query"]))
    with pytest.raises(ValueError, match=r"PEFT wrapper. Pass teacher.merge_and_unload\(\)"):
        students.keep_layers(peft, [0])
    with pytest.raises(ValueError, match="on the meta device"):
        students.keep_layers(tiny("bert").to("meta"), [0])
    with pytest.raises(ValueError, match="Linear is no transformers model"):
        students.keep_layers(nn.Linear(1, 1), [0])
    teacher = tiny("bert")
    teacher.is_quantized = True
    with pytest.raises(ValueError, match="BertModel is quantised"):
        students.keep_layers(teacher, [0])


def test_a_block_that_would_change_under_its_new_number_is_refused() -> None:
    teacher = tiny("gpt2", "LMHeadModel", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ValueError, match=r"block 3 .* student's block 1: attn\.scaling is .* decides it by number"):
        students.keep_layers(teacher, [0, 3])
    assert torch.equal(logits(students.keep_layers(teacher, [0, 1])), logits(cut_by_hand(teacher, [0, 1])))


def test_the_student_is_float32_unless_asked_otherwise() -> None:
    teacher = labelled().half()
    for make in (
        students.keep_layers,
        lambda *args, **kw: students.from_teacher(args[0], "distilbert", *args[1:], **kw),
    ):
        student = make(teacher, [0, 1])
        assert student.dtype is torch.float32
        assert student.config.dtype is torch.float32
        assert make(teacher, [0], dtype=None).dtype is torch.float16
    name = "bert.encoder.layer.0.output.dense.weight"
    kept = students.keep_layers(teacher, [0])
    assert torch.equal(kept.state_dict()[name], teacher.state_dict()[name].float())


def test_the_student_trains_though_the_teacher_is_frozen() -> None:
    teacher = labelled().requires_grad_(False)
    for student in (students.keep_layers(teacher, [0]), students.from_teacher(teacher, "distilbert", [0])):
        assert all(parameter.requires_grad for parameter in student.parameters())
        assert not student.training


def test_labels_problem_type_and_attention_come_along() -> None:
    teacher = labelled(problem_type="multi_label_classification")
    teacher.set_attn_implementation("eager")
    for architecture in (None, "distilbert"):
        config = students.from_teacher(teacher, architecture, [0]).config
        assert (config.id2label, config.problem_type) == (NAMES, "multi_label_classification")
        assert config.label2id == {name: i for i, name in NAMES.items()}
        assert config._attn_implementation == "eager"


def test_architectures_that_are_not_known_are_refused() -> None:
    teacher = tiny("bert")
    with pytest.raises(ValueError, match=r"architecture 'distillbert' is not known.*Did you mean 'distilbert'\?"):
        students.from_teacher(teacher, "distillbert")
    with pytest.raises(ValueError, match=r"architecture 'x' is not known.*None keeps the teacher's own"):
        students.from_teacher(teacher, "x")
    assert type(students.from_teacher(teacher, "bert", [0])) is type(teacher)


# load


def test_load_takes_the_head_and_the_labels_from_the_teacher(tmp_path: Path) -> None:
    tiny("distilbert").half().save_pretrained(tmp_path)
    for head in ("ForSequenceClassification", "ForTokenClassification"):
        student = students.load(str(tmp_path), like=labelled(head, problem_type="multi_label_classification"))
        assert type(student).__name__ == f"DistilBert{head}"
        assert (student.config.id2label, student.num_labels) == (NAMES, LABELS)
        assert student.config.problem_type == "multi_label_classification"
        assert student.dtype is torch.float32


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "vit", "wav2vec2", "llama"])
def test_load_finds_the_auto_class_of_the_teacher(family: str, tmp_path: Path) -> None:
    teacher = tiny(family, HEADS[family])
    teacher.save_pretrained(tmp_path)
    student = students.load(str(tmp_path), like=teacher)
    assert type(student) is type(teacher)
    assert torch.equal(logits(student), logits(teacher))


def test_load_without_a_head_gives_none(tmp_path: Path) -> None:
    teacher = tiny("bert")
    teacher.save_pretrained(tmp_path)
    assert type(students.load(str(tmp_path), like=teacher)) is type(teacher)


def test_load_does_not_write_over_labels_of_a_trained_head(tmp_path: Path) -> None:
    other = {0: "fear", 1: "joy", 2: "anger"}
    labelled(id2label=other, label2id={name: i for i, name in other.items()}).save_pretrained(tmp_path)
    assert students.load(str(tmp_path), like=labelled()).config.id2label == other


def test_load_refuses_a_head_for_other_labels_and_says_how_to_replace_it(tmp_path: Path) -> None:
    two = {0: "no", 1: "yes"}
    labelled(id2label=two, label2id={"no": 0, "yes": 1}).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"head for 2 labels \(no, yes, .*teacher has 3.*ignore_mismatched_sizes=True"
    ):
        students.load(str(tmp_path), like=labelled())
    student = students.load(str(tmp_path), like=labelled(), ignore_mismatched_sizes=True)
    assert student.config.id2label == NAMES
    assert logits(student).shape == (3, 3)


def test_load_lets_the_caller_win(tmp_path: Path) -> None:
    tiny("distilbert").save_pretrained(tmp_path)
    student = students.load(str(tmp_path), like=labelled(), dtype=torch.bfloat16, num_hidden_layers=2)
    assert student.dtype is torch.bfloat16
    assert len(anatomy.find_blocks(student)) == 2
