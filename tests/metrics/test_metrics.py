"""The metrics by name and by task, and that none of them needs a network."""

import os
import socket
import subprocess
import sys

import pytest
from naive_metrics import LABELS, LOGITS

from hf_distill import metrics


def test_tuning_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match=r"logits are \(4, 3\), labels \(4, 2\)"):
        metrics.tune_thresholds(LOGITS, LABELS[:, :2])
    with pytest.raises(ValueError, match=r"labels\[0, 0\] is 3"):
        metrics.tune_thresholds(LOGITS, LABELS * 3)


def test_unknown_task():
    with pytest.raises(ValueError, match="no metrics for task 'tokens'"):
        metrics.for_task("tokens")
    with pytest.raises(ValueError, match="no metrics for task 'tokens'"):
        metrics.Fidelity("tokens")


def test_for_task_and_load_give_ours_by_name():
    for task in ("multi_label", "single_label", "regression"):
        assert type(metrics.for_task(task)) is type(metrics.load(f"{task}_quality"))
        assert metrics.load("fidelity", task=task).task == task


SCRIPT = """
import datasets
import evaluate

class ShareOfZeros(evaluate.Metric):
    def _info(self):
        features = datasets.Features(dict.fromkeys(["predictions", "references"], datasets.Value("int64")))
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"zeros": sum(p == 0 for p in predictions) / len(predictions)}
"""


OFFLINE = """
import os, socket
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
import numpy as np
from hf_distill import metrics
for task in ("multi_label", "single_label", "regression"):
    x = np.array([[1.0, -1.0], [0.5, 2.0]])
    references = {"multi_label": [[1, 0], [0, 1]], "single_label": [0, 1], "regression": x}[task]
    metrics.for_task(task).compute(predictions=x, references=references)
    metrics.Fidelity(task).compute(predictions=x, references=x)
print("files:", sorted(os.listdir(os.environ["HF_HOME"])))
metric = metrics.load(os.environ["SCRIPT"])
print(metric.compute(predictions=[0, 1], references=[0, 0]))
"""


def test_offline_with_an_empty_cache_nothing_is_fetched_or_written_and_a_script_is_loaded_by_its_path(tmp_path):
    (tmp_path / "home").mkdir()
    script = tmp_path / "share_of_zeros.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "SCRIPT": str(script)}
    run = subprocess.run([sys.executable, "-c", OFFLINE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "files: []" in run.stdout
    assert "{'zeros': 0.5}" in run.stdout


def test_a_metric_that_cannot_be_had_offline_is_one_clear_error(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(
        FileNotFoundError, match=r"'no_such_metric' is none of hf_distill's .*fidelity.*path of a metric"
    ):
        metrics.load("no_such_metric")
