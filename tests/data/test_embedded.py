"""Rows of embeddings instead of token ids: through the collator, the counts, the sampler and a whole training."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from models import VOCABULARY, WIDTH
from runs import classifier, distillation, exactly, rows, same, weights, words
from transformers import DataCollatorWithPadding, default_data_collator

from hf_distill.data.embedded import EmbeddedCollator, collator_for, embedded_rows
from hf_distill.losses import HiddenMSE, SoftTargets, TaskLoss
from hf_distill.sampling import differing_lengths


def embedded(data: Dataset, model, **columns) -> Dataset:
    """The same rows as embeddings of a model's own table."""
    with torch.no_grad():
        found = model.get_input_embeddings()(torch.tensor(data["input_ids"]))
    made = embedded_rows(found)
    for name, values in columns.items():
        made = made.add_column(name, values)
    return made


def ragged(lengths: list[int]) -> Dataset:
    return Dataset.from_dict({"inputs_embeds": [np.ones((n, 4), dtype=np.float32).tolist() for n in lengths]})


def test_rows_are_padded_and_the_padding_is_masked():
    batch = EmbeddedCollator(default_data_collator)([{**row, "label": 2} for row in ragged([3, 1])])
    assert batch["inputs_embeds"].shape == (2, 3, 4)
    assert batch["inputs_embeds"].dtype == torch.float32
    assert batch["inputs_embeds"].sum((1, 2)).tolist() == [12, 4]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [2, 2]
    masked = EmbeddedCollator(default_data_collator)(
        [{**row, "attention_mask": [0] + [1] * 2} for row in ragged([3, 3])]
    )
    assert masked["attention_mask"].tolist() == [[0, 1, 1]] * 2


def test_only_a_collator_of_transformers_is_taught_and_only_where_there_are_embeddings():
    stock, own = DataCollatorWithPadding(words()), lambda rows: {}
    assert collator_for(stock, rows(), None) is stock
    assert collator_for(own, ragged([2])) is own
    assert isinstance(collator_for(default_data_collator, rows(), {"a": ragged([2])}), EmbeddedCollator)
    taught = collator_for(stock, ragged([2]), rows())
    assert torch.equal(taught([rows()[0]])["input_ids"], stock([rows()[0]])["input_ids"])  # texts of an evaluation


def test_a_training_on_embeddings_of_the_table_is_the_training_on_the_ids(tmp_path):
    """The student's own table is frozen on both sides: on embeddings it has no gradient."""
    data, trained = rows(), []
    for train in (data, embedded(data, classifier(), labels=data["labels"])):
        student = classifier()
        student.get_input_embeddings().requires_grad_(False)
        shared = classifier(seed=1)
        shared.get_input_embeddings().load_state_dict(student.get_input_embeddings().state_dict())
        learned = [TaskLoss(), SoftTargets(), HiddenMSE("last")]
        trainer = distillation(tmp_path, student, shared, learned, train, processing_class=words(), eval_dataset=data)
        trainer.train()
        trained.append((weights(student), trainer.evaluate()["eval_loss"]))
    (one, loss), (other, again) = trained
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-4, atol=1e-5)
    assert again == pytest.approx(loss, rel=1e-4)
    assert not same(one, weights(classifier()))


def test_without_labels_and_over_accumulated_batches(tmp_path):
    data, found = embedded(rows(), classifier()), []
    for size, accumulated in ((4, 1), (2, 2)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        trainer = distillation(tmp_path, classifier(), classifier(seed=1), [SoftTargets()], data, **settings)
        trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(found[0]) == 3
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    with pytest.raises(ValueError, match="train_dataset has no labels"):
        distillation(tmp_path, classifier(), classifier(seed=1), [TaskLoss()], data)


def test_ragged_rows_are_grouped_by_length(tmp_path):
    lengths = [1 + index % 7 for index in range(64)]
    data = ragged(lengths)
    assert differing_lengths(data, "length", "inputs_embeds") == lengths
    wide = Dataset.from_dict({"inputs_embeds": [np.ones((n, WIDTH)).tolist() for n in lengths]})
    trainer = distillation(tmp_path, classifier(), classifier(seed=1), [SoftTargets()], wide)
    order = list(trainer.get_train_dataloader().batch_sampler.sampler)
    groups = [[lengths[index] for index in order[start : start + 4]] for start in range(0, 64, 4)]
    assert sum(max(group) * 4 for group in groups) < 1.2 * sum(lengths)


def refused(message: str):
    return pytest.raises(ValueError, match=exactly(message))


def test_another_width_is_refused_before_step_1(tmp_path):
    data = embedded(rows(), classifier())
    cure = (
        "They must come from one table: make the student from the teacher (students.keep_layers, "
        "students.from_teacher), or train on token ids."
    )
    narrow = classifier(hidden_size=16)
    message = f"the student (BertForSequenceClassification) takes a width of 16. {cure}"
    with refused(f"train_dataset has embeddings of width {WIDTH}, and {message}"):
        distillation(tmp_path, narrow, classifier(seed=1), [SoftTargets()], data)
    message = f"the teacher (BertForSequenceClassification) takes a width of 16. {cure}"
    with refused(f"train_dataset has embeddings of width {WIDTH}, and {message}"):
        distillation(tmp_path, classifier(), narrow, [SoftTargets()], data)


def test_too_many_embeddings_and_two_kinds_at_once_are_refused(tmp_path):
    many = embedded_rows(torch.zeros(4, 9, WIDTH))
    short = {"max_position_embeddings": 8}
    message = "train_dataset has 9 embeddings in a row, and the student takes 8. Make fewer."
    with refused(message):
        distillation(tmp_path, classifier(**short), classifier(seed=1), [SoftTargets()], many)
    both = many.add_column("input_ids", [[VOCABULARY - 1] * 9] * 4)
    message = "train_dataset has input_ids and inputs_embeds, and models read one of them. Remove a column."
    with refused(message):
        distillation(tmp_path, classifier(), classifier(seed=1), [SoftTargets()], both)
