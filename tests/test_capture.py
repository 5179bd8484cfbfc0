"""What is caught is what the model itself would show, and nothing is left on the model."""

import copy
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from models import FAMILIES, LABELS, LAYERS, OTHERS, VOCABULARY, inputs_of, tiny
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._dynamo.utils import counters
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

from hf_distill import anatomy
from hf_distill import capture as capture_of
from hf_distill.batch import Batch
from hf_distill.capture import Capture
from hf_distill.losses import AttentionKL, attention_kl, recorded_maps
from hf_distill.recorded import RecordedMap
from hf_distill.signals import (
    EMBEDDINGS,
    LOGITS,
    TASK_LOSS,
    Signal,
    attention,
    attention_scores,
    hidden,
    input_gradient,
    key,
    label_embeddings,
    pooled,
    query,
    value,
)
from hf_distill.tasks import Task, find_task

PRE_NORM = (
    "modernbert",
    "gpt2",
    "llama",
    "qwen3",
    "gemma2",
    "bloom",
    "falcon",
    "t5",
)  # there the model's last hidden state is after a final norm
CAUSAL = ("gpt2", "llama", "qwen3")
HAND_OUT = ("deberta_v2", *(family for family in OTHERS if family != "gemma2"))


def model_of(family: str) -> PreTrainedModel:
    return tiny(family, "EncoderModel" if family == "t5" else "Model")


def full_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    inputs = inputs_of(model)
    return inputs | {"decoder_input_ids": inputs["input_ids"]} if model.config.is_encoder_decoder else inputs


def catch(model: nn.Module, wanted: Iterable[Signal], inputs: dict[str, Tensor]) -> dict[Signal, Tensor]:
    capture = Capture(model, wanted)
    with capture:
        outputs = model(**inputs)
    return capture.take(outputs, Batch(inputs, find_task(anatomy.unwrap(model))))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def attended(model: PreTrainedModel, inputs: dict[str, Tensor], tokens: int) -> Tensor:
    """Which positions of the blocks hold input, (batch, tokens)."""
    mask = inputs.get("attention_mask")
    if mask is None:
        return torch.ones(3, tokens, dtype=torch.bool)
    if model.config.model_type == "wav2vec2":
        return model._get_feature_vector_attention_mask(tokens, mask).bool()
    return mask.bool()


# Equal to what transformers shows


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_is_what_the_model_shows(family: str) -> None:
    model = model_of(family)
    inputs = full_inputs(model)
    outputs = model(**inputs, output_hidden_states=True)
    expected = outputs.get("hidden_states") or outputs["encoder_hidden_states"]
    found = catch(model, [hidden(EMBEDDINGS), *(hidden(i - LAYERS) for i in range(LAYERS))], inputs)
    assert torch.equal(found[hidden(EMBEDDINGS)], expected[0])
    for i in range(LAYERS - (family in PRE_NORM)):
        assert torch.equal(found[hidden(i - LAYERS)], expected[i + 1])
    if family in PRE_NORM:
        norm = [m for name, m in model.named_modules() if name.split(".")[-1] in _FINAL_NORMS][-1]
        close(norm(found[hidden(-1)]), expected[-1])


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_forward_that_ends_early_shows_the_same_and_runs_no_block_more(family: str) -> None:
    model = model_of(family)
    inputs = full_inputs(model)
    batch = Batch(inputs, find_task(model))
    looks = [[hidden(1), hidden(0)], [hidden(EMBEDDINGS)], [pooled("mean")]]
    looks += [[query(1), key(1)]] if family not in HAND_OUT else []
    for wanted in looks:
        if family in ("vit", "wav2vec2") and wanted[0].kind == "pooled":
            continue
        expected = catch(model, wanted, inputs)
        ran: list[Any] = []
        count = partial(lambda ran, *_: ran.append(1), ran)
        handles = [each.register_forward_hook(count) for each in set(anatomy.find_blocks(model))]
        capture, outputs = Capture(model, wanted, ends=True), None
        with capture:
            outputs = model(**inputs)
        for handle in handles:
            handle.remove()
        found = capture.take(outputs, batch)
        assert outputs is None
        assert len(ran) == {"hidden": 2, "query": 2, "pooled": LAYERS}[wanted[0].kind] - (wanted == looks[1])
        assert all(torch.equal(found[signal], expected[signal]) for signal in wanted)
    after = catch(model, [hidden(-1)], inputs)  # and the next forward is whole again
    assert torch.equal(after[hidden(-1)], catch(model, [hidden(-1)], inputs)[hidden(-1)])


@torch.no_grad()
def test_a_forward_does_not_end_early_where_answers_are_looked_at() -> None:
    model = tiny("bert", "ForSequenceClassification")
    capture, outputs = Capture(model, [hidden(0), LOGITS], ends=True), None
    with capture:
        outputs = model(**inputs_of(model))
    assert outputs is not None


def test_what_goes_wrong_inside_is_not_swallowed() -> None:
    model = tiny("bert", "ForSequenceClassification")
    with pytest.raises(RuntimeError, match="broken"), Capture(model, [hidden(1)], ends=True):
        raise RuntimeError("broken")


_FINAL_NORMS = ("final_norm", "ln_f", "norm", "final_layer_norm")


@pytest.mark.parametrize("family", [*FAMILIES, *OTHERS])
@torch.no_grad()
def test_attention_is_what_the_eager_model_shows(family: str) -> None:
    model = model_of(family)
    inputs = full_inputs(model)
    found = catch(model, [attention(i) for i in range(LAYERS)], inputs)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    outputs = eager(**inputs, output_attentions=True)
    expected = outputs.get("attentions") or outputs["encoder_attentions"]
    valid = attended(model, inputs, expected[0].shape[-1])
    for i in range(LAYERS):
        maps = found[attention(i)]
        assert maps.shape == expected[i].shape
        close(maps.transpose(1, 2)[valid], expected[i].transpose(1, 2)[valid])
        of_words = maps.transpose(1, 2) * valid[:, :, None, None]  # what padding looks at is nobody's business
        assert of_words.permute(0, 3, 1, 2)[~valid].eq(0).all()
        assert family in HAND_OUT or maps.permute(0, 3, 1, 2)[~valid].eq(0).all()
    unequal = (found[attention(0)] - found[attention(LAYERS - 1)]).abs().max()
    assert unequal > 1e-3  # else a wrong layer would not be seen


@pytest.mark.parametrize("family", [family for family in [*FAMILIES, *OTHERS] if family not in HAND_OUT])
def test_recorded_maps_are_compared_in_blocks_as_eager_ones_are(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layer 0 learns from layer 2 of the same model: the loss, and its gradient by all weights below."""
    monkeypatch.setattr(recorded_maps, "BLOCK_ELEMENTS", 100)  # two rows of queries or so
    model = model_of(family)
    inputs = full_inputs(model)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    outputs = eager(**inputs, output_attentions=True)
    shown = outputs.get("attentions") or outputs["encoder_attentions"]
    tokens = attended(model, inputs, shown[0].shape[-1])
    batch = Batch({"input_ids": tokens, "attention_mask": tokens}, Task.TOKENS)
    expected = batch.mean(attention_kl(*(batch.clean(attention(0), shown[i]) for i in (0, 2))), over="tokens")
    with torch.no_grad():
        teacher = catch(model, [attention(2)], inputs)
    student = catch(model, [attention(0)], inputs)
    loss = AttentionKL({0: 2})
    loss.setup(anatomy.describe(model), anatomy.describe(model), Task.TOKENS)
    found = loss(student, teacher, batch)
    close(found, expected)
    assert found > 1e-4
    for each in (found, expected):
        each.backward()
    reached = [(name, weight.grad) for name, weight in eager.named_parameters() if weight.grad is not None]
    assert reached
    for name, gradient in reached:
        close(model.get_parameter(name).grad, gradient)
    maps = [student[attention(0)], teacher[attention(2)]]
    assert all(isinstance(each, RecordedMap) and each.untouched for each in maps)


def test_heads_as_narrow_as_minilm_s() -> None:
    model = tiny("bert", hidden_size=48, num_attention_heads=12)
    inputs = inputs_of(model)
    found = catch(model, [attention(1), query(1)], inputs)
    assert found[attention(1)].shape == (3, 12, 10, 10)
    assert found[query(1)].shape == (3, 12, 10, 4)


@pytest.mark.parametrize("family", ["bert", "distilbert", "t5", "gpt2", "llama"])
@torch.no_grad()
def test_scores_with_mask_and_softmax_are_the_attention(family: str) -> None:
    model = model_of(family)
    inputs = full_inputs(model)
    found = catch(model, [attention(2), attention_scores(2), query(2), key(2), value(2)], inputs)
    seen = inputs["attention_mask"].bool()[:, None, None, :]
    if family in CAUSAL:
        seen = seen & torch.ones(10, 10, dtype=torch.bool).tril()
    assert found[attention_scores(2)].isfinite().all()
    expected = found[attention_scores(2)].masked_fill(~seen, float("-inf")).softmax(-1)
    close(found[attention(2)], expected)
    keys = found[key(2)].repeat_interleave(found[query(2)].shape[1] // found[key(2)].shape[1], dim=1)
    scale = 1.0 if family == "t5" else 8**-0.5
    products = found[query(2)] @ keys.mT * scale
    if family != "t5":  # there a bias by distance is added
        close(found[attention_scores(2)], products)
    assert found[value(2)].shape == found[key(2)].shape == (3, 2 if family == "llama" else 4, 10, 8)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@torch.no_grad()
def test_padding_on_the_left_gives_zeros_and_no_nan(family: str) -> None:
    model = model_of(family)
    inputs = {name: tensor.flip(1) for name, tensor in inputs_of(model).items()}
    maps = catch(model, [attention(0)], inputs)[attention(0)]
    valid = inputs["attention_mask"].bool()
    assert maps.isfinite().all()
    assert maps.permute(0, 3, 1, 2)[~valid].eq(0).all()
    close(maps.transpose(1, 2)[valid].sum(-1), torch.ones(int(valid.sum()), 4))


@torch.no_grad()
def test_without_padding_there_is_no_mask_and_the_same_attention() -> None:
    for family in ("bert", "gpt2"):
        model = model_of(family)
        ids = inputs_of(model, rows=1)["input_ids"]
        bare = catch(model, [attention(1)], {"input_ids": ids})[attention(1)]
        masked = catch(model, [attention(1)], {"input_ids": ids, "attention_mask": torch.ones_like(ids)})[attention(1)]
        assert torch.equal(bare, masked)
        close(bare.sum(-1), torch.ones(1, 4, 10))
        assert bare.triu(1).eq(0).all() == (family == "gpt2")


@torch.no_grad()
def test_logits_loss_and_pooled() -> None:
    model = tiny("distilbert", "ForSequenceClassification", num_labels=LABELS)
    inputs = inputs_of(model) | {"labels": torch.tensor([0, 1, 2])}
    outputs = model(**inputs, output_hidden_states=True)
    found = catch(model, [LOGITS, TASK_LOSS, pooled("first"), pooled("last"), pooled("mean")], inputs)
    last = outputs.hidden_states[-1]
    assert torch.equal(found[LOGITS], outputs.logits)
    assert torch.equal(found[TASK_LOSS], outputs.loss)
    assert torch.equal(found[pooled("first")], last[:, 0])
    assert torch.equal(found[pooled("last")], last[range(3), [9, 8, 7]])
    close(found[pooled("mean")][1], last[1, :9].mean(0))


@torch.no_grad()
def test_half_precision_scores_are_computed_in_full() -> None:
    model = tiny("bert").bfloat16()
    found = catch(model, [attention(0), query(0)], inputs_of(model))
    assert found[query(0)].dtype is torch.bfloat16
    assert found[attention(0)].dtype is torch.float32


# What can be asked for


def test_layers_that_do_not_exist_are_refused() -> None:
    model = tiny("bert")
    for signal in (hidden(LAYERS), hidden(-LAYERS - 1), attention(LAYERS), attention(EMBEDDINGS)):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"does not exist: BertModel has 4 layers, 0 to 3"):
            Capture(model, [signal])


@pytest.mark.parametrize("family", HAND_OUT)
def test_of_attention_in_code_of_its_own_there_are_maps_and_nothing_else(family: str) -> None:
    model = tiny(family)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} .* hands out maps only, no key or query. Use Att"):
        Capture(model, [attention(0), query(0), key(0)])
    with pytest.raises(ValueError, match=r"no attention scores\. Use AttentionKL"):
        Capture(model, [attention_scores(0)])
    Capture(model, [hidden(0)])


def test_that_a_family_makes_its_maps_in_its_own_way_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    capture_of._SAID.clear()
    with caplog.at_level("INFO", "hf_distill"):
        for _ in range(2):
            Capture(tiny("mpnet"), [attention(0)])
            Capture(tiny("mpnet"), [hidden(0)])
        Capture(tiny("bert"), [attention(0)])
    assert [each.message for each in caplog.records] == [
        "MPNetModel computes attention in code of its own; its maps are taken as it makes them."
    ]


@pytest.mark.parametrize(
    "family", ["deberta", "deberta_v2", "mpnet"]
)  # the others make maps in every block, asked or not
def test_only_the_blocks_that_are_looked_at_make_maps(family: str) -> None:
    model = tiny(family)
    made: list[bool] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        made.append(isinstance(output, tuple) and len(output) > 1 and output[1] is not None)

    for block in anatomy.find_blocks(model):
        block.register_forward_hook(note)
    inputs = inputs_of(model)
    catch(model, [attention(2)], inputs)
    assert made == [False, False, True, False]
    plain, made[:] = model(**inputs), []
    assert not any(made)
    assert "attentions" not in plain


def test_gradients_flow_back_from_a_map_that_is_handed_out_also_where_activations_are_checkpointed() -> None:
    found = []
    for checkpointed in (False, True):
        model = tiny("deberta_v2", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        catch(model, [attention(1)], inputs_of(model))[attention(1)].square().sum().backward()
        found.append(anatomy.find_blocks(model)[0].attention.self.key_proj.weight.grad)
    assert found[0].abs().max() > 0
    close(*found)


def test_attention_that_cannot_be_had_is_refused_and_hidden_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda cls: False))
    with pytest.raises(ValueError, match=r"BertModel .* cannot be recorded"):
        Capture(model, [attention(0)])
    Capture(model, [hidden(0)])


def test_a_model_without_blocks_has_logits_only() -> None:
    model = tiny("bert", "ForSequenceClassification", num_hidden_layers=0)
    with pytest.raises(ValueError, match="no blocks were found in BertForSequenceClassification"):
        Capture(model, [LOGITS, hidden(0)])
    assert catch(model, [LOGITS], inputs_of(model))[LOGITS].shape == (3, 2)


def test_one_signal_may_be_asked_under_two_numbers() -> None:
    model = tiny("bert")
    found = catch(model, [hidden(3), hidden(-1), attention(3), attention(-1)], inputs_of(model))
    assert torch.equal(found[hidden(3)], found[hidden(-1)])
    assert torch.equal(found[attention(3)], found[attention(-1)])


def test_what_was_not_seen_is_an_error() -> None:
    model = tiny("bert")
    inputs = inputs_of(model)
    batch = Batch(inputs, Task.EMBEDDING)
    for signal in (hidden(0), attention(0)):
        capture = Capture(model, [signal])
        with pytest.raises(ValueError, match="was not seen: call the model once inside `with`"):
            capture.take(model(**inputs), batch)
        with capture:
            outputs = model(**inputs)
        capture.take(outputs, batch)
        with pytest.raises(ValueError, match="take once"):
            capture.take(outputs, batch)


def test_signals_may_be_taken_inside_of_with() -> None:
    model = tiny("bert")
    inputs = inputs_of(model)
    wanted = [hidden(1), attention(1), attention_scores(-1)]
    capture = Capture(model, wanted)
    with capture:
        inside = capture.take(model(**inputs), Batch(inputs, Task.EMBEDDING))
    after = catch(model, wanted, inputs)
    assert all(torch.equal(inside[signal], after[signal]) for signal in wanted)


def test_a_second_forward_inside_of_with_is_not_recorded() -> None:
    for family in ("bert", "albert"):
        model = model_of(family)
        first, second = inputs_of(model), inputs_of(model, seed=1)
        wanted = [hidden(EMBEDDINGS), *(kind(i) for i in range(LAYERS) for kind in (hidden, attention))]
        capture = Capture(model, wanted)
        with capture:
            outputs = model(**first)
            model(**second)
        found = capture.take(outputs, Batch(first, Task.EMBEDDING))
        expected = catch(model, wanted, first)
        assert all(torch.equal(found[signal], expected[signal]) for signal in wanted)


# Derivatives and the head


def test_a_derivative_is_by_the_token_embeddings_and_leaves_no_graph_on_a_teacher() -> None:
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS).requires_grad_(False)
    inputs = inputs_of(model)
    batch = Batch(inputs, Task.SINGLE_LABEL, seed=3)
    capture = Capture(model, [LOGITS, input_gradient(0), input_gradient(1, 2)])
    with torch.no_grad():
        with capture:
            outputs = model(**inputs)
        found = capture.take(outputs, batch)
    assert not any(each.requires_grad for each in found.values())
    # the same by hand: perturb the table's output through inputs_embeds
    embedded = model.get_input_embeddings()(inputs["input_ids"])
    along, step = batch.random_direction("logits 0", LABELS), 1e-3
    row, token = 1, 2
    for width in (0, 5):
        moved = [embedded.clone(), embedded.clone()]
        moved[0][row, token, width] += step
        moved[1][row, token, width] -= step
        up, down = (model(inputs_embeds=each, attention_mask=inputs["attention_mask"]).logits[row] for each in moved)
        slope = ((up - down) @ along / (2 * step)).item()
        assert found[input_gradient(0)][row, token, width].item() == pytest.approx(slope, rel=0.02, abs=1e-4)
    assert found[input_gradient(1, 2)].abs().max() > 0
    assert (found[input_gradient(0)][~inputs["attention_mask"].bool()] == 0).all()


def test_a_students_derivative_is_differentiated_again() -> None:
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS).train()
    found = catch(model, [input_gradient(0), attention(0)], inputs_of(model))[input_gradient(0)]
    found.square().sum().backward()
    assert model.get_input_embeddings().weight.grad.abs().max() > 0
    assert model.classifier.weight.grad.abs().max() > 0


def test_derivatives_of_what_runs_again_or_is_compiled_are_refused() -> None:
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(
        ValueError, match=r"differentiated again, which checkpoints cannot. Turn activation_checkpoint"
    ):
        catch(model, [input_gradient(0)], inputs_of(model))
    model.gradient_checkpointing_disable()
    anatomy.find_blocks(model)[0].compile(backend="eager")
    with pytest.raises(ValueError, match=r"differentiated again, which compiled code cannot. Turn torch_compile off"):
        catch(model, [input_gradient(0)], inputs_of(model))


def test_label_embeddings_add_up_to_the_logits() -> None:
    for family in ("bert", "distilbert", "roberta"):
        model = tiny(family, "ForSequenceClassification", num_labels=LABELS)
        found = catch(model, [LOGITS, label_embeddings()], inputs_of(model))
        assert found[label_embeddings()].shape[:2] == found[LOGITS].shape
        close(found[label_embeddings()].sum(-1) + anatomy.find_head(model).bias, found[LOGITS])


def test_label_embeddings_of_a_head_over_tokens_are_refused() -> None:
    model = tiny("gpt2", "ForSequenceClassification", num_labels=LABELS)
    with pytest.raises(ValueError, match="the head of GPT2ForSequenceClassification does not read one vector"):
        catch(model, [label_embeddings()], inputs_of(model))


def test_an_order_is_that_of_the_labels_everywhere() -> None:
    model = tiny("bert", "ForSequenceClassification", num_labels=LABELS)
    inputs, order = inputs_of(model), torch.tensor([2, 0, 1])
    batch = Batch(inputs, Task.MULTI_LABEL)
    wanted = [LOGITS, label_embeddings(), input_gradient(0)]
    plain, ordered = Capture(model, wanted), Capture(model, wanted, order)
    with plain:
        first = plain.take(model(**inputs), batch)
    with ordered:
        second = ordered.take(model(**inputs), batch)
    assert torch.equal(second[LOGITS], first[LOGITS][:, order])
    assert torch.equal(second[label_embeddings()], first[label_embeddings()][:, order])
    assert not torch.allclose(second[input_gradient(0)], first[input_gradient(0)])


# Flash attention: a kernel that is told which keys are padding, whether it is causal, and how far it sees


@pytest.fixture
def stand_in() -> str:
    """What a flash kernel gives, by sdpa; the real one wants an accelerator."""

    def attend(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        stated = kwargs.get("is_causal")
        causal = module.is_causal if stated is None else stated
        place = torch.arange(q.shape[2])
        apart = place[:, None] - place
        window = kwargs.get("sliding_window") or len(place)
        seen = (apart < window) & (apart >= 0 if causal else apart > -window)
        if mask is not None:
            assert mask.dim() == 2
            seen = seen & mask[:, None, None, :].bool()
        k, v = (side.repeat_interleave(q.shape[1] // side.shape[1], dim=1) for side in (k, v))
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=kwargs.get("scaling"))
        return found.transpose(1, 2).contiguous(), None

    name = "flash_attention_stand_in"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, flash_attention_mask)
    return name


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama", "qwen3"])
@torch.no_grad()
def test_flash_attention_is_recorded_while_it_runs(family: str, stand_in: str) -> None:
    model = model_of(family)
    inputs = inputs_of(model)
    kept = inputs["attention_mask"].bool()
    wanted = [kind(layer) for layer in range(LAYERS) for kind in (hidden, attention, query, key, value)]
    expected = catch(model, wanted, inputs)
    for config in anatomy.attention_configs(model):
        config._attn_implementation_internal = stand_in
    with unchanged(model):
        found = catch(model, wanted, inputs)
    for signal in wanted:
        axis = 1 if signal.kind == "hidden" else 2
        close(found[signal].movedim(axis, 1)[kept], expected[signal].movedim(axis, 1)[kept])


# Nothing is left behind

EVERYTHING = [LOGITS, hidden(EMBEDDINGS), hidden(0), hidden(-1), attention(0), attention_scores(-1)]


@pytest.fixture
def classifier() -> PreTrainedModel:
    return tiny("bert", "ForSequenceClassification", num_labels=LABELS)


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    def state() -> list[Any]:
        hooks = (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_forward_hooks_with_kwargs",
            "_forward_pre_hooks_with_kwargs",
        )
        return [
            (name, sorted(vars(module)), [len(vars(module)[hook]) for hook in hooks], vars(module).get("forward"))
            for name, module in model.named_modules()
        ]

    before, attention_before, config = state(), model.config._attn_implementation, model.config.to_dict()
    yield
    assert state() == before
    assert model.config._attn_implementation == attention_before
    assert model.config.to_dict() == config


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_as_it_was(classifier: PreTrainedModel, implementation: str) -> None:
    classifier.set_attn_implementation(implementation)
    inputs = inputs_of(classifier)
    expected = classifier(**inputs).logits
    with unchanged(classifier):
        found = catch(classifier, EVERYTHING, inputs)
    close(found[LOGITS], expected)
    assert found[attention(0)].isfinite().all()


def test_the_model_is_as_it_was_after_an_exception(classifier: PreTrainedModel) -> None:
    inputs = inputs_of(classifier)
    capture = Capture(classifier, EVERYTHING)
    with unchanged(classifier):
        with pytest.raises(RuntimeError), capture:
            classifier(**inputs).logits.backward()  # not a scalar
        with pytest.raises(IndexError), capture:
            classifier(input_ids=inputs["input_ids"] + 1000)
    assert not capture._seen
    assert not capture._records
    with capture:
        outputs = classifier(**inputs)
    assert capture.take(outputs, Batch(inputs, Task.SINGLE_LABEL)).keys() == set(EVERYTHING)


def test_every_part_of_a_composite_model_gets_its_attention_back() -> None:
    for family in ("t5", "bart"):
        model = tiny(family)
        configs = anatomy.attention_configs(model)
        assert {config._attn_implementation for config in configs} == {"sdpa"}
        catch(model, [attention(0)], full_inputs(model))
        assert {config._attn_implementation for config in configs} == {"sdpa"}


def test_a_saved_config_does_not_mention_recording(classifier: PreTrainedModel, tmp_path: Any) -> None:
    with Capture(classifier, EVERYTHING):
        classifier(**inputs_of(classifier))
        classifier.save_pretrained(tmp_path)
    assert "record" not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
    assert type(classifier).from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_nothing_that_was_taken_is_kept(classifier: PreTrainedModel) -> None:
    inputs = inputs_of(classifier)
    capture = Capture(classifier, EVERYTHING)
    with capture:
        outputs = classifier(**inputs)
    capture.take(outputs, Batch(inputs, Task.SINGLE_LABEL))
    assert not [each for each in vars(capture).values() if each and isinstance(each, (dict, list)) and _tensors(each)]


def _tensors(held: Any) -> bool:
    inside = held.values() if isinstance(held, dict) else held
    return any(isinstance(each, (Tensor, anatomy.AttentionRecord, tuple)) for each in inside)


# Gradients

DEEP = [hidden(1), attention(1), attention_scores(2), pooled("mean")]


def gradients(model: nn.Module, inputs: dict[str, Tensor], wanted: Iterable[Signal] = DEEP) -> dict[str, Tensor]:
    model.zero_grad()
    found = catch(model, wanted, inputs)
    sum(found[signal].square().mean() for signal in sorted(found, key=str)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("signal", [hidden(1), attention(1), attention_scores(1), key(1), value(1), query(1)])
def test_gradient_flows_back_from_what_is_caught(signal: Signal) -> None:
    model = tiny("bert")
    found = gradients(model, inputs_of(model), [signal])
    reached = {name for name, gradient in found.items() if gradient.abs().max() > 0}
    assert "embeddings.word_embeddings.weight" in reached
    assert "encoder.layer.0.output.dense.weight" in reached
    assert not any(name.startswith("encoder.layer.2") for name in reached)
    assert any(name.startswith("encoder.layer.1") for name in reached)


@pytest.mark.parametrize("family", ["bert", "distilbert", "llama", "modernbert"])
def test_gradients_are_the_same_with_activation_checkpointing(family: str) -> None:
    model = model_of(family).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = inputs_of(model)
    expected = gradients(model, inputs)
    model.activation_checkpointing_enable()
    with unchanged(model):
        found = gradients(model, inputs)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        close(gradient, expected[name])


@pytest.mark.parametrize("family", ["bert", "albert"])
def test_backward_inside_of_with_records_nothing_twice(family: str) -> None:
    model = model_of(family).train()
    if family == "bert":
        model.activation_checkpointing_enable()
    inputs = inputs_of(model)
    capture = Capture(model, [hidden(i) for i in range(LAYERS)] + [attention(i) for i in range(LAYERS)])
    with capture:
        outputs = model(**inputs)
        before = dict(capture._seen)
        outputs.last_hidden_state.square().mean().backward()
        assert {layer: id(tensor) for layer, tensor in capture._seen.items()} == {k: id(v) for k, v in before.items()}
        found = capture.take(outputs, Batch(inputs, Task.EMBEDDING))
    assert torch.equal(found[hidden(LAYERS - 1)], outputs.last_hidden_state)


def test_checkpointing_that_cuts_gradients_is_refused_where_there_are_gradients() -> None:
    model = tiny("bert").train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    inputs = inputs_of(model)
    with unchanged(model):
        with pytest.raises(ValueError, match=r'use_reentrant=True.*\{"use_reentrant": False\}'):
            catch(model, [attention(0)], inputs)
        with torch.no_grad():
            catch(model, [attention(0)], inputs)
        catch(model.eval(), [attention(0)], inputs)


# Wrapped and compiled


def test_a_peft_model_shows_the_same(classifier: PreTrainedModel) -> None:
    inputs = inputs_of(classifier)
    expected = catch(classifier, EVERYTHING, inputs)
    wrapped = get_peft_model(classifier, LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"]))
    found = catch(wrapped.eval(), EVERYTHING, inputs)
    for signal in EVERYTHING:
        close(found[signal], expected[signal])
    reached = gradients(wrapped, inputs)
    assert any("lora_B" in name and gradient.abs().max() > 0 for name, gradient in reached.items())


def test_compiled_blocks_show_the_same() -> None:
    model = tiny("bert", num_hidden_layers=2)
    inputs = inputs_of(model)
    wanted = [hidden(EMBEDDINGS), hidden(0), attention(1), attention_scores(1)]
    expected = catch(model, wanted, inputs)
    for block in anatomy.find_blocks(model):
        block.compile(
            backend="eager", fullgraph=True
        )  # what dynamo traces; the code that inductor makes costs a minute
    capture, batch = Capture(model, wanted), Batch(inputs, Task.EMBEDDING)
    graphs = []
    for _ in range(3):
        with capture:
            found = capture.take(model(**inputs), batch)
        graphs.append(counters["stats"]["unique_graphs"])
        for signal in wanted:
            close(found[signal], expected[signal])
    assert graphs[0] == graphs[-1]  # arming again compiles nothing again


def test_a_loss_of_the_model_itself_needs_labels():
    model = tiny("bert", "ForSequenceClassification")
    inputs = {"input_ids": torch.tensor([[3, 4]])}
    with pytest.raises(ValueError, match=r"was given no labels and computes no loss of its own. Use TaskLoss"):
        catch(model, [TASK_LOSS], inputs)


def test_a_refusal_leaves_nothing_on_the_model() -> None:
    """Blocks that are checkpointed under eager attention cannot be recorded, which is found when it is armed."""
    model = tiny("llama", "ForCausalLM").train()
    model.set_attn_implementation("eager")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = inputs_of(model)
    batch = Batch(inputs | {"labels": inputs["input_ids"]}, Task.CAUSAL_LM, counted_only=True)

    def hooks_of(module: nn.Module) -> tuple[Any, ...]:
        return len(module._forward_hooks), len(module._forward_pre_hooks), "forward" in vars(module)

    before = [hooks_of(module) for module in model.modules()]
    with pytest.raises(ValueError, match="is not recorded"), Capture(model, [LOGITS, attention(1)]).counting(batch):
        pass
    assert [hooks_of(module) for module in model.modules()] == before
    assert model.eval()(**inputs).logits.shape == (3, 10, VOCABULARY)
