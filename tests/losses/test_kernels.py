"""Liger's kernel is taken where it computes a loss's formula, and nowhere else; it gives what the formula gives."""

import importlib.util
import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses import (
    GeneralizedJSD,
    NormalizedKD,
    ReverseKL,
    SkewKL,
    SoftTargets,
    TaskLoss,
    TotalVariation,
    fused,
    kernels,
)
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import randn

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
BY_KERNEL = [
    SoftTargets(2.0),
    SoftTargets(1.0),
    ReverseKL(3.0),
    GeneralizedJSD(0, 2.0),
    GeneralizedJSD(0.3, 2.0),
    GeneralizedJSD(1.0),
]


class OwnValues(SoftTargets):
    def values(self, student, teacher, *more):
        return super().values(student, teacher) / 2


class StandIn:
    """Takes and gives what Liger's kernel does: the gradient is written over the student's log-probabilities."""

    def __init__(self):
        self.betas = []

    def __call__(self, log_q, log_p, labels, beta, ignored, positions):
        assert labels is None
        assert positions == 1.0
        assert log_q.dtype == log_p.dtype == torch.float32
        torch.testing.assert_close(log_q.exp().sum(-1), torch.ones(len(log_q)))
        self.betas.append(beta)
        with torch.enable_grad():
            mine = log_q.clone().requires_grad_()
            if 0 < beta < 1:
                log_m = torch.logaddexp(log_p + math.log(beta), mine + math.log1p(-beta))
                by_class = beta * log_p.exp() * (log_p - log_m) + (1 - beta) * mine.exp() * (mine - log_m)
            else:
                by_class = mine.exp() * (mine - log_p) if beta else log_p.exp() * (log_p - mine)
            (gradient,) = torch.autograd.grad(by_class.sum(), mine)
        return by_class.detach(), log_q.copy_(gradient)


@pytest.fixture
def kernel(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(kernels, "_kernel", lambda: stand_in)
    monkeypatch.setattr(kernels, "_serves", cache(kernels._serves.__wrapped__))  # what others found out is not known
    return stand_in


@pytest.fixture
def served(kernel, monkeypatch):
    """What is said to be on a GPU is served; the tensors of the tests are on the processor."""
    monkeypatch.setattr(kernels, "_serves", lambda device, beta: device == GPU)
    return kernel


def value_and_gradient(formula, weights):
    student, teacher = randn(4, 9, seed=1).requires_grad_(), randn(4, 9, seed=2).requires_grad_()
    found = formula(student, teacher)
    (gradient,) = torch.autograd.grad((found * weights).sum(), student, retain_graph=True)
    assert torch.autograd.grad(found.sum(), teacher, allow_unused=True) == (None,)
    return found.detach(), gradient


@pytest.mark.parametrize("loss", BY_KERNEL, ids=repr)
def test_it_computes_the_losses_that_it_knows(served, loss):
    beta = {SoftTargets: 0.0, ReverseKL: 1.0}.get(type(loss), getattr(loss, "beta", None))
    weights = randn(4, seed=3)
    found = value_and_gradient(kernels.formula_of(loss, GPU), weights)
    assert served.betas == [beta]
    torch.testing.assert_close(found, value_and_gradient(loss.values, weights))


def test_other_formulas_are_left_as_they_are(served):
    compiled = SoftTargets()
    compiled.values = torch.compile(compiled.values)
    others = [SoftTargets(standardize=True), OwnValues(), SkewKL(), TotalVariation(), NormalizedKD(), TaskLoss()]
    for loss in [compiled, *others]:
        assert kernels.formula_of(loss, GPU) == loss.values


def test_half_precision_is_computed_in_float32(served):
    student, teacher = randn(4, 9).bfloat16(), randn(4, 9, seed=1).bfloat16()
    found = kernels.formula_of(ReverseKL(), GPU)(student, teacher)
    torch.testing.assert_close(found, ReverseKL().values(student, teacher))


def test_it_is_differentiated_once_only(served):
    student = randn(4, 9).requires_grad_()
    found = kernels.formula_of(SoftTargets(), GPU)(student, randn(4, 9, seed=1)).sum()
    (gradient,) = torch.autograd.grad(found, student, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_terms_of_a_step_are_made_with_it(kernel, dtype, monkeypatch):
    """Fused with the head in float32; in chunks that are computed again in float16."""
    rows = torch.tensor([0, 1, 3, 4, 5, 8, 9])
    labels = torch.full((10,), -100).index_copy(0, rows, torch.arange(7)).view(2, 5)
    batch = Batch({"input_ids": labels.clamp(min=0), "labels": labels}, Task.MASKED_LM, counted_only=True)
    losses = {"soft": SoftTargets(2.0, chunk_size=3), "labels": TaskLoss(), "jsd": GeneralizedJSD(0.5, chunk_size=4)}
    student = [randn(7, 4).to(dtype).requires_grad_(), randn(11, 4, seed=1).to(dtype).requires_grad_(), None]
    head = HeadLogits.placed(HeadLogits.of(*student), rows, torch.Size((2, 5)))
    teacher = F.linear(randn(10, 6, seed=3), randn(11, 6, seed=4)).to(dtype).view(2, 5, 11)
    asked, results = [], []
    for served in (True, False):
        monkeypatch.setattr(kernels, "_serves", lambda *of, served=served: asked.append(of) or served)
        terms = fused.terms_on_counted(losses, dict.fromkeys(losses, 0.5), head, {LOGITS: teacher}, batch)
        total = torch.stack(list(terms.values())).sum()
        results.append((terms, torch.autograd.grad(total, student[:2])))
        assert (set(kernel.betas) == {0.0, 0.5}) is served
        kernel.betas.clear()
    assert set(asked) == {(CPU, 0.0), (CPU, 0.5)}
    torch.testing.assert_close(*results)


def test_it_is_for_gpus_that_it_is_right_on(kernel, monkeypatch, caplog):
    compared = []
    monkeypatch.setattr(kernels, "_compare", lambda *of: compared.append(of))
    loss = SoftTargets()
    assert kernels.formula_of(loss, CPU) == loss.values
    assert not compared
    for _ in range(2):
        assert kernels.formula_of(loss, GPU) != loss.values
    assert compared == [(GPU, 0.0)]
    assert not caplog.records


def test_it_can_be_turned_off(kernel, monkeypatch):
    monkeypatch.setattr(kernels, "_compare", lambda *_: None)
    monkeypatch.setenv("HF_DISTILL_LIGER", "0")
    loss = SoftTargets()
    assert kernels.formula_of(loss, GPU) == loss.values


def test_without_liger_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "_serves", kernels._serves.__wrapped__)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    loss = SoftTargets()
    assert kernels.formula_of(loss, GPU) == loss.values
    assert not caplog.records


def test_a_kernel_that_fails_is_left_aside_with_a_word(kernel, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no C compiler\nand more")

    monkeypatch.setattr(kernels, "_compare", fails)
    loss = SoftTargets()
    for _ in range(2):
        assert kernels.formula_of(loss, GPU) == loss.values
    (record,) = caplog.records
    assert "on cuda:0" in record.message
    assert "(RuntimeError: no C compiler)" in record.message
    assert "HF_DISTILL_LIGER=0" in record.message


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_comparison_passes_what_is_right_and_sees_what_is_wrong(kernel, beta, monkeypatch):
    kernels._compare(CPU, beta)
    for value, gradient in [(1.01, 1.0), (1.0, 1.01), (math.nan, 1.0), (1.0, math.nan)]:

        def wrong(*given, value=value, gradient=gradient):
            return tuple(found * factor for found, factor in zip(kernel(*given), (value, gradient), strict=True))

        monkeypatch.setattr(kernels, "_kernel", lambda wrong=wrong: wrong)
        with pytest.raises(AssertionError, match="not close"):
            kernels._compare(CPU, beta)


def test_the_comparison_sees_a_mixture_that_underflows(kernel, monkeypatch):
    """As Liger's did before 0.8.4: the logarithm of a probability that float32 has not."""

    def naive(log_q, log_p, labels, beta, ignored, positions):
        mixture = beta * log_p.exp() + (1 - beta) * log_q.exp()
        by_class = beta * log_p.exp() * log_p + (1 - beta) * log_q.exp() * log_q - mixture * mixture.log()
        return by_class, log_q.copy_((1 - beta) * log_q.exp() * (log_q - mixture.log()))

    monkeypatch.setattr(kernels, "_kernel", lambda: naive)
    with pytest.raises(AssertionError, match="nan"):
        kernels._compare(CPU, 0.5)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("liger_kernel", "triton")),
    reason="liger-kernel and triton are not installed",
)
def test_the_real_kernel_gives_what_the_formulas_give():
    """Interpreted by Triton, on the processor."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.losses.interpreted_kernels"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the kernel gives what the formulas give" in done.stdout
