"""The weighted terms of a run, added up: over steps while the student trains, over rows while it is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_distill.batch import Batch
from hf_distill.heads import HeadLogits
from hf_distill.signals import LOGITS, TRUST, Signals
from hf_distill.tasks import Task, agreement
from hf_distill.top_k import TopK


class TrainedTerms:
    """The terms since the last log, and whether everything was finite. Looking at them waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._since = 0
        self._teacher_finite: Tensor | bool = True

    def restart(self, step: int) -> None:
        """Forgets all; a training begins after this step."""
        self._sums, self._since, self._teacher_finite = {}, step, True

    def add(self, batch: Batch, terms: Mapping[str, Tensor], logits: Tensor | None, teacher: Signals) -> None:
        """Adds those of one micro-batch: its share of the step's mean. `trust` is the mean of how much the teacher's
        answers count, where it says so.
        """
        for name, term in {**terms, **_trust(batch, teacher)}.items():
            self._sums[name] = self._sums[name] + term if name in self._sums else term
        teacher_logits: Any = teacher.get(LOGITS)
        if isinstance(teacher_logits, HeadLogits):
            looked_at = [teacher_logits.hidden]
            if not batch.training and teacher_logits.weight is not None:  # the first step; weights do not change
                looked_at.append(teacher_logits.weight)
            for each in looked_at:
                self._teacher_finite = self._teacher_finite & each.isfinite().all()
        elif isinstance(teacher_logits, Tensor):  # a `TopK` was found finite when it was cached
            self._teacher_finite = self._teacher_finite & batch.align(teacher_logits).isfinite().all()

    def take(self, step: int, mean: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """{name: mean per step since the last log}, and starts anew.

        Args:
            step: the optimizer step that was just made.
            mean: over the processes.
        """
        if not self._sums:
            return {}
        means = mean(torch.stack(list(self._sums.values()))) / max(step - self._since, 1)
        taken = dict(zip(self._sums, means.tolist(), strict=True))
        self._sums, self._since = {}, step
        return taken

    def check_finite(self, step: int, grad_norm: Tensor | float | None) -> None:
        """Refuses to go on with numbers that are none.

        Args:
            step: the optimizer step that was just made.
            grad_norm: of that step; None where it may overflow.

        Raises:
            FloatingPointError: the teacher's logits, a term or the gradient is not finite.
        """
        if not self._teacher_finite:
            raise FloatingPointError(
                f"the teacher's logits are not finite by step {step}. Load it in float32, or check its weights."
            )
        broken = [name for name, term in self._sums.items() if not term.isfinite()]
        if not broken and grad_norm is not None and not torch.as_tensor(grad_norm).isfinite():
            broken = ["the gradient of the loss"]
        if broken:
            raise FloatingPointError(
                f"{', '.join(broken)} is not finite by step {step}; nothing was saved since. Lower learning_rate "
                "or the weight of that loss, or train in float32 or bfloat16."
            )


class EvaluatedTerms:
    """The terms of an evaluation and the agreement with the teacher, over every row once."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, batch: Batch, terms: Mapping[str, Tensor], logits: Tensor | None, teacher: Signals) -> None:
        """Adds those of one batch: each is a mean over its rows."""
        teacher_logits: Any = teacher.get(LOGITS)
        if isinstance(teacher_logits, TopK):
            teacher_logits = teacher_logits.whole()
        sums = torch.stack([*terms.values(), torch.ones_like(next(iter(terms.values())))]).float() * batch.rows
        if logits is None or teacher_logits is None or logits.shape != teacher_logits.shape:
            self._sums.append(sums)
            return
        if batch.task is not Task.REGRESSION:
            agreed = batch.per_example(agreement(batch.align(logits), batch.align(teacher_logits), batch.task))
            sums = torch.cat([sums, agreed.sum(0).to(sums)])
        self._sums.append(sums)

    def drop_last(self) -> None:
        """The rows of the last batch only filled it up; another process has them too."""
        if self._sums:
            self._sums[-1].zero_()

    def means(self, names: Iterable[str], total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """{name: mean over rows}, with `agreement` where student and teacher could be compared.

        Args:
            names: of the terms, in their order.
            total: the sum over the processes.
        """
        if not self._sums:
            return {}
        names = list(names)
        sums = total(torch.stack(self._sums).double().sum(0))
        means = dict(zip(names, (sums / sums[len(names)]).tolist(), strict=False))
        if len(sums) > len(names) + 1:
            means["agreement"] = float(sums[-2] / sums[-1].clamp(min=1))
        return means


def _trust(batch: Batch, teacher: Signals) -> dict[str, Tensor]:
    if TRUST not in teacher:
        return {}
    trust = teacher[TRUST].float()
    if trust.dim() > batch.predictions.dim():  # one a label
        trust = trust.mean(-1)
    return {"trust": batch.mean(trust, over="predictions")}
