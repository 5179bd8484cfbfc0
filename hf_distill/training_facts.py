"""What a trainer knows for a model card, before anything was measured."""

from importlib.metadata import version
from typing import Any

from transformers import Trainer

from hf_distill import anatomy, privacy
from hf_distill.card import CardFacts
from hf_distill.losses.schedules import Weight
from hf_distill.teachers import Teacher
from hf_distill.teachers.given import everybody, name_of


def training_facts(trainer: Trainer) -> CardFacts:
    """Labels, losses, settings and versions of a `DistillationTrainer`.

    Args:
        trainer: read, and left as it is.
    """
    student, args = anatomy.unwrap(trainer.model), trainer.args
    shape, names = anatomy.describe(student), anatomy.named_labels(student)
    learning = filter(None, [adapters_of(trainer.model)])
    precision = trainer.accelerator.mixed_precision
    return CardFacts(
        task=str(trainer.task),
        student=", ".join([f"{type(student).__name__}, {shape.layers} layers, width {shape.width}", *learning]),
        **teacher_facts(trainer.teacher),
        losses=[loss_facts(loss) for loss in trainer.objective],
        labels=[names[index] for index in sorted(names)] if names else [],
        train_split="train",
        train_rows=len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None,
        steps=trainer.state.global_step,
        epochs=trainer.state.epoch,
        batch_size=args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        learning_rate=args.learning_rate,
        precision=precision if precision != "no" else "float32",
        seed=args.seed,
        device=args.device.type,
        versions={name: version(name) for name in ("hf-distill", "transformers", "torch", "datasets")},
    )


def teacher_facts(teacher: Teacher) -> dict[str, Any]:
    """`teacher` and `taught_by` of a card.

    Args:
        teacher: whoever teaches; the models inside are told by their ids, or where they have none, by what they are.
    """
    inside = [each for each in everybody(teacher) if not each.members]
    told = list(dict.fromkeys(each.known_as for each in (teacher, *inside) if each.known_as))
    models = {id(model): model for each in inside if not each.known_as for model in each.models}
    names = [name_of(model) for model in models.values()]
    if told:
        return {"teacher": None, "taught_by": " and ".join([*told, *map(privacy.last_name, names)])}
    return {"teacher": names or None, "taught_by": None}


def adapters_of(model: Any) -> str:
    """What PEFT lets learn of a model, to be said after its name; "" where all of it learns."""
    if not hasattr(model, "get_nb_trainable_parameters"):
        return ""
    trained, _ = model.get_nb_trainable_parameters()
    return f"{trained:,} weights trained ({model.active_peft_config.peft_type.value})"


def loss_facts(loss: Any) -> dict[str, Any]:
    """A loss as a card tells it: name, weight, config and citation; a weight that changes is told in words."""
    return {
        "name": type(loss).__name__,
        "weight": _weight(loss.weight),
        "config": loss.config,
        "citation": loss.citation,
    }


def _weight(weight: Weight) -> float | str:
    if not callable(weight):
        return weight
    return "a function of progress" if type(weight).__str__ is object.__str__ else str(weight)
