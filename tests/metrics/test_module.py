"""What is the same for all metrics of the package as modules of evaluate."""

from naive_metrics import LABELS, LOGITS

from hf_distill import metrics


def test_batches_added_one_by_one_equal_one_call_and_nothing_is_left_behind():
    quality = metrics.MultiLabelQuality()
    whole = quality.compute(predictions=LOGITS, references=LABELS)
    quality.add_batch(predictions=LOGITS[:3], references=LABELS[:3])
    quality.add(prediction=LOGITS[3], reference=LABELS[3])
    assert quality.compute() == whole
    assert quality.compute(predictions=LOGITS, references=LABELS) == whole
    single = metrics.SingleLabelQuality()
    single.add(prediction=[0.0, 1.0], reference=1)
    assert single.compute()["accuracy"] == 1.0
