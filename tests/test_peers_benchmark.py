"""The benchmark against peers, on tiny models, with those that are there. No cost is asserted."""

import contextlib
import importlib
import importlib.util
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmark_files import loaded
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples" / "benchmarks" / "peers.py"
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS = {
    "multi_label": {"sizes": SIZES | NO_DROPOUT},
    "causal_lm": {"sizes": SIZES, "task_weight": 0.0, "temperature": 1.0},
}


@pytest.fixture
def benchmark():
    return loaded("peers")


@pytest.fixture
def contestants(monkeypatch):
    """Gives a module of the contestants' folder."""
    monkeypatch.syspath_prepend(FILE.parent)
    monkeypatch.syspath_prepend(FILE.parent / "contestants")
    return importlib.import_module


def work_of(kind: str, folder: Path, **more) -> str:
    """A batch that is all rows, so that shuffling changes nothing."""
    spec = {"kind": kind, "length": 8, "steps": 1, "batch_size": 4, "epochs": 4, "learning_rate": 1e-3}
    return json.dumps(spec | KINDS[kind] | {"output": str(folder)} | more)


def test_who_is_there_is_measured_and_the_others_are_named(benchmark, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(benchmark, "WORK", {"causal_lm": {"batch_size": 2, "length": 6, **KINDS["causal_lm"]}})
    picture = tmp_path / "peers.png"
    where = ["--environments", str(tmp_path / "none"), "--picture", str(picture)]
    benchmark.main(["--work", "causal_lm", "--rounds", "2", *where])
    lines = capfd.readouterr().out.splitlines()
    for name in ("silverspoon (silverspoon-kd==0.1.0)", "trl (trl==1.16.0)"):
        assert f"skipped: {name} is not installed in {tmp_path / 'none'}. --install does it." in lines
    assert not any("textbrewer" in line for line in lines)  # it has no part in this work
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    assert [row[:2] for row in rows[2:]] == [["causal_lm", "by hand"], ["causal_lm", "hf_distill"]]
    assert rows[2][3] == "1.000 ± 0.000"
    assert all(float(cell.split(" ± ")[0].replace(",", "")) > 0 for row in rows[2:] for cell in row[2:])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_worker_that_breaks_says_why(benchmark, monkeypatch, tmp_path):
    broken = {"batch_size": 2, "length": 6, **KINDS["causal_lm"], "temperature": "warm"}
    monkeypatch.setattr(benchmark, "WORK", {"causal_lm": broken})
    with benchmark.workers("causal_lm", {"by hand": sys.executable}, 1, 1, tmp_path) as started:
        with pytest.raises(SystemExit, match=r"(?s)by hand ended with 1:.*TypeError"):
            started["by hand"].step()
        process = started["by hand"].process
    assert process.poll() is not None


def test_no_worker_outlives_an_error(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "WORK", {"causal_lm": {"batch_size": 2, "length": 6, **KINDS["causal_lm"]}})
    processes = []
    with (
        contextlib.suppress(KeyboardInterrupt),
        benchmark.workers("causal_lm", {"by hand": sys.executable}, 1, 1, tmp_path) as started,
    ):
        processes.append(started["by hand"].process)
        assert processes[0].poll() is None
        raise KeyboardInterrupt
    assert processes[0].poll() is not None


@pytest.mark.parametrize("kind", KINDS)
def test_ours_learns_what_the_loop_by_hand_does(contestants, tmp_path, kind):
    students = []
    for name in ("by_hand", "with_hf_distill"):
        work = contestants("work").load(work_of(kind, tmp_path / name))
        start = {key: value.clone() for key, value in work.student.state_dict().items()}
        contestants(name).train(work)
        students.append(work.student.state_dict())
    assert any(not torch.equal(start[key], students[0][key]) for key in start)
    for key, value in students[0].items():
        torch.testing.assert_close(students[1][key], value, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("peer", "kind", "options"),
    [
        ("textbrewer", "multi_label", []),
        ("textbrewer", "multi_label", ["cache"]),
        ("silverspoon", "multi_label", ["grouped"]),
        ("trl", "causal_lm", []),
    ],
)
def test_a_peer_learns_what_the_loop_by_hand_does(benchmark, contestants, tmp_path, peer, kind, options):
    python = importlib.import_module("measuring").python_of(peer, ROOT / "out" / "environments")
    if python is None:
        pytest.skip(f"{peer} is not installed: peers.py --install")
    job = str(FILE.parent / "contestants" / "job.py")
    text = work_of(kind, tmp_path / peer, options=options)
    subprocess.run([python, job, peer, text], check=True, capture_output=True, timeout=200)
    work = contestants("work").load(work_of(kind, tmp_path / "by_hand"))
    contestants("by_hand").train(work)
    known = AutoModelForCausalLM if kind == "causal_lm" else AutoModelForSequenceClassification
    theirs = known.from_pretrained(tmp_path / peer).state_dict()
    for key, value in work.student.state_dict().items():
        torch.testing.assert_close(theirs[key], value, rtol=0.0, atol=1e-5)


def test_a_peers_environment_sees_what_is_here_and_is_made_once(benchmark, monkeypatch, tmp_path, capfd):
    measuring = importlib.import_module("measuring")
    monkeypatch.setattr(measuring, "PEERS", {"trl": "packaging"})  # it is here already: nothing is fetched
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = measuring.present(["by hand", "trl"], tmp_path, wanted=True)
    assert found == {"by hand": sys.executable, "trl": str(tmp_path / "trl" / "bin" / "python")}
    own = "import sys, packaging; print(sys.prefix, packaging.__file__)"
    said = subprocess.run([found["trl"], "-c", own], check=True, capture_output=True, text=True).stdout.split()
    assert said == [str(tmp_path / "trl"), importlib.import_module("packaging").__file__]
    assert "installing packaging into" in capfd.readouterr().out
    assert measuring.present(["trl"], tmp_path, wanted=True) == {"trl": found["trl"]}
    assert "installing" not in capfd.readouterr().out
    (tmp_path / "trl" / "installed").unlink()  # as after a Ctrl-C
    assert measuring.present(["trl"], tmp_path, wanted=False) == {}


def test_the_stopwatch_counts_what_passes_between_two_batches(contestants, monkeypatch):
    ended = []
    job = contestants("job")
    monkeypatch.setattr(job.os, "_exit", ended.append)
    times, answers = iter([1.0, 3.5, 10.0, 14.0, 20.0]), io.StringIO()
    watch = job.Stopwatch(sum, io.StringIO("go\ngo\nend\n"), answers, lambda: next(times))
    assert watch([1, 2]) == 3
    assert watch([3, 4]) == 7
    watch([5, 6])
    said = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert said[:2] == [{"seconds": 2.5}, {"seconds": 4.0}]
    assert said[2]["peak"] > 10**7
    assert ended == [0]
