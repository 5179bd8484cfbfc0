"""Liger's real kernel against the formulas by hand, on the processor: `TRITON_INTERPRET=1 python -m` this file.

Triton reads the variable when it is imported, so this runs in a process of its own.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.losses import GeneralizedJSD, ReverseKL, SoftTargets, TaskLoss, fused, kernels
from hf_distill.signals import LOGITS
from hf_distill.tasks import Task

from .contract import randn


def by_hand(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    """beta KL(P || M) + (1 - beta) KL(Q || M), or the KL at either end, in float64."""
    log_q = (student.double() / temperature).log_softmax(-1)
    log_p = (teacher.double() / temperature).log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    if beta == 0:
        return (p * (log_p - log_q)).sum(-1)
    if beta == 1:
        return (q * (log_q - log_p)).sum(-1)
    log_m = (beta * p + (1 - beta) * q).log()
    return (beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)).sum(-1)


def compare_values() -> None:
    """Fewer classes than a block, one block, and more than one; rows that count differently in the sum."""
    shapes, betas, temperatures = [(1, 2), (5, 37), (3, 4096), (2, 9001)], [0.0, 0.1, 0.5, 0.9, 1.0], [1.0, 2.0, 0.5]
    for (rows, classes), beta, temperature in itertools.product(shapes, betas, temperatures):
        for dtype in (torch.float32, torch.bfloat16):
            student, teacher = (3 * randn(rows, classes, seed=seed).to(dtype) for seed in (1, 2))
            upstream = randn(rows, seed=3)
            student.requires_grad_()
            found = kernels.jsd_by_kernel(student, teacher, beta, temperature)
            plain = by_hand(student, teacher, beta, temperature)
            torch.testing.assert_close(found.double(), plain, rtol=1e-4, atol=1e-5)
            mine, theirs = (
                torch.autograd.grad((each * upstream).sum(), student)[0].float() for each in (found, plain)
            )
            torch.testing.assert_close(mine, theirs, rtol=1e-4 if dtype is torch.float32 else 1e-2, atol=1e-6)
    assert kernels.jsd_by_kernel(randn(0, 37), randn(0, 37), 0.5, 1.0).shape == (0,)
    kernels._compare(torch.device("cpu"), 0.5)


def compare_terms() -> None:
    """From hidden states and head weights to the terms of a step, by the kernel and by the formulas."""
    rows = torch.tensor([0, 1, 3, 4, 5, 8, 9])
    labels = torch.full((10,), -100).index_copy(0, rows, torch.arange(7)).view(2, 5)
    batch = Batch({"input_ids": labels.clamp(min=0), "labels": labels}, Task.MASKED_LM, counted_only=True)
    losses = {
        "task": TaskLoss(),
        "soft": SoftTargets(3.0),
        "reverse": ReverseKL(chunk_size=3),
        "jsd": GeneralizedJSD(),
    }
    student = [randn(7, 4).requires_grad_(), randn(50, 4, seed=1).requires_grad_(), randn(50, seed=2).requires_grad_()]
    head = HeadLogits.placed(HeadLogits.of(*student), rows, torch.Size((2, 5)))
    teacher = HeadLogits.placed(F.linear(randn(7, 6, seed=3), randn(50, 6, seed=4)), rows, torch.Size((2, 5)))
    results, serves = [], kernels._serves
    for by_kernel in (True, False):
        kernels._serves = lambda *_, by_kernel=by_kernel: by_kernel
        terms = fused.terms_on_counted(losses, dict.fromkeys(losses, 0.5), head, {LOGITS: teacher}, batch)
        results.append((terms, torch.autograd.grad(torch.stack(list(terms.values())).sum(), student)))
    kernels._serves = serves
    torch.testing.assert_close(*results)


if __name__ == "__main__":
    compare_values()
    compare_terms()
    print("the kernel gives what the formulas give")
