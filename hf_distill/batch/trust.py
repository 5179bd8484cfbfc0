"""Values times the trust in what they are made of."""

from torch import Tensor


def trusted(values: Tensor, trust: Tensor, over: str, counted: Tensor) -> Tensor:
    """Each value times the trust in its prediction, or for others than predictions in its example's predictions.

    Args:
        values: as in `Batch.mean`, of one axis per counted thing; (batch, labels) where each label has a value.
        trust: 0 to 1, of the shape of `counted`, or (batch, labels).
        over: what the values are of.
        counted: which predictions count, bool.

    Returns:
        The shape of `values`.

    Raises:
        ValueError: `over` is ``"batch"``, whose value belongs to all rows.
    """
    if over == "batch":
        raise ValueError(
            "a value of the whole batch cannot be weighed row by row, and the teacher says how much each of its "
            "answers counts. Use losses that compare example by example."
        )
    if over in ("predictions", "targets") and values.shape == trust.shape:
        return values * trust
    if trust.dim() > counted.dim():  # one a label
        trust = trust.mean(-1)
    if over in ("examples", "tokens", "pairs"):
        kept = counted.reshape(len(counted), -1)
        trust = (trust.reshape(kept.shape) * kept).sum(1) / kept.sum(1).clamp(min=1)
        trust = trust.view(-1, *[1] * (values.dim() - 1))
    return values * trust
