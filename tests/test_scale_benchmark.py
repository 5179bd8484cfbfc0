"""The benchmark of scale on tiny models: every point makes the step that it says. No cost is asserted."""

import sys
from functools import partial

import pytest
import torch
from benchmark_files import loaded
from datasets import disable_progress_bars
from transformers import BertConfig

from hf_distill.losses import AttentionKL, HiddenMSE, TaskLoss
from hf_distill.teachers import CachedTeacher, ModelTeacher

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TINY = {"examples": (3, 6), "tokens": (5, 7), "layers": (0, 1, 3), "batch": (1, 2), "vocabulary": (11, 23)}


@pytest.fixture
def benchmark(monkeypatch):
    module = loaded("scale")
    for name, layers in (("SIZE", 6), ("LM_SIZE", 2)):
        sizes = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 16}
        monkeypatch.setattr(module, name, sizes)
    monkeypatch.setattr(module, "LENGTH", 8)
    monkeypatch.setattr(module, "SHORT", 4)
    monkeypatch.setattr(module, "AXES", {axis: (TINY[axis], make) for axis, (_, make) in module.AXES.items()})
    disable_progress_bars()
    return module


def test_it_prints_and_draws_every_point(benchmark, tmp_path, capsys):
    picture = tmp_path / "pictures" / "scale.png"
    benchmark.main(["--rounds", "2", "--picture", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| ")]
    assert rows[0][:2] == ["axis", "value"]
    assert [(row[0], int(row[1])) for row in rows[2:]] == [(axis, each) for axis in TINY for each in TINY[axis]]
    assert all(float(cell.split(" ± ")[0]) >= 0 for row in rows[2:] for cell in row[2:])
    assert lines[-1] == f"picture: {picture}"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_step_trains_the_student_and_asks_the_teacher_only_where_it_is_live(benchmark, monkeypatch, tmp_path):
    asked = []
    real = ModelTeacher.observe
    monkeypatch.setattr(ModelTeacher, "observe", lambda self, batch: asked.append(1) or real(self, batch))
    made = []
    stepping = sys.modules[benchmark.ours.__module__]
    trainer_class = stepping.DistillationTrainer
    monkeypatch.setattr(
        stepping, "DistillationTrainer", lambda *args, **more: made.append(trainer_class(*args, **more)) or made[-1]
    )
    for axis, (values, make) in benchmark.AXES.items():
        point = make(values[-1], tmp_path / axis)
        before = {name: each.clone() for name, each in made[-1].model.state_dict().items()}
        asked.clear()
        point.ours(point.batch())
        assert len(asked) == (axis != "examples")
        after = made[-1].model.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert isinstance(made[0].teacher, CachedTeacher)


def test_each_axis_grows_what_it_names(benchmark, monkeypatch, tmp_path):
    asked = []
    real = benchmark.ours
    monkeypatch.setattr(benchmark, "ours", lambda *inputs: asked.append(inputs) or real(*inputs))
    sizes = {axis: [] for axis in TINY}
    for axis, (values, make) in benchmark.AXES.items():
        for value in values:
            batch = make(value, tmp_path / f"{axis}{value}").batch()
            student, _, terms, rows, size, _ = asked[-1]
            assert len(batch["input_ids"]) == size
            matched = [set(term.layers.items()) for term in terms if isinstance(term, HiddenMSE | AttentionKL)]
            assert all(each == matched[0] for each in matched)
            sizes[axis].append(
                {
                    "examples": len(rows),
                    "tokens": batch["input_ids"].shape[1],
                    "layers": len(matched[0]) if matched else 0,
                    "batch": size,
                    "vocabulary": student.config.vocab_size,
                }[axis]
            )
    assert sizes == {axis: list(values) for axis, values in TINY.items()}
    assert benchmark.AXES["layers"][1](3, tmp_path / "all")
    assert dict(asked[-1][2][-1].layers) == {0: 1, 1: 3, 2: 5}  # the last student block learns from the last


def student_of(step):
    """What the step trains: it is nowhere else."""
    cells = dict(zip(step.__code__.co_freevars, (each.cell_contents for each in step.__closure__), strict=True))
    return cells["trainer"].model if "trainer" in cells else cells["student"]


@pytest.mark.parametrize("kind", ["labels", "live", "vocabulary"])
def test_ours_learns_what_the_loop_by_hand_does(benchmark, monkeypatch, tmp_path, kind):
    monkeypatch.setattr(benchmark, "BertConfig", partial(BertConfig, **NO_DROPOUT))
    if kind == "labels":
        monkeypatch.setattr(benchmark, "soft_targets", lambda: [TaskLoss()])
    makes = {"labels": benchmark.of_examples, "live": benchmark.of_layers, "vocabulary": benchmark.of_vocabulary}
    point = makes[kind]({"labels": 6, "live": 0, "vocabulary": 13}[kind], tmp_path)
    mine, by_hand = (student_of(step).state_dict() for step in (point.ours, point.limit))
    start = {name: value.clone() for name, value in mine.items()}
    for _ in range(2):
        batch = point.batch()
        point.ours(dict(batch))
        point.limit(dict(batch))
    assert any(not torch.equal(start[name], mine[name]) for name in start)
    for name, value in by_hand.items():
        torch.testing.assert_close(mine[name] - start[name], value - start[name], rtol=0.05, atol=1e-6)
