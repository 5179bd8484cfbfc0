"""The benchmark of cheap teachers on tiny models. No cost is asserted."""

import pytest
import torch
from benchmark_files import loaded
from runs import classifier, rows, words

from hf_distill.losses import SoftTargets

FIELDS = {"problem_type": "multi_label_classification"}


@pytest.fixture
def benchmark(monkeypatch):
    return loaded("cheap_teacher")


def ragged():
    def changed(row, index):
        return {
            "input_ids": row["input_ids"][: 3 + index % 4],
            "labels": [float(row["labels"] == each) for each in range(3)],
        }

    return rows(40).remove_columns("attention_mask").map(changed, with_indices=True)


def test_answers_are_in_the_order_of_the_rows(benchmark):
    plain, data = classifier(seed=1, **FIELDS), ragged()
    models = {kind: benchmark.in_kind(plain, kind) for kind in benchmark.KINDS}
    data = data.add_column("attention_mask", [[1] * len(ids) for ids in data["input_ids"]])
    said, seconds = benchmark.answers(models, data, words())
    for index in (0, 7, 39):
        with torch.no_grad():
            expected = plain(input_ids=torch.tensor([data[index]["input_ids"]])).logits[0]
        torch.testing.assert_close(torch.tensor(said["float32"][index]), expected, rtol=0, atol=1e-5)
    for kind in ("bfloat16", "int8"):
        assert 0 < abs(said[kind] - said["float32"]).max() < 0.5
    assert [len(each) for each in seconds.values()] == [2, 2, 2]


def test_a_student_learns_from_each_kind_and_is_made_of_the_plain_one(benchmark, monkeypatch):
    made = []
    plain, data = classifier(seed=1, num_hidden_layers=4, **FIELDS), ragged()
    real = benchmark.trainer_of

    def noted(losses, *arguments, **more):
        trainer = real(losses, *arguments, **more)
        made.append(trainer)
        return trainer

    monkeypatch.setattr(benchmark, "trainer_of", noted)
    split = {"train": data, "validation": data.select(range(6))}
    for kind in benchmark.KINDS:
        model = benchmark.in_kind(plain, kind)
        logits = benchmark.taught(model, plain, split, words(), 0, 1)
        assert logits.shape == (6, 3)
        trainer = made.pop()
        for index, row in enumerate(split["validation"]):  # in the order of the rows
            with torch.no_grad():
                alone = trainer.model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            torch.testing.assert_close(torch.tensor(logits[index]), alone, rtol=1e-4, atol=1e-4)
        assert trainer.teacher.model is model
        assert [type(loss) for loss in trainer.objective] == [SoftTargets]
        assert trainer.state.global_step == 1
        assert all(weight.dtype is torch.float32 for weight in trainer.model.parameters())


def test_agreement_is_of_decisions(benchmark):
    first, second = torch.tensor([[1.0, -1.0], [2.0, 3.0]]), torch.tensor([[5.0, -0.1], [-2.0, 0.5]])
    assert benchmark.agreement(first.numpy(), second.numpy()) == 0.75
