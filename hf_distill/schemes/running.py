"""How a scheme is run: rehearsed, carried out, finished."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers import PreTrainedModel

from hf_distill.schemes.plan import Plan


def scheme(function: Callable[..., PreTrainedModel]) -> Callable[..., PreTrainedModel]:
    """Makes a scheme of a function that takes a `Plan` and its own knobs and returns the student.

    It is rehearsed, carried out and finished; called inside of another scheme, it is a part of that one. `rehearse`,
    an attribute of it, takes the same arguments and raises what would be refused.
    """

    def named(plan: Plan, *args: Any, **knobs: Any) -> dict[str, Any]:
        given = inspect.signature(function).bind(plan, *args, **knobs)
        given.apply_defaults()
        return {name: value for name, value in given.arguments.items() if name != "plan"}

    def rehearse(plan: Plan, *args: Any, **knobs: Any) -> None:
        with plan.running(function.__name__, named(plan, *args, **knobs)), plan.rehearsal():
            function(plan, *args, **knobs)

    @wraps(function)
    def run(plan: Plan, *args: Any, **knobs: Any) -> PreTrainedModel:
        if plan.is_running:
            return function(plan, *args, **knobs)
        rehearse(plan, *args, **knobs)
        with plan.running(function.__name__, named(plan, *args, **knobs)):
            plan.begin()
            return plan.finish(function(plan, *args, **knobs))

    run.is_scheme, run.rehearse = True, rehearse  # type: ignore[attr-defined]
    return run
