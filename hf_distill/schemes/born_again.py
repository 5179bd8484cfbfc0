"""Born-again networks: every generation is taught by the one before it (Furlanello et al. 2018, arXiv:1805.04770)."""

from transformers import PreTrainedModel

from hf_distill.schemes.plan import Plan, scheme


@scheme
def born_again(plan: Plan, generations: int = 3) -> PreTrainedModel:
    """Trains generation after generation of one architecture, each from a fresh start and taught by the one before.

    Args:
        plan: its teacher teaches the first generation; where there is none, the first learns from the labels alone.
        generations: how many.

    Returns:
        The last generation.

    Raises:
        ValueError: fewer than one generation.
    """
    if generations < 1:
        raise ValueError(f"born_again: generations is {generations}; it must be at least 1.")
    teacher = plan.teacher
    for number in range(1, generations + 1):
        teacher = plan.stage(f"generation_{number}", plan.fresh(), teacher)
    return teacher
