"""Every scheme against soft targets alone: same student, same steps of it, which ones help, and what they cost.

    python examples/benchmarks/schemes.py                          # all schemes, two seeds
    python examples/benchmarks/schemes.py --seeds 0 --runs born_again mutual
    python examples/benchmarks/schemes.py --seeds                  # only the tables, from the runs that are there

What is learned is in `fields.py`: the intents of 4,000 queries (CLINC150) for most schemes, the categories of
drawings for pairs of modalities, clothes and the next word where students have learned nothing yet, and embeddings of
sentences where there are no labels at all. Every student that is measured takes as many optimizer steps as the other
ones of its field; what a scheme needs beside that (assistants, generations, peers, samples) is in its time, which is
the processor's, over that of the field's first reference. `unlabelled` has further 4,000 queries without labels. A
run that is finished is not made again.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from fields import SHARED, Clothes, CutOut, Drawings, Field, Queries, Remembering, Sentences, Words, logits_of
from measuring import draw_bars, show
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_distill import losses, schemes, teachers
from hf_distill.augment import word_dropout
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS

Run = Callable[[Any, Path], nn.Module]
ALONE = ", alone: accuracy"  # what is noted of something that nobody taught

# ---- the runs of every field ---------------------------------------------------------------------------------------


def alone(field: Field, folder: Path, teacher: Any, terms: Any = None, **more: Any) -> nn.Module:
    """One training of the student."""
    student = field.student()
    field.trainer(student, teacher, terms, folder, **more).train()
    return student


def by_labels(field: Field, folder: Path) -> nn.Module:
    return alone(field, folder, teachers.Nobody(), [losses.TaskLoss()])


def scheme(name: str, **knobs: Any) -> Run:
    """A scheme with the losses that a plan has by default."""

    def carried_out(field: Any, folder: Path) -> nn.Module:
        return getattr(schemes, name)(field.plan(folder, field.teacher()), **knobs)

    return carried_out


def generations(**knobs: Any) -> Run:
    """Each with a head of its own."""

    def carried_out(field: Any, folder: Path) -> nn.Module:
        return schemes.born_again(field.plan(folder, field.teacher(), student=field.another), **knobs)

    return carried_out


def born_of_labels(generations: int = 3, weighting: Any = "none") -> Run:
    """Notes how good generations are, and alone, by the labels, the same starts: one by one, and all together."""

    def carried_out(field: Field, folder: Path) -> nn.Module:
        plan, together = field.plan(folder, None, student=field.another), weighting == "none"
        student = schemes.born_again(plan, generations, weighting, ensemble=together)
        with field.aside():
            numbers = range(1, generations + 1)
            born = [teachers.load(str(folder / f"generation_{number}")) for number in numbers]
            untaught = [_untaught(field, number, folder, seed=field.seed + number - 1) for number in numbers[1:]]
            known: dict[str, nn.Module] = {f"generation {number}": each for number, each in enumerate(born, 1)}
            known |= {f"generation {number}, alone": each for number, each in enumerate(untaught, 2)}
            if together:
                known["all generations"] = Observed(teachers.EnsembleTeacher(born), field)
                known["all generations, alone"] = Observed(teachers.EnsembleTeacher([born[0], *untaught]), field)
            for name, model in known.items():
                field.noted |= {f"{name}: {what}": value for what, value in field.measure(model).items()}
        return student

    return carried_out


def _untaught(field: Field, number: int, folder: Path, **settings: Any) -> nn.Module:
    """What becomes of the student that a plan makes as its first, second, ... by the labels alone."""
    set_seed(field.seed + number)  # as a plan does
    start = field.another()
    field.trainer(start, teachers.Nobody(), [losses.TaskLoss()], folder / f"untaught_{number}", **settings).train()
    return start.eval()


def two_peers(field: Field, folder: Path) -> nn.Module:
    """Notes how good both students get, and each alone, by the labels."""
    student = schemes.mutual(field.plan(folder, None, student=field.another), students=2, start="given")
    with field.aside():
        known = {"student": student, "peer": teachers.load(str(folder / "peer_2"))}
        known |= {f"{name}, alone": _untaught(field, number, folder) for number, name in enumerate(list(known), 1)}
        for name, model in known.items():
            field.noted |= {f"{name}: {what}": value for what, value in field.measure(model).items()}
    return student


class Observed(nn.Module):
    """A teacher, called like a model."""

    def __init__(self, teacher: teachers.Teacher, field: Field) -> None:
        super().__init__()
        self.teacher, self.task = teacher, field.task
        teacher.prepare(field.student(), frozenset({LOGITS}), torch.device("cpu"), None)

    def forward(self, **inputs: Tensor) -> Any:
        said = self.teacher.observe(Batch(inputs, self.task))
        return SequenceClassifierOutput(logits=said[LOGITS])


# ---- queries -------------------------------------------------------------------------------------------------------


def by_soft_targets(field: Queries, folder: Path) -> nn.Module:
    """Labels and soft targets in equal parts, as by default."""
    return alone(field, folder, field.teachers[0])


def by_nothing_else(field: Queries, folder: Path) -> nn.Module:
    return alone(field, folder, field.teachers[0], [losses.SoftTargets()])


def by_many(field: Queries, folder: Path) -> nn.Module:
    """Both teachers, their answers and the order of the distances that both of them see."""
    return schemes.multi_teacher_triplet(field.plan(folder, teachers.EnsembleTeacher(field.teachers)))


def by_ensemble(field: Queries, folder: Path) -> nn.Module:
    return alone(field, folder, teachers.EnsembleTeacher(field.teachers))


def boundary(field: Queries, folder: Path) -> nn.Module:
    """Half as many moves as by default, of half of a batch: each is a pass of the teacher, forward and backward."""
    return schemes.adversarial(field.plan(folder, field.teachers[0]), most=16, iterations=5)


def more_rows(field: Queries, folder: Path) -> nn.Module:
    """Labelled and unlabelled rows, half the epochs: as many steps."""
    rows = schemes.combine(field.train, field.unlabelled)
    plan = field.plan(folder, field.teachers[0], train_dataset=rows)
    plan.args.num_train_epochs = field.arguments.epochs * len(field.train) / len(rows)
    return schemes.unlabelled(plan, labels="where known")


def no_text(source: str, share: float = 1.0, **knobs: Any) -> Callable[[Queries, Path], nn.Module]:
    """Without a single query. A share of the rows is seen the more often."""

    def carried_out(field: CutOut, folder: Path) -> nn.Module:
        plan = field.plan(folder, field.teachers[0], train_dataset=None)
        plan.args.num_train_epochs /= share
        return schemes.data_free(plan, source=source, rows=int(field.arguments.rows * share), length=16, **knobs)

    return carried_out


def with_copies(field: Queries, folder: Path) -> nn.Module:
    """One copy of each row with words replaced, and half the epochs: as many steps."""
    plan = field.plan(folder, field.teachers[0])
    plan.args.num_train_epochs /= 2
    return schemes.two_stage(plan, share=0.5, samples=1)


def of_queries(field: CutOut, folder: Path) -> nn.Module:
    """Soft targets of the queries."""
    return alone(field, folder, field.teachers[0], [losses.SoftTargets()])


def both_learn(field: Queries, folder: Path) -> nn.Module:
    """The teacher starts as the encoder that it was before it was fine-tuned."""
    set_seed(field.seed)
    return schemes.online(field.plan(folder, field.encoder()), learning_rate=1e-4)


def with_exits(make: Callable[[Queries], nn.Module], exits: list[int]) -> Run:
    """Notes how good each exit is, beside the same one trained alone and one that only learns the labels here."""

    def carried_out(field: Queries, folder: Path) -> nn.Module:
        plan = field.plan(folder / "taught", None, student=lambda: make(field))
        student = schemes.be_your_own_teacher(plan, exits, keep_exits=True)
        with field.aside():
            taught = schemes.EarlyExit.from_pretrained(folder / "taught")
            untaught = _trained_exits(field, make(field), [losses.TaskLoss()], exits, folder / "untaught")
            for exit in exits:
                single = _trained_exits(field, make(field), [], [exit], folder / f"exit_{exit}")
                known = {f"exit {exit}": taught, f"exit {exit}, of labels": untaught, f"exit {exit}, alone": single}
                for name, model in known.items():
                    field.noted[f"{name}: accuracy"] = accuracy_of_exit(model, exit, field)
        return student

    return carried_out


def _trained_exits(field: Queries, student: Any, terms: Any, exits: list[int], folder: Path) -> schemes.EarlyExit:
    """Exits that learn the labels, not from the last block."""
    trainer = field.trainer(
        student, teachers.Nobody(), [*terms, losses.SelfExits(exits, alpha=0, hint_weight=0)], folder
    )
    trainer.train()
    return schemes.EarlyExit(trainer.model, trainer.objective.losses["self_exits"])


@torch.no_grad()
def accuracy_of_exit(model: schemes.EarlyExit, layer: int, field: Queries) -> float:
    """Of the answers after one block."""
    batches = DataLoader(field.validation, 256, collate_fn=field.collate)
    right = [model(batch, layer).argmax(-1) == batch["labels"] for batch in batches]
    return torch.cat(right).float().mean().item()


def with_specialists(field: Queries, folder: Path) -> nn.Module:
    """Of the teacher of all other runs, which confuses next to nothing."""
    return specialised(field, folder, field.teachers[0])


def with_needed_specialists(field: Queries, folder: Path) -> nn.Module:
    """Of a generalist that confuses much: a student that learned the labels."""
    generalist = Remembering(alone(field, folder / "generalist", teachers.Nobody(), [losses.TaskLoss()]).eval())
    for rows in (field.train, field.validation):
        generalist.remember(rows, field.collate)
    return specialised(field, folder, generalist)


def specialised(field: Queries, folder: Path, generalist: Remembering) -> nn.Module:
    """Notes how near generalist and specialists are to the labels, on queries of the specialists' own classes."""
    student = schemes.specialists(field.plan(folder, generalist), count=10, share=0.5)
    with field.aside():
        experts = [teachers.load(str(each)) for each in sorted(folder.glob("specialist_*"))]
        together = Observed(teachers.SpecialistTeacher([generalist, *experts]), field)
        theirs = {name for expert in experts for name in expert.config.id2label.values()}
        own = [row for row, label in enumerate(field.validation["labels"][:]) if field.names[label] in theirs]
        for name, model in (("generalist", generalist.model), ("with specialists", together)):
            found = field.figures_of(model, field.validation.select(own))
            field.noted |= {f"{name}: {what}": value for what, value in found.items()}
        field.noted["queries of special classes"] = len(own)
    return student


def with_peer(field: Queries, folder: Path) -> nn.Module:
    """The student of all other runs, beside one with another head; notes how good that one is."""
    student = schemes.mutual(field.plan(folder, None), students=2)
    with field.aside():
        field.noted["peer"] = field.measure(teachers.load(str(folder / "peer_2")))["accuracy"]
    return student


def with_confidence(field: Queries, folder: Path) -> nn.Module:
    """Notes how sure the student is, beside one that learned the labels alone: targets that soften should show."""
    student = schemes.progressive_self(field.plan(folder, None))
    with field.aside():
        for name, model in (("student", student), ("of labels", of_labels(field, folder))):
            said = logits_of(model, field.validation, field.collate).softmax(-1)
            field.noted[f"{name}: mean confidence"] = said.amax(-1).mean().item()
    return student


def with_views(field: Queries, folder: Path) -> nn.Module:
    """Notes how often two views of a query, each with a tenth of its words hidden, get one answer, and a right one."""
    student = schemes.augmented_self(field.plan(folder, None))
    with field.aside():
        for name, model in (("student", student), ("of labels", of_labels(field, folder))):
            one, other = (logits_of(model, hidden_words(field, view), field.collate).argmax(-1) for view in (1, 2))
            field.noted[f"{name}: views agree"] = (one == other).float().mean().item()
            right = one == torch.tensor(field.validation["labels"][:])
            field.noted[f"{name}: accuracy of a view"] = right.float().mean().item()
    return student


def of_labels(field: Queries, folder: Path) -> nn.Module:
    return by_labels(field, folder / "of_labels")


def hidden_words(field: Queries, view: int) -> Dataset:
    """The validation rows as `augmented_self` sees its own."""
    tokenizer, generator = field.tokenizer, torch.Generator().manual_seed(view)

    def hide(row: dict[str, Any]) -> dict[str, Any]:
        ids = torch.tensor(row["input_ids"])
        seen = word_dropout(ids, 0.1, tokenizer.mask_token_id, tokenizer.all_special_ids, generator)
        return {"input_ids": seen.tolist()}

    return field.validation.map(hide, load_from_cache_file=False)


# ---- drawings ------------------------------------------------------------------------------------------------------


def by_own_drawings(field: Drawings, folder: Path) -> nn.Module:
    """Labels and a teacher that sees the same drawings."""
    return alone(field, folder, field.teacher("pixel_values"))


def across(column: str) -> Run:
    """All pairs, of which the teacher reads one side, and no label; half the epochs: as many steps."""

    def carried_out(field: Drawings, folder: Path) -> nn.Module:
        theirs = field.viewed(column, field.pairs, prefix="teacher_").remove_columns("labels")
        pairs = concatenate_datasets([field.viewed("pixel_values", field.pairs), theirs], axis=1)
        pads = teachers.PairedCollator(None, field.words if column == "words" else None)
        more = {"train_dataset": pairs, "eval_dataset": None, "compute_metrics": None, "data_collator": pads}
        plan = field.plan(folder, field.teacher(column), **more)
        plan.args.num_train_epochs /= 2
        return schemes.cross_modal(plan)

    return carried_out


# ---- sentences -----------------------------------------------------------------------------------------------------


def by_distances(field: Sentences, folder: Path) -> nn.Module:
    return alone(field, folder, field.teacher(), copy.deepcopy(field.losses))


RUNS: dict[type[Field], dict[str, Run]] = {
    Queries: {
        "labels alone": by_labels,
        "soft targets": by_soft_targets,
        "soft targets, no labels": by_nothing_else,
        "two teachers": by_ensemble,
        "multi_teacher_triplet": by_many,
        "chain": scheme("chain", sizes=[4]),
        "born_again": generations(generations=3),
        "born_again, ensemble": generations(generations=2, ensemble=True),
        "born_again, cwtm": generations(generations=2, weighting="cwtm"),
        "born_again, dkpp": generations(generations=2, weighting="dkpp"),
        "born_again, of labels": born_of_labels(),
        "hints": scheme("hints", share=0.3),
        "two_stage": scheme("two_stage", share=0.5),
        "two_stage, copies": with_copies,
        "specialists": with_specialists,
        "specialists, of a student": with_needed_specialists,
        "adversarial": boundary,
        "unlabelled": more_rows,
        "online": both_learn,
        "mutual": with_peer,
        "mutual, two starts": two_peers,
        "progressive_self": with_confidence,
        "augmented_self": with_views,
        "be_your_own_teacher": with_exits(Queries.student, [0]),
        "be_your_own_teacher, six blocks": with_exits(Queries.encoder, [1, 3]),
    },
    CutOut: {
        "cut out of the teacher": of_queries,
        "iterated": scheme("iterated", drop=2),
        "data_free: random_tokens": no_text("random_tokens"),
        "data_free: embeddings": no_text("embeddings", share=0.25, steps=30),
        "data_free: generator": no_text("generator"),
    },
    Drawings: {
        "drawings: labels alone": by_labels,
        "drawings: soft targets": by_own_drawings,
        "drawings: cross_modal, of words": across("words"),
        "drawings: cross_modal, of another artist": across("other_drawing"),
        "drawings: born_again, of labels": born_of_labels(),
        "drawings: mutual": two_peers,
    },
    Clothes: {
        "clothes: labels alone": by_labels,
        "clothes: born_again, of labels": born_of_labels(),
        "clothes: mutual": two_peers,
    },
    Words: {
        "words: labels alone": by_labels,
        "words: born_again, of labels": born_of_labels(),
        "words: born_again, cwtm": born_of_labels(generations=2, weighting="cwtm"),
        "words: born_again, dkpp": born_of_labels(generations=2, weighting="dkpp"),
        "words: mutual": two_peers,
    },
    Sentences: {
        "embeddings: distances and angles": by_distances,
        "embeddings: chain": scheme("chain", sizes=[4]),
        "embeddings: iterated": scheme("iterated", drop=2),
        "embeddings: born_again": generations(generations=3),
        "embeddings: hints": scheme("hints", share=0.3),
        "embeddings: two_stage": scheme("two_stage", share=0.5),
    },
}
NAMES = [name for runs in RUNS.values() for name in runs]


def run(function: Run, field: Field) -> dict[str, Any]:
    """Trains one student; says how good it is, what it took, and what its stages were."""
    field.noted, field.spent_aside = {}, 0.0
    with tempfile.TemporaryDirectory() as scratch:
        start = time.process_time()
        student = function(field, Path(scratch))
        seconds = time.process_time() - start - field.spent_aside
        file = next(Path(scratch).rglob("stages.json"), None)
        made = json.loads(file.read_text())["stages"] if file else []
    return {
        **field.measure(student),
        "seconds": seconds,
        "noted": field.noted,
        "stages": {each["name"]: each["metrics"] for each in made},
    }


# ---- the tables ----------------------------------------------------------------------------------------------------


def tables(found: dict[str, dict[str, Any]], picture: Path) -> None:
    """Quality and cost of every run, paired with its field's reference by seed; what is inside; and a picture."""
    by_run: dict[str, dict[str, dict[str, Any]]] = {}
    for key, measured in found.items():
        name, seed = key.rsplit("|", 1)
        by_run.setdefault(name, {})[seed] = measured
    panels: dict[str, dict[str, tuple[float, float]]] = {}
    for field, functions in RUNS.items():
        reference = by_run.get(field.reference, {})
        by_accuracy = field.judged_by == "accuracy"
        scale, digits = (100, 1) if by_accuracy else (-1, 3)
        gain = f"over {field.reference}, points" if by_accuracy else f"below {field.reference}, nats"
        lines, bars = [], {}
        for name in [each for each in functions if each in by_run]:
            runs = by_run[name]
            seeds = [seed for seed in runs if seed in reference]
            gained = [scale * (runs[seed][field.judged_by] - reference[seed][field.judged_by]) for seed in seeds]
            times = [runs[seed]["seconds"] / reference[seed]["seconds"] for seed in seeds]
            cells = [mean([100 * each["accuracy"] for each in runs.values()], 1), mean(gained, digits, sign=True)]
            cells += [mean([each["surprise"] for each in runs.values() if "surprise" in each], 3), mean(times, 1)]
            lines.append([name, *cells])
            if gained:
                bars[name] = (round(statistics.mean(gained), 3), (max(gained) - min(gained)) / 2)
        if lines:
            header = ["run", "accuracy, %", gain, "surprise, nats", "its time"]
            show(header, lines, f"{field.__name__.lower()}: mean ± half the range over the seeds")
        if len(bars) > 1:
            panels[f"{field.judged_by} {gain}"] = bars
    inside, taught, in_nats = [], [], []
    for name in [each for each in NAMES if each in by_run]:
        runs = list(by_run[name].values())
        for stage in runs[0]["stages"] if len(runs[0]["stages"]) > 1 else ():
            known = [100 * each["stages"][stage]["accuracy"] for each in runs if "accuracy" in each["stages"][stage]]
            inside += [[name, stage, mean(known, 1)]] if known else []
        pairs = [what.removesuffix(ALONE) for what in runs[0]["noted"] if what.endswith(ALONE)]
        noted = [each["noted"] for each in runs]
        taught += [[name, what, *beside_alone(what, noted)] for what in pairs]
        in_nats += [
            [name, what, *less_surprised(what, noted)] for what in pairs if _paired(what, "surprise", noted)[0]
        ]
        for what in runs[0]["noted"]:
            if not any(what.startswith((f"{pair}: ", f"{pair}, alone: ")) for pair in pairs):
                inside.append([name, what, mean([each["noted"][what] for each in runs if what in each["noted"]], 3)])
    beside = ["run", "what", "taught, %", "alone, %", "points", "better with", "surprise, nats", "alone"]
    surprised = ["run", "what", "taught, nats", "alone, nats", "difference", "lower with"]
    within = ["run", "inside of it", "accuracy, %, of a stage; else as named"]
    for header, lines, caption in (
        (beside, taught, "what is taught, beside the same start that learned the labels alone"),
        (surprised, in_nats, "the same: how surprised it is by what is right"),
        (within, inside, "stages and what a run notes"),
    ):
        if lines:
            show(header, lines, caption)
    print(draw_bars(picture, panels, line=0.0) if panels else "no picture: there is no run beside its reference")


def beside_alone(what: str, noted: list[dict[str, float]]) -> list[str]:
    """The figures of something that was taught, and of the same alone, and with how many seeds it is the better."""
    right, alone = ([100 * each for each in kind] for kind in _paired(what, "accuracy", noted))
    gained = [one - other for one, other in zip(right, alone, strict=True)]
    surprised = [mean(each, 2) for each in _paired(what, "surprise", noted)]
    return [mean(right, 1), mean(alone, 1), mean(gained, 1, sign=True), count(gained, above=True), *surprised]


def less_surprised(what: str, noted: list[dict[str, float]]) -> list[str]:
    """The same of the surprise, of which less is better."""
    taught, alone = _paired(what, "surprise", noted)
    lost = [one - other for one, other in zip(taught, alone, strict=True)]
    return [mean(taught, 3), mean(alone, 3), mean(lost, 3, sign=True), count(lost, above=False)]


def _paired(what: str, figure: str, noted: list[dict[str, float]]) -> list[list[float]]:
    """Of what was taught, and of the same alone, seed by seed, where both are known."""
    names = [f"{what}{kind}: {figure}" for kind in ("", ", alone")]
    known = [each for each in noted if all(name in each for name in names)]
    return [[each[name] for each in known] for name in names]


def count(differences: list[float], above: bool) -> str:
    """How many of them are above 0, or below it."""
    return f"{sum(each > 0 if above else each < 0 for each in differences)} of {len(differences)} seeds"


def mean(values: list[float], digits: int, sign: bool = False) -> str:
    """The mean, and half the range; empty where there is nothing."""
    if not values:
        return "-"
    plus = "+" if sign else ""
    half = (max(values) - min(values)) / 2
    middle = f"{statistics.mean(values):{plus}.{digits}f}"
    return f"{middle} ± {half:.{digits}f}" if len(values) > 1 else middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=SHARED / "data",
        help="of clinc150, emoji_pairs, fashion_mnist, wikitext2, banking77",
    )
    parser.add_argument("--encoder", type=Path, default=SHARED / "models" / "goemotions_teacher", help="of queries")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--evaluate", type=int, default=1500, help="rows that are measured")
    parser.add_argument("--epochs", type=float, default=2, help="of each student of texts")
    parser.add_argument("--teacher-epochs", type=float, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--runs", nargs="*", choices=NAMES, default=NAMES, metavar="RUN", help=", ".join(NAMES))
    parser.add_argument("--output", type=Path, default=Path("out/schemes"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for field, functions in RUNS.items():
            carry_out(
                field, {name: each for name, each in functions.items() if name in arguments.runs}, seed, arguments
            )
    found = {}
    for file in sorted(arguments.output.glob("seed*.json")):
        found |= json.loads(file.read_text())
    tables(found, arguments.output / "schemes.png")


def carry_out(field: type[Field], functions: dict[str, Run], seed: int, arguments: argparse.Namespace) -> None:
    """Those runs of one field and seed that are not in the seed's file yet."""
    file = arguments.output / f"seed{seed}.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    left = {name: each for name, each in functions.items() if f"{name}|{seed}" not in found}
    made = field(arguments, seed) if left else None
    for name, function in left.items():
        found[f"{name}|{seed}"] = measured = run(function, made)
        file.write_text(json.dumps(found, indent=1))
        print(f"seed {seed}: {name}: accuracy {measured['accuracy']:.4f}, {measured['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
