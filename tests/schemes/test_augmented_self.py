"""Two views that teach each other, against a loop by hand."""

import pytest
import torch
import torch.nn.functional as F
from runs import classifier, rows, weights, words
from transformers import DataCollatorWithPadding

from hf_distill import schemes
from hf_distill.losses import TaskLoss
from hf_distill.teachers.swapped_views import ROW

from .arranged import check_resumed, planned

STEADY = {"max_steps": -1, "num_train_epochs": 2, "optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0}


class Noting(DataCollatorWithPadding):
    def __call__(self, features):
        batch = super().__call__(features)
        self.seen.append({name: value.clone() for name, value in batch.items()})
        return batch


def test_it_is_the_cross_entropy_and_the_kl_both_ways(tmp_path):
    tokenizer = words()
    collate = Noting(tokenizer)
    collate.seen = []
    known = {"processing_class": tokenizer, "data_collator": collate}
    plan = planned(tmp_path, classifier(), **STEADY, learning_rate=0.1, eval_dataset=rows(8), **known)
    student = schemes.augmented_self(plan, share=0.4, temperature=2.0, weight=0.7)
    trained, evaluated = collate.seen[:8], collate.seen[8:]
    assert [len(batch["labels"]) for batch in trained] == [8] * 8
    assert [len(batch["labels"]) for batch in evaluated] == [4] * 2
    assert ROW not in trained[0]  # the collator of the user's own is not shown it

    unknown, plain = tokenizer.unk_token_id, {tuple(text) for text in rows()["input_ids"]}
    words_hidden = torch.cat([batch["input_ids"].flatten() for batch in trained]) == unknown
    assert words_hidden.float().mean() == pytest.approx(0.4, abs=0.1)
    assert not any((batch["input_ids"] == unknown).all() for batch in evaluated)
    epochs = [torch.cat([batch["input_ids"] for batch in trained[start : start + 4]]) for start in (0, 4)]
    assert {tuple(text) for text in epochs[0].tolist()} != {tuple(text) for text in epochs[1].tolist()}
    assert len(plain) == 16

    expected = classifier()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for batch in trained:
        logits = expected(batch["input_ids"], batch["attention_mask"]).logits
        one, other = F.log_softmax(logits / 2.0, dim=-1).chunk(2)
        kls = [(p.detach().exp() * (p.detach() - q)).sum(-1).mean() * 2.0**2 for p, q in ((one, other), (other, one))]
        optimizer.zero_grad()
        (F.cross_entropy(logits, batch["labels"]) + 0.7 * sum(kls) / 2).backward()
        optimizer.step()
    for name, weight in expected.named_parameters():
        assert torch.allclose(weights(student)[name], weight, atol=2e-6), name


@pytest.mark.parametrize("after", [2, 5])
def test_it_is_resumed(tmp_path, after):
    def run(folder, **settings):
        plan = planned(folder, classifier(), processing_class=words(), **{**STEADY, **settings})
        return schemes.augmented_self(plan, share=0.5)

    check_resumed(tmp_path, run, after)


def test_what_cannot_work_is_refused(tmp_path):
    def run(share=0.1, **settings):
        schemes.augmented_self(planned(tmp_path, classifier(), **settings), share)

    with pytest.raises(ValueError, match="share=0 hides nothing or all"):
        run(0, processing_class=words())
    with pytest.raises(ValueError, match="Pass processing_class=tokenizer to the Plan"):
        run()
    with pytest.raises(ValueError, match="augmented_self makes its losses itself"):
        run(losses=[TaskLoss()], processing_class=words())
    with pytest.raises(ValueError, match=r"the train_dataset is a list without\. Tokenize the texts first"):
        run(data=[{"input_ids": [1]}], processing_class=words())
