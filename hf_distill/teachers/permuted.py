"""Dark knowledge with permuted predictions: the teacher's best class stays, the others are shuffled."""

from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache.keys import LABELS, keys_of, names_of
from hf_distill.teachers.other_view import check_outside
from hf_distill.teachers.wrapper import Wrapper


class PermutedTeacher(Wrapper):
    """Keeps the largest logit of every answer in its place, and gives the others to the other classes by lot.

    A student then learns how sure the teacher is, and nothing of which classes are alike: what is lost by it is what
    the similarities were worth. While the student trains only; an evaluation hears the teacher as it is.

    The lot belongs to the example, the step and `seed`: it is the same whether a step's examples come at once,
    accumulated or on several processes, and after a resume.

    Args:
        teacher: who is permuted: a model in eval mode, its id, or a `Teacher`.
        seed: of the lots.

    Reference: Furlanello et al. 2018, arXiv:1805.04770, dark knowledge with permuted predictions.
    Differs from the paper: logits are permuted, which permutes the probabilities of any temperature alike.
    """

    def __init__(self, teacher: nn.Module | Teacher | str, seed: int = 0) -> None:
        super().__init__(teacher)
        self.seed = seed

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: the answers are no choice of one class, or not all logits are known; an `OtherView` is inside.
        """
        check_outside(self)
        task = find_task(anatomy.unwrap(student))
        if task in (Task.MULTI_LABEL, Task.REGRESSION, Task.SPAN, Task.EMBEDDING):
            raise ValueError(
                f"PermutedTeacher keeps the best class and permutes the others, and the task is {task}. Leave it out."
            )
        if self.top_k is not None and LOGITS in wanted:
            raise ValueError(
                f"PermutedTeacher permutes all logits, and the {self.top_k} largest are known. Cache without top_k."
            )
        super().prepare(student, wanted, device, tokenizer)

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`."""
        seen = self.teacher.observe(batch)
        if LOGITS not in seen or not torch.is_grad_enabled():  # an evaluation
            return seen
        return {**seen, LOGITS: self._permuted(seen[LOGITS], batch)}

    def _permuted(self, logits: Tensor, batch: Batch) -> Tensor:
        best = logits.argmax(-1, keepdim=True)
        drawn = self._lots(logits.shape, batch).to(logits.device)
        givers = drawn.scatter(-1, best, -1.0).argsort(-1)  # the best class, then the others by lot
        takers = torch.ones_like(drawn).scatter(-1, best, 0.0).argsort(dim=-1, stable=True)  # then the others in order
        return torch.zeros_like(logits).scatter(-1, takers, logits.gather(-1, givers))

    def _lots(self, shape: torch.Size, batch: Batch) -> Tensor:
        """A number between 0 and 1 for each class of each attended position, whatever padding is around."""
        lots = torch.zeros(shape)
        names = names_of(self.input_names, batch.inputs) or names_of(set(batch.inputs) - LABELS, batch.inputs)
        keys, spans = keys_of(batch.inputs, names, batch.tokens)
        for row, key in enumerate(keys):
            digest = blake2b(f"{batch.seed} {self.seed} ".encode() + key.tobytes(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            kept = lots[row, spans[row, 0] : spans[row, 1]] if len(shape) == 3 else lots[row]
            kept.uniform_(generator=generator)
        return lots
