import pytest
import torch
import torch.nn.functional as F
import transformers
from models import LABELS, inputs_of, tiny

from hf_distill.anatomy import logits_of
from hf_distill.batch import Batch
from hf_distill.tasks import PROBLEM_TYPES, Task, agreement, find_task, task_values

HEADS = [
    ("bert", "ForTokenClassification", Task.TOKENS),
    ("bert", "ForQuestionAnswering", Task.SPAN),
    ("bert", "ForMaskedLM", Task.MASKED_LM),
    ("bert", "ForPreTraining", Task.MASKED_LM),
    ("bert", "LMHeadModel", Task.CAUSAL_LM),
    ("bert", "Model", Task.EMBEDDING),
    ("bert", "ForSequenceClassification", Task.SINGLE_LABEL),
    ("distilbert", "ForTokenClassification", Task.TOKENS),
    ("electra", "ForMaskedLM", Task.MASKED_LM),
    ("gpt2", "LMHeadModel", Task.CAUSAL_LM),
    ("gpt2", "ForSequenceClassification", Task.SINGLE_LABEL),
    ("llama", "ForCausalLM", Task.CAUSAL_LM),
    ("llama", "ForSequenceClassification", Task.SINGLE_LABEL),
    ("t5", "ForConditionalGeneration", Task.SEQ2SEQ),
    ("bart", "ForConditionalGeneration", Task.SEQ2SEQ),
    ("vit", "ForImageClassification", Task.SINGLE_LABEL),
    ("vit", "Model", Task.EMBEDDING),
    ("wav2vec2", "ForSequenceClassification", Task.SINGLE_LABEL),
]


@pytest.mark.parametrize(("family", "head", "task"), HEADS)
def test_the_task_is_read_off_the_head(family, head, task):
    model = tiny(family, head, **({"num_labels": LABELS} if "Classification" in head else {}))
    assert find_task(model) is task


@pytest.mark.parametrize(("task", "problem_type"), PROBLEM_TYPES.items())
def test_a_classifier_may_say_its_problem_type(task, problem_type):
    model = tiny("bert", "ForSequenceClassification", num_labels=2, problem_type=problem_type)
    assert find_task(model) is task


def test_one_output_is_regression_as_in_transformers():
    assert find_task(tiny("bert", "ForSequenceClassification", num_labels=1)) is Task.REGRESSION


def test_a_class_of_ones_own_is_what_it_is_made_from():
    class MyTagger(transformers.BertForTokenClassification):
        pass

    assert find_task(MyTagger(tiny("bert").config)) is Task.TOKENS


def test_a_decoder_that_reads_images_is_a_causal_model():
    class Config:
        is_encoder_decoder = False

    class LlavaForConditionalGeneration:
        config = Config()

    assert find_task(LlavaForConditionalGeneration()) is Task.CAUSAL_LM


def test_every_task_predicts_for_examples_or_tokens_or_neither():
    assert not any(task.per_example and task.per_token for task in Task)
    assert [task for task in Task if not (task.per_example or task.per_token)] == [Task.SPAN, Task.EMBEDDING]


def labels_for(task: Task, rows: int, length: int, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if task is Task.SINGLE_LABEL:
        return {"labels": torch.randint(0, LABELS, (rows,), generator=generator)}
    if task is Task.MULTI_LABEL:
        return {"labels": torch.randint(0, 2, (rows, LABELS), generator=generator).float()}
    if task is Task.REGRESSION:
        return {"labels": torch.randn(rows, LABELS, generator=generator)}
    if task is Task.SPAN:
        return {"start_positions": torch.tensor([1, 0, 2]), "end_positions": torch.tensor([3, 2, 2])}
    ids = torch.randint(0, LABELS, (rows, length), generator=generator)
    return {"labels": ids.masked_fill(mask == 0, -100)}


@pytest.mark.parametrize(
    ("task", "family", "head"),
    [
        (Task.SINGLE_LABEL, "bert", "ForSequenceClassification"),
        (Task.MULTI_LABEL, "bert", "ForSequenceClassification"),
        (Task.REGRESSION, "bert", "ForSequenceClassification"),
        (Task.TOKENS, "bert", "ForTokenClassification"),
        (Task.SPAN, "bert", "ForQuestionAnswering"),
        (Task.MASKED_LM, "bert", "ForMaskedLM"),
        (Task.CAUSAL_LM, "gpt2", "LMHeadModel"),
        (Task.SEQ2SEQ, "t5", "ForConditionalGeneration"),
    ],
)
def test_the_mean_over_targets_is_the_models_own_loss(task, family, head):
    fields = {"num_labels": LABELS} if "Sequence" in head or "Token" in head else {}
    model = tiny(family, head, **fields, **({"problem_type": PROBLEM_TYPES[task]} if task in PROBLEM_TYPES else {}))
    inputs = inputs_of(model)
    if task is Task.SPAN:  # transformers looks for answers in padding too, we do not
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    inputs |= labels_for(task, *inputs["input_ids"].shape, inputs["attention_mask"])
    with torch.no_grad():
        outputs = model(**inputs)
    batch = Batch(inputs, task)
    values = task_values(batch.align(logits_of(outputs, task)), batch.labels, task)
    torch.testing.assert_close(batch.mean(values, over="targets"), outputs.loss)


def test_values_are_not_reduced_and_float32():
    for task, logits, labels, shape in (
        (Task.SINGLE_LABEL, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), (4,)),
        (Task.MULTI_LABEL, torch.randn(4, 3), torch.ones(4, 3), (4,)),
        (Task.REGRESSION, torch.randn(4, 1), torch.ones(4), (4,)),
        (Task.REGRESSION, torch.randn(4, 3), torch.ones(4, 3), (4,)),
        (Task.TOKENS, torch.randn(4, 5, 3), torch.ones(4, 5).long(), (4, 5)),
        (Task.SPAN, torch.randn(4, 2, 5), torch.ones(4, 2).long(), (4, 2)),
    ):
        values = task_values(logits.bfloat16(), labels, task)
        assert values.shape == shape
        assert values.dtype is torch.float32


@pytest.mark.parametrize("unknown", [-1, -100])
def test_an_ignored_label_has_neither_value_nor_gradient(unknown):
    for task, logits, labels in (
        (Task.SINGLE_LABEL, torch.randn(2, 3), torch.tensor([1, unknown])),
        (Task.TOKENS, torch.randn(1, 2, 3), torch.tensor([[1, unknown]])),
        (Task.SPAN, torch.randn(1, 2, 3), torch.tensor([[1, unknown]])),
    ):
        values = task_values(logits.requires_grad_(), labels, task)
        values.sum().backward()
        assert values.flatten()[1] == 0
        rows = logits.grad.view(2, 3)
        assert rows[0].abs().max() > 0
        assert rows[1].abs().max() == 0


@pytest.mark.parametrize("unknown", [-1, -100])
def test_an_unknown_label_of_many_is_left_out_of_the_mean(unknown):
    logits = torch.tensor([[0.3, float("nan"), -2.0], [1.0, 1.0, 1.0]], requires_grad=True)
    labels = torch.tensor([[1, unknown, 0], [unknown, unknown, unknown]])
    values = task_values(logits, labels, Task.MULTI_LABEL)
    values.sum().backward()
    known = F.binary_cross_entropy_with_logits(torch.tensor([0.3, -2.0]), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(values.detach(), torch.stack([known, torch.tensor(0.0)]))
    assert logits.grad.isfinite().all()
    assert (logits.grad[labels < 0] == 0).all()


def test_a_position_outside_the_sequence_is_no_answer():
    assert task_values(torch.randn(1, 2, 4), torch.tensor([[4, 900]]), Task.SPAN).tolist() == [[0.0, 0.0]]


def test_labels_of_another_kind_of_problem_are_refused():
    with pytest.raises(ValueError, match=r'floating point and the task is single_label.*problem_type="multi_label'):
        task_values(torch.randn(2, 3), torch.ones(2, 3), Task.SINGLE_LABEL)


def test_agreement_is_that_of_decisions():
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 1.0]]), torch.tensor([[-5.0, 0.5], [0.1, 0.2]])
    assert agreement(student, teacher, Task.SINGLE_LABEL).tolist() == [1, 0]
    assert agreement(student - 2.5, teacher, Task.MULTI_LABEL).tolist() == [0.5, 0.5]
    assert agreement(student[None], teacher[None], Task.TOKENS).tolist() == [[1, 0]]


@pytest.mark.parametrize("head", ["ForMultipleChoice", "ForNextSentencePrediction"])
def test_a_head_that_is_not_known_is_refused_and_not_taken_for_none(head):
    with pytest.raises(
        ValueError, match=rf"^Bert{head} has a head of a kind that is not known here\. .* or pass model\.base_model"
    ):
        find_task(tiny("bert", head))


def test_a_head_of_ones_own_is_refused_unless_it_is_made_from_a_known_one():
    class Mine(transformers.BertPreTrainedModel):
        pass

    class Better(transformers.BertForTokenClassification):
        pass

    config = tiny("bert").config
    with pytest.raises(ValueError, match=r"^Mine has a head of a kind that is not known here"):
        find_task(Mine(config))
    assert find_task(Better(config)) is Task.TOKENS
