"""What a batch's tensors were before they were moved to a device: to look at these is not to wait for it.

Whoever moves a batch by `moved` leaves a copy behind for as long as the tensors on the device live. A tensor that
somebody has put in their place, or changed, is not known here, and what needs it asks the device.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

_KNOWN: Any = WeakIdKeyDictionary()  # {tensor on a device: (what it was moved from, how often it had been changed)}


def moved(inputs: Any, device: torch.device) -> Any:
    """A batch on another device, its tensors remembered. What is no mapping, or nested, stays where it is.

    Args:
        inputs: what the collator made; from pinned memory it is moved without waiting.
        device: where to.
    """
    if not isinstance(inputs, Mapping):
        return inputs
    there: dict[str, Any] = {name: _to(each, device) for name, each in inputs.items()}
    for name, each in inputs.items():
        if there[name] is not each:
            _KNOWN[there[name]] = each, there[name]._version
    return type(inputs)(there)  # type: ignore[call-arg]


def known(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """The same inputs in the host's memory; None where a tensor is not known there, or all are there anyway."""
    found = {name: _before(each) for name, each in inputs.items()}
    there = all(not isinstance(each, Tensor) or each.device.type == "cpu" for each in found.values())
    return found if there and any(found[name] is not each for name, each in inputs.items()) else None


def sent(values: Tensor, device: torch.device) -> Tensor:
    """From the host to a device, without waiting for what that is doing."""
    return values.to(device, non_blocking=device.type == "cuda")


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device, non_blocking=value.is_pinned()) if isinstance(value, Tensor) else value


def _before(value: Any) -> Any:
    before, version = _KNOWN.get(value, (value, None)) if isinstance(value, Tensor) else (value, None)
    return before if version is None or version == value._version else value
