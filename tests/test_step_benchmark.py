"""The benchmark of steps on tiny models: every row is of what it says. No cost is asserted."""

import sys

import pytest
import torch
from benchmark_files import loaded
from datasets import disable_progress_bars

from hf_distill.teachers import ModelTeacher


@pytest.fixture
def benchmark(monkeypatch):
    module = loaded("step")
    tiny = {"hidden_size": 16, "num_hidden_layers": 12, "num_attention_heads": 2, "intermediate_size": 16}
    monkeypatch.setattr(module, "SIZE", tiny)
    monkeypatch.setattr(module, "LM_SIZE", {**tiny, "num_hidden_layers": 4, "num_key_value_heads": 2})
    monkeypatch.setattr(module, "LM_VOCABULARY", 2000)
    monkeypatch.setattr(module, "ROWS", 6)
    disable_progress_bars()
    return module


def test_it_prints_and_draws_every_row(benchmark, monkeypatch, tmp_path, capsys):
    picture = tmp_path / "pictures" / "step.png"
    shapes = ["--shapes", "3x5", "lm:3x4", "--rounds", "2", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", ["step.py", *shapes])
    benchmark.main()
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("| ")]
    markdown = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert markdown[0] == ["batch x tokens", "what", "over", "ms", "time", "MB", "memory"]
    classifier, lm = benchmark.ROWS_OF_TABLE, benchmark.LM_ROWS
    expected = [("3 x 5", *row) for row in classifier] + [("LM 3 x 4", *row) for row in lm]
    assert [tuple(line[:3]) for line in markdown[2:]] == expected
    assert all(float(line[4].split(" ± ")[0]) > 0 for line in markdown[2:])
    assert f"picture: {picture}" in said
    assert picture.stat().st_size > 1000


def test_a_cached_step_asks_no_teacher_and_a_live_one_once(benchmark, monkeypatch, tmp_path):
    asked = []
    real = ModelTeacher.observe
    monkeypatch.setattr(ModelTeacher, "observe", lambda self, batch: asked.append(1) or real(self, batch))
    rows = benchmark.rows_of(5)
    batch = benchmark.collate([rows[0], rows[1], rows[2]])
    for name in benchmark.TERMS:
        steps = benchmark.steps_of({name}, rows, 3, str(tmp_path / name))
        asked.clear()
        steps[name](batch)
        assert len(asked) == (name not in (benchmark.LOGITS_CACHED, benchmark.ALL_CACHED))


def test_a_limit_trains_the_student_and_asks_the_teacher_that_it_says(benchmark, tmp_path):
    rows = benchmark.rows_of(5)
    batch = benchmark.collate([rows[0], rows[1]])
    for name, blocks in ((benchmark.ALONE, 6), (benchmark.HALF, 12), (benchmark.BOTH, 18), (benchmark.EAGER, 18)):
        (step,) = benchmark.steps_of({name}, rows, 2, str(tmp_path)).values()
        ran = []
        handle = torch.nn.modules.module.register_module_forward_hook(
            lambda module, args, output, ran=ran: ran.append(1) if type(module).__name__ == "BertLayer" else None
        )
        step(batch)
        handle.remove()
        assert len(ran) == blocks, name


def test_the_loss_by_hand_of_a_language_model_is_of_the_next_token(benchmark):
    mine, theirs = torch.randn(2, 2, 4, 7).unbind()
    labels = torch.randint(0, 7, (2, 4))
    found = benchmark.answers_loss(mine, theirs, labels)
    by_hand = []
    for row in range(2):
        for place in range(3):
            q, p = (side[row, place].div(2).softmax(-1) for side in (mine, theirs))
            own = -mine[row, place].log_softmax(-1)[labels[row, place + 1]]
            by_hand.append(own + 4 * (p * (p / q).log()).sum())
    torch.testing.assert_close(found, torch.stack(by_hand).mean())
