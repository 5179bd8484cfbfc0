"""What a folder holds is not what is asked for: refused, with what differs and the cure."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.signals import LOGITS, RELATED, Signal
from hf_distill.teachers.cache.layout import Layout, top_k_of
from hf_distill.teachers.cache.manifest import difference


def check_same(folder: Path, cached: dict[str, Any], here: dict[str, Any]) -> None:
    """Refuses a folder with the answers of another teacher.

    Raises:
        ValueError: the first field that differs.
    """
    differs = difference(cached, here)
    if differs is not None:
        raise ValueError(f"{folder} holds the answers of another teacher: {differs}. Cache anew, in another folder.")


def check_top_k(folder: Path, layouts: Sequence[Layout], here: int | None) -> None:
    """Refuses a folder that keeps more or fewer logits of each position; one without logits is no matter.

    Raises:
        ValueError: it does.
    """
    cached = top_k_of(layouts)
    if cached != here and any(layout.signal == LOGITS for layout in layouts):
        found = "all logits" if cached is None else f"the {cached} largest logits"
        raise ValueError(
            f"{folder} holds {found} of each position, not top_k={here}. Pass top_k={cached} (in a recipe "
            f"cache_top_k: {'null' if cached is None else cached}), or cache anew, in another folder."
        )


def check_heads(
    folder: Path, cached: Mapping[Signal, int], here: Mapping[Signal, int], heads: int, wanted: Iterable[str]
) -> None:
    """Refuses a folder that keeps averages over heads where a loss needs each, or other averages; and one that keeps
    relations of queries, keys or values where a loss needs the states, or relations in other heads.

    Args:
        folder: of the cache.
        cached: of how many groups of heads it keeps the averages, and in how many heads relations.
        here: of how many they are enough; of others each head is needed, or the states.
        heads: of the teacher.
        wanted: names of the signals that are asked for.

    Raises:
        ValueError: it does.
    """
    for signal, groups in cached.items():
        if str(signal) not in wanted:
            continue
        if signal.kind in RELATED:
            if here.get(signal) != groups:
                needs = f"them in {here[signal]}" if signal in here else "more of it than relations"
                raise ValueError(
                    f"{folder} holds the relations of {signal} in {groups} heads, and the losses need {needs}. Cache "
                    "anew, in another folder."
                )
            continue
        needed = here.get(signal, heads)
        if groups < heads and groups != needed:
            raise ValueError(
                f"{folder} holds {signal} averaged over {groups} group(s) of its {heads} heads, and the losses need "
                f"{needed}. Cache anew, in another folder."
            )
