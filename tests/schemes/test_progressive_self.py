"""PS-KD against a loop that is written from the paper."""

import re

import pytest
import torch
import torch.nn.functional as F
from models import LABELS
from runs import classifier, rows, weights

from hf_distill import schemes
from hf_distill.losses import TaskLoss

from .arranged import check_resumed, planned

STEADY = {"max_steps": -1, "num_train_epochs": 3, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0}


def test_it_is_the_loop_of_the_paper(tmp_path):
    batches = []

    def collate(examples):
        batches.append({name: torch.tensor([each[name] for each in examples]) for name in examples[0]})
        return batches[-1]

    plan = planned(tmp_path, classifier(), **STEADY, learning_rate=0.1, data_collator=collate)
    student = schemes.progressive_self(plan, last_weight=0.6)

    expected, past = classifier(), {}
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for step, batch in enumerate(batches):
        alpha = 0.6 * (step // 4 + 1) / 3
        texts = [tuple(ids) for ids in batch["input_ids"].tolist()]
        hard = F.one_hot(batch["labels"], LABELS).float()
        before = torch.stack([past.get(text, own) for text, own in zip(texts, hard, strict=True)])
        logits = expected(batch["input_ids"], batch["attention_mask"]).logits
        target = (1 - alpha) * hard + alpha * before
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimizer.step()
        past.update(zip(texts, logits.detach().softmax(-1), strict=True))
    assert len(batches) == 12
    for name, weight in expected.named_parameters():
        assert torch.allclose(weights(student)[name], weight, atol=1e-6), name


@pytest.mark.parametrize("after", [2, 6])
def test_it_is_resumed(tmp_path, after):
    def run(folder, **settings):
        return schemes.progressive_self(planned(folder, classifier(), **{**STEADY, **settings}))

    check_resumed(tmp_path, run, after)


@pytest.mark.parametrize(
    ("settings", "stairs"),
    [
        ({"max_steps": 10}, "2.5"),  # an epoch is 4 steps
        ({"max_steps": -1, "num_train_epochs": 1.1}, "1.25"),  # 5 steps
        ({"max_steps": 5, "gradient_accumulation_steps": 3}, "2.5"),
        ({"max_steps": 2, "per_device_train_batch_size": 5, "dataloader_drop_last": True}, "0.666667"),
    ],
)
def test_epochs_are_counted_from_the_rows(tmp_path, settings, stairs):
    plan = planned(tmp_path, classifier(), data=rows(16), **settings)
    schemes.progressive_self(plan)
    assert all(f"weight {stairs} stairs" in each for each in plan.stages[0].losses)


def test_what_cannot_work_is_refused(tmp_path):
    with pytest.raises(ValueError, match=re.escape("last_weight=1.5 is no share; it must be 0 to 1.")):
        schemes.progressive_self(planned(tmp_path, classifier()), 1.5)
    with pytest.raises(ValueError, match="progressive_self makes its losses itself"):
        schemes.progressive_self(planned(tmp_path, classifier(), losses=[TaskLoss()]))


def test_several_labels_are_mixed_as_one_is(tmp_path):
    """One epoch: past predictions are the labels, so the total is the labels' loss whatever the weights are."""
    kind = {"problem_type": "multi_label_classification"}
    data = rows(16).map(lambda row: {"labels": [float(row["labels"] == label) for label in range(LABELS)]})
    found = []
    for last_weight in (0.0, 0.8):
        settings = {**STEADY, "num_train_epochs": 1}
        plan = planned(tmp_path / str(last_weight), classifier(**kind), data=data, **settings)
        found.append(weights(schemes.progressive_self(plan, last_weight)))
    assert all(torch.allclose(each, found[1][name], atol=1e-6) for name, each in found[0].items())
