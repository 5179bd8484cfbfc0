"""Divergences before a vocabulary by Liger's Triton kernel, where the logits are on a GPU and Liger is installed.

The formulas in `soft_targets` and `divergences` say what is computed, and compute it everywhere else. The kernel works
inside our chunks, on logits: those that take both whole heads (Liger's fused losses, TRL's) serve one loss each, and
could not share a pass over the head with others, nor read a teacher's stored logits.
"""

import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_distill.losses.base import PositionLoss
from hf_distill.losses.divergences import GeneralizedJSD, ReverseKL, generalized_jsd
from hf_distill.losses.soft_targets import SoftTargets

logger = logging.getLogger(__name__)

SWITCH = "HF_DISTILL_LIGER"  # the environment variable that turns the kernel off, at "0"


def formula_of(loss: PositionLoss, device: torch.device) -> Callable[..., Tensor]:
    """What gives a loss's values of some positions: its own `values`, or the kernel where that gives the same.

    Args:
        loss: of a compiled one the values stay its own: the compiler makes a kernel of them.
        device: where the logits are.

    Returns:
        (positions, classes) twice -> (positions,). By the kernel it is differentiated once only.
    """
    known = _as_jsd(loss)
    if known is None or not _serves(device, known[0]):
        return loss.values
    beta, temperature, factor = known
    return lambda student, teacher, *more: jsd_by_kernel(student, teacher, beta, temperature) * factor


def jsd_by_kernel(student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
    """`generalized_jsd`, by the kernel.

    Args:
        student: logits, (positions, classes).
        teacher: logits, (positions, classes).
        beta: 0 for KL(teacher || student), 1 for KL(student || teacher), or between them.
        temperature: divides both.

    Returns:
        (positions,), float32. It is differentiated once only.

    Raises:
        ImportError: Liger is not there.
    """
    return _ByKernel.apply(student, teacher, beta, temperature)  # type: ignore[no-untyped-call, no-any-return]


def _as_jsd(loss: PositionLoss) -> tuple[float, float, float] | None:
    """beta, temperature, and a factor, where the values of a loss are that multiple of a `generalized_jsd`."""
    values = vars(loss).get("values", type(loss).values)  # compiled ones, and those of a subclass, are others
    if isinstance(loss, SoftTargets) and values is SoftTargets.values and not loss.standardize:
        return 0.0, loss.temperature, loss.temperature**2
    if isinstance(loss, ReverseKL) and values is ReverseKL.values:
        return 1.0, loss.temperature, loss.temperature**2
    if isinstance(loss, GeneralizedJSD) and values is GeneralizedJSD.values:
        return float(loss.beta), loss.temperature, 1.0
    return None


def _kernel() -> Callable[..., tuple[Tensor, Tensor]]:
    """Log-probabilities of student and teacher -> (loss of every class, its gradient by the student's).

    The inner step of Liger's own losses: those give a mean over positions and wait for the GPU in backward. The Triton
    one by name, since Liger may choose others that were not compared.
    """
    from liger_kernel.ops.backends._triton.jsd import jsd_loss_and_grad_triton

    return jsd_loss_and_grad_triton  # type: ignore[no-any-return]


class _ByKernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, beta: float, temperature: float) -> Tensor:
        log_q = F.log_softmax(student.float() / temperature, dim=-1)
        log_p = F.log_softmax(teacher.float() / temperature, dim=-1)
        q = log_q.exp()
        with torch.cuda.device_of(log_q):  # type: ignore[no-untyped-call]  # Triton launches on the current device
            # no labels, and a sum over positions, not a mean; the gradient is written over log_q
            by_class, gradient = _kernel()(log_q, log_p, None, beta, 0, 1.0)
        gradient.sub_(q.mul_(gradient.sum(-1, keepdim=True))).div_(temperature)  # from log-probabilities to logits
        ctx.save_for_backward(gradient)
        ctx.dtype = student.dtype
        return by_class.sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (upstream[:, None] * gradient).to(ctx.dtype), None, None, None


@cache
def _serves(device: torch.device, beta: float) -> bool:
    """Whether there is a kernel for the device; before its first use it must give there what the formula gives."""
    if device.type != "cuda" or os.environ.get(SWITCH) == "0":
        return False
    try:
        _kernel()
        _compare(device, beta)
    except ModuleNotFoundError:
        return False
    except Exception as error:  # whatever Liger or Triton raise, there is a formula that works
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        logger.warning(
            f"Liger's kernel is not used: on {device} it does not give what the formula gives ({reason}). "
            f"Change the version of liger-kernel, or set {SWITCH}=0 to leave it aside."
        )
        return False
    logger.info(f"Divergences over the vocabulary are computed by Liger's kernel. Set {SWITCH}=0 to turn it off.")
    return True


def _compare(device: torch.device, beta: float) -> None:
    """Raises where the kernel and the formula differ: over more than one of its blocks, and where exp underflows."""
    drawn = torch.randn(2, 4, 5000, generator=torch.Generator().manual_seed(0)).to(device)
    spread = torch.tensor([[1.0], [3.0], [50.0], [200.0]], device=device)
    results = []
    for formula in (jsd_by_kernel, generalized_jsd):
        with torch.enable_grad():
            student = (drawn[0] * spread).requires_grad_()
            values = formula(student, drawn[1] * spread, beta, 2.0)
            results.append((values.detach(), *torch.autograd.grad(values.sum(), student)))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
