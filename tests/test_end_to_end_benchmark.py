"""The benchmark from end to end, on a tiny teacher and a few rows. No cost is asserted."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import workspace
from benchmark_files import loaded
from safetensors.torch import load_file


@pytest.fixture
def benchmark(monkeypatch):
    module = loaded("end_to_end")
    monkeypatch.setattr(module, "LEARNING", {**module.LEARNING, "batch_size": 8})
    monkeypatch.setattr(module, "LONGEST", 16)
    return module


@pytest.fixture
def here(tmp_path):
    """A teacher and files as GoEmotions has them: no header, label ids, a third column."""
    folder = workspace.make(tmp_path)
    ids = {name: str(index) for index, name in enumerate(workspace.LABELS)}
    for split in ("train", "dev"):
        lines = (folder / "data" / f"{split}.tsv").read_text().splitlines()[1:]
        rows = [(text, labels.split(",")) for text, labels in (line.split("\t") for line in lines)]
        written = [f"{text}\t{','.join(ids[name] for name in names)}\tx{i}" for i, (text, names) in enumerate(rows)]
        (folder / "data" / f"{split}.tsv").write_text("\n".join(written) + "\n")
    (folder / "data" / "test.tsv").unlink()
    (folder / "data" / "labels.txt").write_text("\n".join(workspace.LABELS) + "\n")
    return folder


def arguments(here: Path, *more: str) -> list[str]:
    own = {"--data": "data", "--teacher": "teacher", "--output": "out", "--environments": "none"}
    fixed = [text for flag, folder in own.items() for text in (flag, str(here / folder))]
    return [*fixed, "--rows", "16", "--epochs", "2", "--rounds", "1", "--evaluate", "10", *more]


def test_runs_are_made_scored_and_kept(benchmark, here, monkeypatch, capsys):
    saved = {}
    real = benchmark.precision

    def precision(student, options):
        saved[student.parent.name] = load_file(student / "model.safetensors")
        return real(student, options)

    monkeypatch.setattr(benchmark, "precision", precision)
    benchmark.main(arguments(here, "--runs", "hf_distill", "by hand", "textbrewer, cache"))
    out = capsys.readouterr().out
    assert f"skipped: textbrewer (textbrewer==0.2.1.post1) is not installed in {here / 'none'}." in out
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in out.splitlines() if line[:2] == "| "]
    assert [row[0] for row in rows[2:]] == ["hf_distill", "by hand"]
    assert rows[2][4:6] == ["1.00", "1.00"]
    assert (here / "out" / "end_to_end.png").read_bytes().startswith(b"\x89PNG")

    kept = json.loads((here / "out" / "results.json").read_text())
    paths = {"data": str(here / "data"), "teacher": str(here / "teacher")}
    assert kept["settings"] == {"rows": 16, "epochs": 2, "threads": 1, "evaluate": 10, **paths}
    assert set(kept["runs"]) == {"hf_distill|0", "by hand|0"}
    assert all(0 < each["mean_average_precision"] <= 1 for each in kept["runs"].values())
    assert all(each["megabytes"] > 50 for each in kept["runs"].values())
    start = load_file(here / "out" / "start" / "model.safetensors")
    for student in saved.values():  # both trained the student that all start with
        assert student.keys() == start.keys()
        assert any(not student[name].equal(start[name]) for name in start)
    assert [path.name for path in (here / "out" / "runs").glob("*/student")] == []

    monkeypatch.setattr(benchmark, "timed", lambda *_: pytest.fail("made again"))
    benchmark.main(arguments(here, "--runs", "hf_distill", "by hand"))
    assert "| by hand |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"has runs of .*'rows': 16.*, and this is .*'rows': 8.*--output"):
        benchmark.main([*arguments(here), "--rows", "8"])


def test_both_commands_get_the_same_job(benchmark, here):
    options = SimpleNamespace(output=here / "out", data=here / "data", teacher=here / "teacher", epochs=2, rows=16)
    benchmark.prepare(options)
    ours = benchmark.our_command(options, 3, here)
    checked = benchmark.recipe.load(ours[-1])
    assert ours[:4] == [sys.executable, "-m", "hf_distill.cli", "train"]
    theirs = benchmark.their_command("textbrewer, cache", "python", options, 3, here)
    work = json.loads(theirs[-1])
    assert theirs[2] == "textbrewer"
    assert work["options"] == ["cache"]
    assert checked.teacher.model == work["teacher"]
    assert checked.student.model == work["student"]
    assert checked.dataset.path == work["rows"]
    assert checked.dataset.max_length == work["max_length"]
    assert len(Path(work["rows"]).read_text().splitlines()) == 16
    same = {
        "num_train_epochs": "epochs",
        "per_device_train_batch_size": "batch_size",
        "learning_rate": "learning_rate",
        "weight_decay": "weight_decay",
        "warmup_steps": "warmup",
        "seed": "seed",
        "output_dir": "output",
    }
    assert {name: checked.train[name] for name in same} == {name: work[other] for name, other in same.items()}
    assert [spec.arguments["weight"] for spec in checked.losses] == [work["task_weight"], 1 - work["task_weight"]]
    assert checked.losses[1].arguments["temperature"] == work["temperature"]
    assert checked.teacher.cache is not None
    assert checked.train["train_sampling_strategy"] == "group_by_length"


def test_the_table_compares_with_the_faster_peer_in_the_same_rounds(benchmark, tmp_path, capsys):
    def figures(seconds):
        return {"seconds": seconds, "processor": seconds, "megabytes": 100.0, "mean_average_precision": 0.5}

    seconds = {"hf_distill": (10, 12), "textbrewer": (40, 24), "textbrewer, cache": (20, 15), "silverspoon": (60, 50)}
    runs = {f"{name}|{seed}": figures(float(each)) for name, both in seconds.items() for seed, each in enumerate(both)}
    runs["hf_distill|2"] = figures(1.0)  # a round that the others have not finished
    settings = {"rows": 5, "epochs": 3, "threads": 1, "evaluate": 5426, "data": "d", "teacher": "t"}
    (tmp_path / "results.json").write_text(json.dumps({"settings": settings, "runs": runs}))
    fixed = ["--rounds", "0", "--rows", "5", "--data", "d", "--teacher", "t"]
    benchmark.main([*fixed, "--output", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert any("5 rows, 3 epochs, 1 thread(s), 2 round(s)" in line for line in lines)
    documented, switched = (line for line in lines if line.startswith("the faster peer"))
    assert documented.startswith("the faster peer as documented is textbrewer: hf_distill over it 0.38 ±")
    assert switched.startswith("the faster peer with every switch is textbrewer, cache: hf_distill over it 0.65 ±")


@pytest.mark.parametrize(("missing", "flag"), [("data/labels.txt", "--data"), ("teacher/config.json", "--teacher")])
def test_what_is_missing_is_said_before_anything_runs(benchmark, here, monkeypatch, missing, flag):
    (here / missing).unlink()
    monkeypatch.setattr(benchmark, "prepare", lambda *_: pytest.fail("it began"))
    with pytest.raises(SystemExit, match=rf"{missing} is missing\. {flag} names another folder\."):
        benchmark.main(arguments(here))


def test_too_few_rows_are_said(benchmark, here):
    with pytest.raises(SystemExit, match=r"has 24 rows, fewer than --rows 25\."):
        benchmark.main([*arguments(here), "--rows", "25"])


def test_a_command_that_fails_is_shown_with_its_last_words_and_another_is_measured(benchmark, tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)ended with 3:\nthe reason"):
        benchmark.timed([sys.executable, "-c", "print('the reason'); raise SystemExit(3)"], tmp_path, 1)
    hold = "import time; held = bytearray(200_000_000); time.sleep(1)"
    found = benchmark.timed([sys.executable, "-c", hold], tmp_path, 1)
    assert 200 < found["megabytes"] < 400
    assert found["seconds"] > 1
