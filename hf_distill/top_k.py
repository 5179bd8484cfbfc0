"""The largest logits of a position, and all others as one class more: what is kept of a large vocabulary."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopK:
    """What a teacher says of `LOGITS` where it kept the k largest of every position.

    The others are one class, whose logit is the logarithm of their summed exponentials. A softmax over the k + 1 is
    therefore the teacher's own distribution with the others added up, at temperature 1. A temperature divides these
    k + 1 logits on both sides: above 1 that is not the whole distribution softened and then added up.

    Args:
        logits: (..., k + 1): the k largest, then that of the rest.
        classes: which classes the k are, (..., k), int64.
        of: how many classes there are, more than k.
    """

    logits: Tensor
    classes: Tensor
    of: int

    def renamed(self, order: Tensor | None) -> "TopK":
        """The same with the classes in another order.

        Args:
            order: for each new class the old one, (of,); None changes nothing.
        """
        return self if order is None else TopK(self.logits, order.argsort()[self.classes], self.of)

    def rows(self, index: Tensor) -> "TopK":
        """Of some positions, counted over all axes but the last: (chosen, ...)."""
        logits, classes = (each.flatten(0, -2).index_select(0, index) for each in (self.logits, self.classes))
        return TopK(logits, classes, self.of)

    def beside(self, student: Tensor, rest: Tensor | None = None) -> Tensor:
        """Another model's logits of the same classes, and of the rest: (..., all classes) -> (..., k + 1).

        Args:
            student: logits of the same positions.
            rest: from `rest_of`, where it is known.
        """
        rest = rest_of(student, self.classes) if rest is None else rest
        return torch.cat([student.gather(-1, self.classes).float(), rest[..., None]], -1)

    def whole(self) -> Tensor:
        """Logits of all classes, (..., of): the probability of the rest is spread evenly. The largest stay so."""
        each = self.logits[..., -1:] - torch.tensor(float(self.of - self.classes.shape[-1])).log().item()
        spread = each.expand(*self.classes.shape[:-1], self.of)
        return spread.scatter(-1, self.classes, self.logits[..., :-1])


def largest(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of every position in falling order, and the rest as one.

    Args:
        logits: (..., classes), more than k.
        k: at least 1.

    Returns:
        (..., k + 1) and (..., k), as in `TopK`.
    """
    values, classes = logits.topk(k, dim=-1)
    return torch.cat([values, rest_of(logits, classes)[..., None]], -1), classes


def rest_of(logits: Tensor, classes: Tensor, kept: Tensor | None = None) -> Tensor:
    """The logarithm of the summed exponentials of all but some classes.

    Args:
        logits: (..., all classes).
        classes: those that are left out, (..., k).
        kept: the positions that count, bool (...); what the others hold is read as 0.

    Returns:
        (...), float32.
    """
    logits = logits.float()
    if kept is not None:
        logits = torch.where(kept[..., None], logits, 0.0)
    return logits.scatter(-1, classes, -torch.inf).logsumexp(-1)
