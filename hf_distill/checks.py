"""What is refused before step 1: pairs of models that do not belong together, and data that they cannot read.

Each message names what was found and the call that cures it.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import datasets
import pyarrow.compute as pc
import transformers
from torch import nn

from hf_distill import anatomy
from hf_distill.tasks import Task, find_task

logger = logging.getLogger(__name__)

LABELS = ("labels", "label", "label_ids", "start_positions")
_LABELS_FROM_COLUMNS = (
    transformers.DefaultDataCollator,
    transformers.DataCollatorWithPadding,
    transformers.DataCollatorForTokenClassification,
    transformers.DataCollatorForSeq2Seq,
)


def check_teacher(teacher: nn.Module, student: nn.Module) -> None:
    """Refuses a teacher that cannot teach.

    Raises:
        ValueError: it has no weights (device `meta`), is in train mode, or shares weights with the student.
    """
    name = type(anatomy.unwrap(teacher)).__name__
    if any(parameter.is_meta for parameter in teacher.parameters()):
        raise ValueError(f"the teacher ({name}) has no weights: it is on device meta. Load it with from_pretrained.")
    if teacher.training:
        raise ValueError(f"the teacher ({name}) is in train mode, its dropout would teach noise. Call teacher.eval().")
    mine = {id(parameter) for parameter in student.parameters()}
    shared = next((name for name, parameter in teacher.named_parameters() if id(parameter) in mine), None)
    if shared is not None:
        raise ValueError(
            f"student and teacher share the weight {shared}, and a teacher is frozen. "
            "Pass teacher=copy.deepcopy(teacher)."
        )


def check_tasks(student: nn.Module, teacher: nn.Module) -> None:
    """Refuses two models that solve different problems.

    Raises:
        ValueError: their tasks differ, or both are classifiers and their numbers of labels differ.
    """
    mine, theirs = find_task(anatomy.unwrap(student)), find_task(anatomy.unwrap(teacher))
    if mine.per_example and theirs.per_example:
        _check_label_count(student, teacher)  # first: a single output reads as another task too
    if mine is not theirs and Task.EMBEDDING not in (mine, theirs):
        raise ValueError(
            f"the student solves {mine}, the teacher {theirs}. Give both the same head, and for classifiers the same "
            f"config.problem_type (student {anatomy.unwrap(student).config.problem_type!r}, "
            f"teacher {anatomy.unwrap(teacher).config.problem_type!r})."
        )


def label_order(student: nn.Module, teacher: nn.Module, label_map: str | None) -> list[int] | None:
    """How the teacher's logits are put in the student's order.

    Args:
        student: decides the order.
        teacher: its logits are reordered.
        label_map: ``"by_name"`` allows another order.

    Returns:
        For each of the student's labels the index of the teacher's; None where the order is the same.

    Raises:
        ValueError: another number of labels, other labels, or another order without ``"by_name"``.
    """
    mine = _check_label_count(student, teacher)
    ours, others = anatomy.named_labels(student), anatomy.named_labels(teacher)
    if ours is None or others is None or ours == others:
        return None
    differ = next(index for index in range(mine) if ours.get(index) != others.get(index))
    found = f"teacher id2label[{differ}] is {others.get(differ)!r}, student's is {ours.get(differ)!r}"
    if sorted(ours.values()) != sorted(others.values()) or len(set(ours.values())) < mine:
        raise ValueError(f"the labels differ: {found}. Load the student with id2label=teacher.config.id2label.")
    if label_map != "by_name":
        raise ValueError(f'label order differs: {found}. Pass label_map="by_name" to reorder the teacher\'s logits.')
    index_of = {name: index for index, name in others.items()}
    return [index_of[ours[index]] for index in range(mine)]


def _check_label_count(student: nn.Module, teacher: nn.Module) -> int:
    mine, theirs = (anatomy.unwrap(model).config.num_labels for model in (student, teacher))
    if mine != theirs:
        raise ValueError(
            f"the student has {mine} labels, the teacher {theirs}. Load the student with num_labels={theirs}."
        )
    return mine


def check_vocabulary(student: nn.Module, teacher: nn.Module, tokenizer: Any, teacher_tokenizer: Any) -> None:
    """Refuses two models that read different token ids; the rows that pad a vocabulary to a round number may differ.

    Args:
        student: its table of embeddings is measured.
        teacher: its table of embeddings is measured.
        tokenizer: the one that made the ids, or None.
        teacher_tokenizer: the teacher's own, or None where it has none beside its weights.

    Raises:
        ValueError: the vocabularies differ.
    """
    mine, theirs = anatomy.vocabulary(student), anatomy.vocabulary(teacher)
    cure = "Take a student with the teacher's tokenizer, for example students.keep_layers(teacher, ...)."
    known = all(hasattr(each, "get_vocab") for each in (tokenizer, teacher_tokenizer))
    differ = mine is not None and theirs is not None and mine != theirs
    if differ and not known:
        raise ValueError(
            f"the student's vocabulary has {mine} entries, the teacher's {theirs}. {cure} If only rows of padding "
            "differ, pass processing_class and teachers.ModelTeacher(teacher, tokenizer=...), so that it is known."
        )
    if not known:
        return
    ours, others = tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
    if ours != others:
        word = next(iter(sorted(set(ours.items()) ^ set(others.items()))))[0]
        raise ValueError(
            f"the tokenizers differ: {word!r} is {ours.get(word, 'missing')} in processing_class and "
            f"{others.get(word, 'missing')} in the teacher's tokenizer. {cure}"
        )
    if mine is not None and theirs is not None and mine != theirs:
        if max(ours.values()) >= min(mine, theirs):
            raise ValueError(
                f"the student's vocabulary has {mine} entries, the teacher's {theirs}, and their tokenizer's largest "
                f"token id is {max(ours.values())}. {cure}"
            )
        logger.info(
            "vocabularies of %d (student) and %d (teacher) entries have one tokenizer: the first %d are compared.",
            mine,
            theirs,
            min(mine, theirs),
        )


def check_takes_embeddings(student: nn.Module, teacher: nn.Module, what: str) -> None:
    """Refuses models that cannot both read the same embeddings, or are no classifiers of whole examples.

    Raises:
        ValueError: names what was found and the cure.
    """
    for who, model in (("student", student), ("teacher", teacher)):
        task, name = find_task(anatomy.unwrap(model)), type(anatomy.unwrap(model)).__name__
        if task not in (Task.SINGLE_LABEL, Task.MULTI_LABEL):
            raise ValueError(f"{what} are for classifiers of texts, and the {who} ({name}) solves {task}.")
        if anatomy.embedding_width(model) is None:
            raise ValueError(f"{what} are embeddings, and the {who} ({name}) takes no inputs_embeds.")
    mine, theirs = anatomy.embedding_width(student), anatomy.embedding_width(teacher)
    if mine != theirs:
        raise ValueError(
            f"{what} are embeddings: the student's are {mine} wide, the teacher's {theirs}. Make the student from the "
            "teacher (students.keep_layers, students.from_teacher)."
        )


def makes_labels(collator: Any) -> bool:
    """Whether labels may come out of a collator where no column holds them, as those of language models do."""
    collator = getattr(collator, "student", collator)  # of two views
    return collator is not transformers.default_data_collator and not isinstance(collator, _LABELS_FROM_COLUMNS)


def check_dataset(
    dataset: Any, models: Mapping[str, nn.Module | None], needs_labels: bool | str, name: str, view: str = ""
) -> None:
    """Refuses data that one of the models cannot read.

    Reads a `datasets.Dataset` without a transform; others are left to the first batch.

    Args:
        dataset: tokenised, with `input_ids`.
        models: {what messages call it: model} that read it; None where there is none.
        needs_labels: whether a loss asks for a column of labels; or who does.
        name: what messages call the data.
        view: prefix of the teacher's columns, where they are not the student's.

    Raises:
        ValueError: no columns of the teacher's view, no labels where they are needed, a sequence longer than a model
            takes, an id that it does not know.
    """
    if isinstance(dataset, Mapping):
        for split, each in dataset.items():
            check_dataset(each, models, needs_labels, f"{name}[{split!r}]", view)
        return
    if not isinstance(dataset, datasets.Dataset) or dataset.format["type"] == "custom":
        return
    columns = dataset.column_names
    if isinstance(needs_labels, str) and needs_labels and not set(LABELS) & set(columns):
        raise ValueError(
            f"{name} has no labels, only {', '.join(columns)}, and {needs_labels} asks for them. Add a labels column, "
            "or leave that out."
        )
    if needs_labels and not set(LABELS) & set(columns):
        raise ValueError(
            f"{name} has no labels, only {', '.join(columns)}, and TaskLoss asks for them. Add a labels column, or "
            "leave TaskLoss out of losses to learn from the teacher alone."
        )
    if "inputs_embeds" in columns and len(dataset):
        _check_embedded(dataset, models, name)
    if view and not any(column.startswith(view) for column in columns):
        raise ValueError(
            f"{name} has no column that begins with {view}, which the teacher reads, only {', '.join(columns)}. "
            "Encode what it reads with teachers.add_view."
        )
    measured: dict[str, tuple[int, int | None]] = {}
    for who, model in models.items():
        column = f"{view if who == 'teacher' else ''}input_ids"
        if model is None or column not in columns or not len(dataset):
            continue
        if column not in measured:
            ids = dataset.select_columns(column).with_format("arrow")[:][column]
            measured[column] = pc.max(pc.list_value_length(ids)).as_py(), pc.max(pc.list_flatten(ids)).as_py()
        _check_ids(*measured[column], model, who, name)


def _check_ids(longest: int, largest: int | None, model: nn.Module, who: str, name: str) -> None:
    """Refuses sequences that are too long for a model, and ids that it does not know."""
    positions, known = anatomy.max_positions(model), anatomy.vocabulary(model)
    if positions is not None and longest > positions:
        raise ValueError(
            f"{name} has a sequence of {longest} tokens, and the {who} takes {positions}. "
            f"Tokenise with truncation=True, max_length={positions}."
        )
    if known is not None and largest is not None and largest >= known:
        raise ValueError(
            f"{name} has token id {largest}, and the {who} knows {known} (0 to {known - 1}). "
            "Tokenise with that model's own tokenizer."
        )


def _check_embedded(dataset: datasets.Dataset, models: Mapping[str, nn.Module | None], name: str) -> None:
    """Refuses rows of embeddings that one of the models does not take."""
    if "input_ids" in dataset.column_names:
        raise ValueError(f"{name} has input_ids and inputs_embeds, and models read one of them. Remove a column.")
    first = dataset.select_columns("inputs_embeds").with_format("numpy")[0]["inputs_embeds"]
    length, width = len(first), len(first[0])
    for who, model in models.items():
        if model is None:
            continue
        takes, positions = anatomy.embedding_width(model), anatomy.max_positions(model)
        if takes != width:
            raise ValueError(
                f"{name} has embeddings of width {width}, and the {who} ({type(anatomy.unwrap(model)).__name__}) "
                f"takes {'none' if takes is None else f'a width of {takes}'}. They must come from one table: make the "
                "student from the teacher (students.keep_layers, students.from_teacher), or train on token ids."
            )
        if positions is not None and length > positions:
            raise ValueError(f"{name} has {length} embeddings in a row, and the {who} takes {positions}. Make fewer.")


def check_temperature(losses: Iterable[Any], mean: float | None, task: Task) -> None:
    """Refuses losses that soften a mean of several answers otherwise than the answers were softened.

    Args:
        losses: that look at it.
        mean: `Teacher.compared_at` of who says it.
        task: in regression nothing is softened.

    Raises:
        ValueError: a loss has another temperature.
    """
    if mean is None or task is Task.REGRESSION:
        return
    for loss in losses:
        name, own = type(loss).__name__, loss.config.get("temperature", mean)
        if loss.asks_teacher and own != mean:
            raise ValueError(
                f"the teacher's answers are averages of several at temperature={mean}, and {name} compares them at "
                f"{own}. Give both the same: {name}(temperature={mean}), or temperature={own} to who averages."
            )
