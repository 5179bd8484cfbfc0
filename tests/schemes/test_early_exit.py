"""An answer before the last block, without the blocks above it."""

import pytest
import torch
from models import inputs_of, tiny
from runs import classifier

from hf_distill import anatomy, schemes
from hf_distill.losses import SelfExits
from hf_distill.schemes.early_exit import confidence
from hf_distill.tasks import Task, find_task


def made(family="bert", head="ForSequenceClassification", layers=None, **fields):
    model = tiny(family, head, **({"num_labels": 3} | fields))
    exits = SelfExits(layers, pooling="mean")
    exits.setup(anatomy.describe(model), None, find_task(model))
    for parameter in exits.parameters():  # answers that differ from each other
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    return schemes.EarlyExit(model, exits)


def count_blocks(model, call):
    """How many examples each block ran for."""
    ran, blocks = {}, anatomy.find_blocks(model)

    def note(number):
        def hook(module, args, kwargs):
            states = args[0] if args else kwargs["hidden_states"]
            ran[number] = ran.get(number, 0) + len(states)

        return hook

    handles = [block.register_forward_pre_hook(note(number), with_kwargs=True) for number, block in enumerate(blocks)]
    try:
        return call(), ran
    finally:
        for handle in handles:
            handle.remove()


def by_hand(early, inputs, layer):
    """The answer of one exit from the states that transformers gives."""
    if layer == early.exits.last:
        return early.model(**inputs).logits
    state = early.model(**inputs, output_hidden_states=True).hidden_states[layer + 1]
    mask = inputs["attention_mask"][..., None]
    return early.exits.heads[early.exits.depths.index(layer)]((state * mask).sum(1) / mask.sum(1))[1]


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_blocks_above_do_not_run(layer):
    early = made(layers=[0, 2])
    inputs = inputs_of(early.model)
    logits, ran = count_blocks(early.model, lambda: early({**inputs, "labels": torch.tensor([0, 1, 2])}, layer))
    assert ran == dict.fromkeys(range(layer + 1), 3)
    torch.testing.assert_close(logits, by_hand(early, inputs, layer))


def test_layers_count_from_the_end_too():
    early = made(layers=[0, 2])
    inputs = inputs_of(early.model)
    assert early.layers == (0, 2, 3)
    torch.testing.assert_close(early(inputs, -2), early(inputs, 2))
    torch.testing.assert_close(early(inputs), early(inputs, 3))
    with pytest.raises(ValueError, match="block 1 has no exit: there are exits after 0, 2, 3"):
        early(inputs, 1)


FAMILIES = [("bert", {}), ("distilbert", {}), ("modernbert", {}), ("gpt2", {}), ("deberta_v2", {}), ("electra", {})]


@pytest.mark.parametrize(("family", "fields"), FAMILIES)
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_each_example_leaves_where_it_is_sure_and_runs_no_further(family, fields, problem):
    early = made(family, layers=[0, 2], problem_type=problem, **fields)
    inputs = inputs_of(early.model, rows=8, length=12)
    answers = {layer: by_hand(early, inputs, layer) for layer in early.layers}
    sures = {layer: confidence(answers[layer], early.task).detach() for layer in (0, 2)}
    threshold = float(sures[0].sort().values[4] + sures[0].sort().values[5]) / 2  # three are sure at once
    expected = [
        next((layer for layer in (0, 2) if sures[layer][row] >= threshold), early.layers[-1]) for row in range(8)
    ]
    assert len(set(expected)) >= 2
    logits, layers = early.sure(inputs, threshold)
    assert layers.tolist() == expected
    torch.testing.assert_close(logits, torch.stack([answers[layer][row] for row, layer in enumerate(expected)]))
    after_0, after_2 = (sum(where > layer for where in expected) for layer in (0, 2))
    assert count_real(early, inputs, threshold) == [8, after_0, after_0, after_2]


def count_real(early, inputs, threshold):
    """For how many examples a norm inside of each block ran: in a block that is passed over none does."""
    blocks = anatomy.find_blocks(early.model)
    counts = [0] * len(blocks)
    inside = [next(m for m in block.modules() if isinstance(m, torch.nn.LayerNorm)) for block in blocks]

    def note(number):
        def hook(module, args):
            counts[number] += len(args[0])

        return hook

    handles = [module.register_forward_pre_hook(note(number)) for number, module in enumerate(inside)]
    early.sure(inputs, threshold)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize(("threshold", "where"), [(0.0, 0), (1.1, 3)])
def test_thresholds_at_the_ends(threshold, where):
    early = made(layers=[0, 2])
    inputs = inputs_of(early.model)
    logits, layers = early.sure(inputs, threshold)
    assert layers.tolist() == [where] * 3
    torch.testing.assert_close(logits, early(inputs, where))


def test_confidence_is_the_largest_probability_or_that_of_the_least_sure_label():
    single = confidence(torch.tensor([[1.0, 1.0, 1.0, 1.0], [100.0, 0.0, 0.0, 0.0]]), Task.SINGLE_LABEL)
    assert single.tolist() == pytest.approx([0.25, 1.0])
    assert confidence(torch.tensor([[2.0, -1.0]]), Task.MULTI_LABEL).item() == pytest.approx(1 / (1 + 2.718281828**-1))


def test_it_is_saved_and_loaded(tmp_path):
    early = made(layers=[0, 2])
    early.save_pretrained(tmp_path)
    again, inputs = schemes.EarlyExit.from_pretrained(tmp_path), inputs_of(early.model)
    assert again.layers == early.layers
    for layer in early.layers:
        assert torch.equal(again(inputs, layer), early(inputs, layer))
    (tmp_path / "exits.json").unlink()
    with pytest.raises(ValueError, match=r"has no exits.json and exits.safetensors. Train it with keep_exits=True."):
        schemes.EarlyExit.from_pretrained(tmp_path)


def test_tokens_have_exits_and_no_confidence():
    early = made(head="ForTokenClassification", layers=[1])
    inputs = inputs_of(early.model)
    state = early.model(**inputs, output_hidden_states=True).hidden_states[2]
    counted = inputs["attention_mask"].bool()
    torch.testing.assert_close(early(inputs, 1)[counted], early.exits.heads[0](state)[1][counted])
    with pytest.raises(ValueError, match="no confidence is known of the task tokens"):
        early.sure(inputs, 0.9)


def test_shared_blocks_are_left_by_number_alone():
    early = made("albert", layers=[1])
    inputs = inputs_of(early.model)
    torch.testing.assert_close(early(inputs, 1), by_hand(early, inputs, 1))
    with pytest.raises(ValueError, match="share weights: call the model with layer="):
        early.sure(inputs, 0.9)


def test_regression_has_no_confidence():
    model = classifier(id2label={0: "x"}, problem_type="regression")
    exits = SelfExits()
    exits.setup(anatomy.describe(model), None, Task.REGRESSION)
    with pytest.raises(ValueError, match="no confidence is known of the task regression"):
        schemes.EarlyExit(model, exits).sure(inputs_of(model), 0.5)
