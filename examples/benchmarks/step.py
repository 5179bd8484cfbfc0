"""What a step costs: the teacher live, cut short or read from disk, against the least that it could cost, in one run.

    OMP_NUM_THREADS=1 python examples/benchmarks/step.py                          # about 5 minutes on one free core
    OMP_NUM_THREADS=1 python examples/benchmarks/step.py --shapes 4x128 4x512 lm:2x256 --rounds 5   # 20 more

A BERT-base teacher of 12 layers, a student of its first 6, 28 labels, random weights and texts of full length; with
`lm:`, a Llama of 4 layers and a student of 2, 512 wide before a vocabulary of 50,000, where every position counts. A
step is forward, losses, backward and AdamW. Every row is one thing over another, its limit, which is written by hand:

- "student alone": the student's step on the labels, with no teacher at all;
- "teacher and student": the teacher's forward without gradients, then that step with the soft targets' loss;
- "half a teacher and student": the same with a teacher of its first six blocks;
- "all outputs, eager": the way that most code goes: eager attention, `output_hidden_states` and `output_attentions` on
  both, two hidden states and two maps compared;
- rows with "forward" are of the teacher alone.

Everyone runs once in each round, in changing order; a time is the median over rounds of the ratio in the same round,
± half of the middle half. Memory is the most that is alive at once during one step beyond what was before it, weights
and optimizer not counted. Nothing here needs a trained model: no figure depends on what the models say.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from measuring import clock, draw_bars, paired, peak_megabytes, show, spread, turns, written
from rich.progress import track
from stepping import Inputs, Step, collate, half_of, ours, soft_targets
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from hf_distill import losses, teachers
from hf_distill.batch import Batch
from hf_distill.signals import LOGITS, attention, hidden
from hf_distill.tasks import Task

LABELS, ROWS = 28, 32
SIZE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
LM_SIZE = {
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "intermediate_size": 1408,
}
VOCABULARY, LM_VOCABULARY = 30_000, 50_000
LOOKED_AT = {2: 5, 5: 11}  # student layer: teacher layer


def models(lm: bool = False) -> tuple[nn.Module, nn.Module]:
    """Teacher, and a student of its first half."""
    torch.manual_seed(0)
    if lm:
        config = LlamaConfig(vocab_size=LM_VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **LM_SIZE)
        teacher = LlamaForCausalLM(config).eval()
    else:
        config = BertConfig(num_labels=LABELS, problem_type="multi_label_classification", **SIZE)
        teacher = BertForSequenceClassification(config).eval()
    return teacher, half_of(teacher)


def rows_of(length: int, lm: bool = False) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, LM_VOCABULARY if lm else VOCABULARY, (ROWS, length), generator=generator)
    labels = ids if lm else torch.randint(0, 2, (ROWS, LABELS), generator=generator).float()
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


# ---- limits, written by hand --------------------------------------------------------------------------------------


def by_hand(student: nn.Module, teacher: nn.Module | None, eager: bool = False) -> Step:
    """A loop as anybody would write it; `eager` also takes two hidden states and two attention maps, as outputs."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    more = {"output_hidden_states": True, "output_attentions": True} if eager else {}
    for model in (student, teacher) if eager else ():
        model.set_attn_implementation("eager")

    def step(batch: Inputs) -> None:
        theirs = None
        if teacher is not None:
            with torch.no_grad():
                theirs = teacher(**without_labels(batch), **more)
        mine = student.train()(**without_labels(batch), **more)
        loss = answers_loss(mine.logits, None if theirs is None else theirs.logits, batch["labels"])
        if eager:
            for layer, other in LOOKED_AT.items():
                loss = loss + F.mse_loss(mine.hidden_states[layer + 1], theirs.hidden_states[other + 1])
                loss = loss + F.kl_div(
                    mine.attentions[layer].clamp(min=1e-9).log(), theirs.attentions[other], reduction="batchmean"
                )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def answers_loss(mine: torch.Tensor, theirs: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    """Labels, and the teacher's answers at temperature 2 where there are any."""
    if mine.ndim == 3:
        mine, labels = mine[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
        loss = F.cross_entropy(mine, labels)
        if theirs is None:
            return loss
        log_q, log_p = (side.div(2).log_softmax(-1) for side in (mine, theirs[:, :-1].flatten(0, 1)))
        return loss + 4 * F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    loss = F.binary_cross_entropy_with_logits(mine, labels)
    if theirs is None:
        return loss
    return loss + F.binary_cross_entropy_with_logits(mine / 2, torch.sigmoid(theirs / 2))


def without_labels(batch: Inputs) -> Inputs:
    return {name: value for name, value in batch.items() if name != "labels"}


def forward_of(model: nn.Module, **more: bool) -> Step:
    def step(batch: Inputs) -> Any:
        with torch.no_grad():
            return model(**without_labels(batch), **more)

    return step


# ---- ours ---------------------------------------------------------------------------------------------------------


def observed(model: nn.Module) -> Step:
    """The teacher as the losses see it: logits, two hidden states, two maps."""
    teacher = teachers.ModelTeacher(model)
    looked_at = {LOGITS, *(look(layer) for look in (hidden, attention) for layer in LOOKED_AT.values())}
    teacher.prepare(half_of(model), frozenset(looked_at), torch.device("cpu"), None)
    return lambda batch: teacher.observe(Batch(batch, Task.MULTI_LABEL))


def states() -> list[losses.Loss]:
    return [losses.HiddenMSE(dict(LOOKED_AT))]


LOGITS_CACHED, ALL_CACHED = "logits from a cache", "logits, 2 hidden states, RKD, from a cache"
LIVE, ALL_LIVE = "logits live", "logits, 2 hidden states, 2 attention maps live"
FIRST_HALF = "hidden states of the first half live"
ALONE, BOTH, HALF, EAGER = "student alone", "teacher and student", "half a teacher and student", "all outputs, eager"
OBSERVED, INT8, FORWARD = "teacher's forward, observed", "teacher's forward, int8", "teacher's forward, by hand"
EAGER_FORWARD = "teacher's forward, all outputs, eager"

ROWS_OF_TABLE = [  # what, over what
    (LOGITS_CACHED, ALONE),
    (ALL_CACHED, ALONE),
    (LIVE, BOTH),
    (ALL_LIVE, BOTH),
    (ALL_LIVE, EAGER),
    (EAGER, BOTH),
    (FIRST_HALF, HALF),
    (OBSERVED, EAGER_FORWARD),
    (INT8, FORWARD),
]
LM_ROWS = [(LIVE, BOTH)]
TERMS: dict[str, Callable[[], list[losses.Loss]]] = {
    LOGITS_CACHED: soft_targets,
    ALL_CACHED: lambda: [*soft_targets(), *states(), losses.RKDDistance()],
    LIVE: soft_targets,
    ALL_LIVE: lambda: [*soft_targets(), *states(), losses.AttentionKL(dict(LOOKED_AT))],
    FIRST_HALF: lambda: [losses.TaskLoss(), losses.HiddenMSE({2: 2, 5: 5})],
}


def steps_of(names: set[str], rows: Dataset, batch_size: int, folder: str, lm: bool = False) -> dict[str, Step]:
    """Each of them, with a student of its own."""
    teacher, student = models(lm)

    def made(name: str) -> Step:
        if name in TERMS:
            source: teachers.Teacher = teachers.ModelTeacher(teacher)
            if name in (LOGITS_CACHED, ALL_CACHED):
                source = teachers.CachedTeacher(Path(folder) / name.replace(" ", "_"), teacher)
            return ours(copy.deepcopy(student), source, TERMS[name](), rows, batch_size, folder)
        if name in (ALONE, BOTH, HALF):
            model = {ALONE: None, BOTH: teacher, HALF: half_of(teacher).eval() if name == HALF else None}[name]
            return by_hand(copy.deepcopy(student), model)
        if name == EAGER:
            return by_hand(copy.deepcopy(student), copy.deepcopy(teacher), eager=True)
        if name == OBSERVED:
            return observed(teacher)
        own = copy.deepcopy(teacher)
        if name == INT8:
            return forward_of(teachers.quantize(own))
        if name == EAGER_FORWARD:
            own.set_attn_implementation("eager")
            return forward_of(own, output_hidden_states=True, output_attentions=True)
        return forward_of(own)

    return {name: made(name) for name in sorted(names)}


Measured = dict[str, tuple[list[float], float]]  # {what: (seconds in each round, peak MB)}


def measure(table: list[tuple[str, str]], batch_size: int, length: int, rounds: int, lm: bool) -> Measured:
    """Everything that the rows name: warmed up and looked at for memory once, then timed in turn."""
    now = clock()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(length, lm)
        steps = steps_of({name for row in table for name in row}, rows, batch_size, folder, lm)
        generator = torch.Generator().manual_seed(1)

        def drawn() -> Inputs:
            return collate([rows[i] for i in torch.randperm(len(rows), generator=generator)[:batch_size].tolist()])

        batches = [drawn() for _ in range(rounds + 1)]
        what = f"{batch_size} x {length}"
        peaks = {}
        for name, step in track(steps.items(), f"{what}: memory"):
            step(batches[-1])
            peaks[name] = peak_megabytes(lambda step=step: step(batches[-1]))
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number, name in track(list(turns(list(steps), rounds)), f"{what}: time"):
            start = now()
            steps[name](batches[number])
            seconds[name].append(now() - start)
    return {name: (seconds[name], peaks[name]) for name in steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["4x128"], help="batch x tokens, with lm: of a language model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--picture", type=Path, default=Path("out/step.png"))
    arguments = parser.parse_args()
    lines, panels = [], {}
    for shape in arguments.shapes:
        lm, (batch_size, length) = shape.startswith("lm:"), map(int, shape.removeprefix("lm:").split("x"))
        table = LM_ROWS if lm else ROWS_OF_TABLE
        found = measure(table, batch_size, length, arguments.rounds, lm)
        title = f"{'LM ' if lm else ''}{batch_size} x {length}"
        bars, shares = {}, {}
        for name, limit in table:
            (mine, peak), (its, least) = found[name], found[limit]
            ratios = paired(mine, its)
            milliseconds, megabytes = f"{spread(mine)[0] * 1e3:,.0f}", f"{peak:,.0f}"
            lines.append([title, name, limit, milliseconds, written(ratios, 2), megabytes, f"{peak / least:.2f}"])
            bars[f"{name}\nover {limit}"] = spread(ratios)
            shares[f"{name}\nover {limit}"] = (peak / least, 0.0)
        panels |= {f"{title}: time over the limit": bars, f"{title}: memory over the limit": shares}
    header = ["batch x tokens", "what", "over", "ms", "time", "MB", "memory"]
    show(header, lines, f"time and memory over that of the limit; {torch.get_num_threads()} thread(s)")
    print(draw_bars(arguments.picture, panels))


if __name__ == "__main__":
    main()
