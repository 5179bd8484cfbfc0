"""What an example is called in a cache: a hash of exactly what the teacher reads of it, padding left out."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor

from hf_distill import checks
from hf_distill.batch import Batch
from hf_distill.batch.masks import spans_of

LABELS = frozenset({*checks.LABELS, "end_positions"})


def names_of(accepted: Iterable[str], inputs: Mapping[str, Any]) -> list[str]:
    """The inputs of a batch that a model reads; labels are none.

    Args:
        accepted: the arguments of its forward.
        inputs: what the collator made.
    """
    read = set(accepted) - LABELS
    return sorted(name for name, value in inputs.items() if name in read and isinstance(value, Tensor) and value.dim())


def other_inputs(cached: Iterable[str], here: Iterable[str]) -> str:
    """What is said where a model reads other inputs than when its answers were cached."""
    return (
        f"the teacher read {', '.join(cached)} when its answers were cached, and of this batch it reads "
        f"{', '.join(here)}. Make the batches as they were, or cache anew, in another folder."
    )


def counted_of(batch: Batch) -> Tensor | None:
    """The positions whose logits count, bool (batch, tokens): those with a label, or without labels all attended ones.

    None where answers are not beside the tokens, and are kept whole.
    """
    return None if batch.tokens is None else batch.counted_positions(batch.tokens[..., None])


def keys_of(
    inputs: Mapping[str, Any], names: Iterable[str], tokens: Tensor | None, counted: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The keys of a batch, and where in it each example lies.

    Two rows have the same key if the teacher reads the same there, wherever the padding is and however much of it, and
    the same positions count.

    Args:
        inputs: what the collator made.
        names: the inputs that the teacher reads, from `names_of`.
        tokens: attended positions, bool (batch, tokens); None where the inputs have none, and all of a row counts.
        counted: from `counted_of` where only the logits that count are stored; None where they are stored whole.

    Returns:
        keys: (batch, 2), uint64; spans: (batch, 2), the first attended position and the one after the last.
    """
    parts = {name: _plain(inputs[name]) for name in sorted(names)}
    rows = len(next(iter(parts.values())))
    spans = np.zeros((rows, 2), np.int64) if tokens is None else spans_of(tokens).cpu().numpy()
    beside_tokens = {name: tokens is not None and part.shape[:2] == tokens.shape for name, part in parts.items()}
    kept = None if counted is None else counted.cpu().numpy()
    keys = np.empty((len(spans), 2), np.uint64)
    for row, (start, end) in enumerate(spans):
        key = blake2b(digest_size=16)
        for name, part in parts.items():
            read = part[row, start:end] if beside_tokens[name] else part[row]
            key.update(f"{name} {read.dtype} {read.shape}".encode())
            key.update(np.ascontiguousarray(read).data)
        if kept is not None:
            key.update(b"counted" + kept[row, start:end].tobytes())
        keys[row] = np.frombuffer(key.digest(), np.uint64)
    return keys, spans


def _plain(values: Tensor) -> np.ndarray:
    """Numbers that do not depend on how wide the collator made them."""
    wide = values.float() if values.is_floating_point() else values.long()
    found: np.ndarray = wide.detach().cpu().numpy()
    return found
