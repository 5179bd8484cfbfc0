"""Which checkpoint a stage ends with: fields of the configuration for `Plan.stage(args=...)`."""

from typing import Any

from hf_distill.schemes.plan import Plan


def by_best(plan: Plan) -> dict[str, Any]:
    """What makes a stage end with its best checkpoint, by `metric_for_best_model` or by the loss.

    Of several evaluation sets the loss is that of the first.

    Args:
        plan: where it has no `eval_dataset`, or says itself which checkpoint it wants, nothing is changed.

    Raises:
        ValueError: several evaluation sets, and a metric that names none of them.
    """
    args = plan.args
    if args.load_best_model_at_end or plan.trainer_kwargs.get("eval_dataset") is None:
        return {}
    every = "epoch" if args.eval_strategy == "no" else args.eval_strategy
    metric = args.metric_for_best_model or _loss(plan)
    _check_named(plan, metric)
    upwards = not metric.endswith("loss") if args.greater_is_better is None else args.greater_is_better
    return {
        "load_best_model_at_end": True,
        "eval_strategy": every,
        "save_strategy": every,
        "save_steps": args.eval_steps or args.save_steps,
        "save_total_limit": args.save_total_limit or 1,  # beside the best one
        "metric_for_best_model": metric,
        "greater_is_better": upwards,
    }


def by_last(plan: Plan) -> dict[str, Any]:
    """What makes a stage end with its last weights, where no quality says yet which checkpoint is best.

    A metric of the plan's may be one of another stage, and the Trainer asks for it in every evaluation: the loss,
    which each stage has, takes its place.

    Args:
        plan: its settings are those of the stages that come later.
    """
    found: dict[str, Any] = {"load_best_model_at_end": False}
    if plan.args.metric_for_best_model is None:
        return found
    return {**found, "metric_for_best_model": _loss(plan), "greater_is_better": False}


def _names(plan: Plan) -> list[str]:
    """Of the evaluation sets, where there are several: the Trainer puts them before what it measured."""
    several = plan.trainer_kwargs.get("eval_dataset")
    return [str(name) for name in several] if isinstance(several, dict) else []


def _loss(plan: Plan) -> str:
    return "_".join([*_names(plan)[:1], "loss"])


def _check_named(plan: Plan, metric: str) -> None:
    names, bare = _names(plan), metric.removeprefix("eval_")
    if names and not any(bare.startswith(f"{name}_") for name in names):
        raise ValueError(
            f"metric_for_best_model is {metric!r}, and there are several evaluation sets: {', '.join(names)}. Say "
            f'whose it is: "{names[0]}_{bare}".'
        )
