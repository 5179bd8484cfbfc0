"""Times that are fair: in turns, in eval mode, per example."""

import pytest
import torch
from measured import INPUTS, Tiny

from hf_distill.report import latency


def test_latencies_run_in_eval_and_inference_mode_and_give_every_module_its_own_mode_back():
    models = {"teacher": Tiny(), "student": Tiny(4)}
    models["teacher"].train()
    models["teacher"].dropout.eval()  # a mode that differs from its parent's
    models["student"].eval()
    latency.latencies(models, INPUTS, seconds=0.02, rounds=2)
    assert set(models["teacher"].seen) == set(models["student"].seen) == {(False, False, True)}
    assert models["teacher"].training
    assert models["teacher"].middle.training
    assert not models["teacher"].dropout.training
    assert not models["student"].training
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_those_that_are_named(threads):
    class Watched(Tiny):
        def forward(self, input_ids, attention_mask):
            self.seen.append(torch.get_num_threads())
            return super().forward(input_ids, attention_mask)

    before = torch.get_num_threads()
    model = Watched()
    assert latency.latency(model, INPUTS, seconds=0.01, rounds=1, threads=threads).threads == threads
    assert {seen for seen in model.seen if isinstance(seen, int)} == {threads}
    assert torch.get_num_threads() == before


def test_modes_and_threads_come_back_after_an_error():
    model = Tiny().train()
    threads = torch.get_num_threads()
    with pytest.raises(TypeError):
        latency.latency(model, {"input_ids": INPUTS["input_ids"]}, seconds=0.01)
    assert model.training
    assert model.dropout.training
    assert torch.get_num_threads() == threads


def test_models_are_timed_in_turns_back_and_forth(monkeypatch):
    order = []
    real = latency.Timer.blocked_autorange

    def record(timer, *args, **kwargs):
        order.append(timer.name)
        return real(timer, *args, **kwargs)

    class Named(latency.Timer):
        made = iter("ab")

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.name = next(self.made)

    Named.blocked_autorange = record
    monkeypatch.setattr(latency, "Timer", Named)
    latency.latencies({"a": Tiny(), "b": Tiny()}, INPUTS, seconds=0.03, rounds=3)
    assert "".join(order) == "abbaab"


def test_latency_is_median_and_range_per_example_of_the_timings(monkeypatch):
    class Given:
        times = [0.004, 0.008, 0.012, 0.016, 0.040]

    monkeypatch.setattr(latency.Timer, "blocked_autorange", lambda *_args, **_kwargs: Given)
    measured = latency.latency(Tiny(), INPUTS, threads=2, rounds=1)
    assert measured.milliseconds == pytest.approx(3.0)  # 12 ms for 4 examples
    assert measured.iqr == pytest.approx(2.0)  # 8 to 16 ms
    assert (measured.batch_size, measured.threads, measured.device, measured.runs) == (4, 2, "cpu", 5)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "nothing to time: 0 models"),
        ({"a": Tiny()}, {"rounds": 0}, "rounds=0"),
        ({"a": Tiny()}, {"threads": 0}, "threads=0"),
        ({"a": Tiny()}, {"seconds": 0}, "seconds=0"),
    ],
)
def test_latencies_refuse(models, options, message):
    with pytest.raises(ValueError, match=message):
        latency.latencies(models, INPUTS, **options)
