"""At which temperature several answers are averaged: that of the losses which compare the mean."""

from collections.abc import Sequence
from typing import Any

from hf_distill.losses import DIST, Loss, SoftTargets
from hf_distill.losses.logits import LogitLoss


def shared(
    losses: Sequence[Loss] | None, given: float | None, otherwise: float, who: str, several: bool = True
) -> float:
    """The temperature of a mean of several answers.

    Args:
        losses: the plan's. Soft targets say it, and where there are none, other losses on logits with a temperature.
        given: to the scheme; None leaves it to the losses.
        otherwise: where neither says it.
        who: whom messages name.
        several: whether there may be more than one answer; losses may compare one at temperatures of their own.

    Raises:
        ValueError: one temperature is not that of another.
    """
    found = _of(losses or (), SoftTargets) or _of(losses or (), LogitLoss, DIST)
    if several and len(found) > 1:
        raise ValueError(
            f"{who} averages several answers at one temperature, and the plan's losses compare the mean at "
            f"{' and '.join(map(str, found))}. Give them one temperature."
        )
    if found and given is not None and given not in found:
        raise ValueError(
            f"{who}: answers are averaged at temperature={given}, and the plan's losses compare the mean at "
            f"{found[0]}. Leave temperature out, or give both the same."
        )
    if given is not None:
        return given
    return found[0] if found else otherwise


def _of(losses: Sequence[Loss], *kinds: type[Loss]) -> list[Any]:
    """The temperatures of such losses, from the smallest."""
    knobs = [loss.config for loss in losses if isinstance(loss, kinds)]
    return sorted({each["temperature"] for each in knobs if "temperature" in each})
