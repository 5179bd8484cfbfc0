"""Every loss of the catalogue against its plain formula: time and peak memory of forward and backward, in one run.

    OMP_NUM_THREADS=1 python examples/benchmarks/losses.py              # all of them: about 3 minutes of one free core
    OMP_NUM_THREADS=1 python examples/benchmarks/losses.py --losses RKDAngle SoftTargets
    python examples/benchmarks/losses.py --sizes full                   # larger ones, for a GPU or for patience

"Ours" is what the package runs: blocks, chunks, recomputation in backward, and the care that keeps half precision,
duplicates and zeros finite. "Plain" is the formula below in the shortest obvious PyTorch, the whole tensor at once,
with none of that care. Both get the same random float32 inputs without padding, and must give the same value and the
same gradient (`torch.testing.assert_close`) before anything is measured.

How to read the table. The size is the shape of the student's first input. What grows is the batch for losses that
relate examples, the sequence for those on hidden states and attention, and the positions before a vocabulary of 32,000
for those on logits. Small sizes show the cost of the calls, large ones that of the arithmetic. Ratios are ours over
plain: below 1 is better than plain. Recomputation costs time by design, up to the forward once more, and saves memory
from the size on at which there is more than one block.

Milliseconds are the median of forward and backward, the two in turn and in changing order. On a CPU with one thread
they are the processor's time, which others on a busy machine disturb least; else the clock's. MB (10^6 bytes) is the
most that is alive at once beyond the inputs, the student's gradient included: on a CPU all that torch's allocator
gives out, buffers inside an operator too (`torch.profiler`; not the scratch of MKL and oneDNN), on CUDA
`torch.cuda.max_memory_allocated`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from measuring import agree, peak_megabytes, seconds_of
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from hf_distill import losses
from hf_distill.batch import Batch
from hf_distill.losses import Loss
from hf_distill.losses.logits import LogitLoss
from hf_distill.recorded import AttentionRecord, RecordedMap
from hf_distill.tasks import Task

VOCABULARY, CLASSES, LABELS = 32_000, 1_000, 28
NARROW, WIDE, HEADS = 384, 768, 12  # widths of student and teacher, and the heads of both
HIDDEN_BATCH, MAP_BATCH = 8, 4
PAIRS = (3, 25)  # timed for each row, at least and at most

SIZES = {
    "small": {
        "logits": (64, 256, 512),  # positions
        "sorted": (16, 64, 160),
        "examples": (64, 256, 1024),  # batch
        "triplets": (64, 128, 512),
        "order": (64, 128, 256),
        "groups": (32, 128, 256),
        "hidden": (128, 512, 1024),  # tokens
        "maps": (128, 256, 512),
    },
    "full": {
        "logits": (256, 1024, 4096),
        "sorted": (256, 1024, 4096),
        "examples": (256, 1024, 4096),
        "triplets": (128, 512, 1024),
        "order": (128, 256, 512),
        "groups": (128, 512, 1024),
        "hidden": (512, 1024, 2048),
        "maps": (256, 512, 1024),
    },
}
LEFT_OUT: dict[type[Loss], str] = {
    losses.CWTM: "it is torch's own cross entropy of the labels times one number an example",
    losses.TaskLoss: "it is torch's own cross entropy of the labels, and looks at no teacher",
    losses.SelfExits: "its cost is the forward of its heads, and the comparison that of SoftTargets",
    losses.Sobolev: "its cost is the second derivative of the models, and the comparison one squared difference",
    losses.BoundaryTargets: "its cost is the making of the samples, and the comparison that of SoftTargets",
}


@dataclass(frozen=True)
class Case:
    """One formula twice, and what both are given: `students` of the inputs, the first, are the student's."""

    loss: type[Loss]
    kind: str  # a row of `SIZES`
    inputs: Callable[[int], tuple[Tensor, ...]]
    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    variant: str = ""
    students: int = 1

    @property
    def name(self) -> str:
        return f"{self.loss.__name__}, {self.variant}" if self.variant else self.loss.__name__


@dataclass(frozen=True)
class Row:
    name: str
    shape: str
    milliseconds: tuple[float, float]  # ours, plain
    megabytes: tuple[float, float]


# --- plain formulas: the whole tensor at once ---


def plain_kl(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    log_q, p = (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1)
    return F.kl_div(log_q, p, reduction="none").sum(-1).mean() * temperature**2


def plain_standardized_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return plain_kl(*((side - side.mean(-1, True)) / side.std(-1, keepdim=True) for side in (student, teacher)))


def plain_binary_kl(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    p, q = (teacher / temperature).sigmoid(), (student / temperature).sigmoid()
    kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return kl.sum(-1).mean() * temperature**2


def plain_reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1).mean()


def plain_jsd(student: Tensor, teacher: Tensor) -> Tensor:
    q, p = student.softmax(-1), teacher.softmax(-1)
    m = (p + q) / 2
    return (p * (p / m).log() + q * (q / m).log()).sum(-1).mean() / 2


def plain_skew_kl(student: Tensor, teacher: Tensor, alpha: float = 0.1) -> Tensor:
    q, p = student.softmax(-1), teacher.softmax(-1)
    return (p * (p / (alpha * p + (1 - alpha) * q)).log()).sum(-1).mean()


def plain_total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1).mean() / 2


def plain_without(logits: Tensor, labels: Tensor) -> Tensor:
    """The target's logit lowered so far that the softmax is one over the other classes."""
    return logits.scatter(-1, labels[:, None], -1000.0)


def plain_dkd(student: Tensor, teacher: Tensor, labels: Tensor, beta: float = 8.0, temperature: float = 4.0) -> Tensor:
    student, teacher = student / temperature, teacher / temperature
    q, p = (side.softmax(-1).gather(-1, labels[:, None])[:, 0] for side in (student, teacher))
    is_target = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    log_q, others = plain_without(student, labels).log_softmax(-1), plain_without(teacher, labels).softmax(-1)
    return (is_target + beta * F.kl_div(log_q, others, reduction="none").sum(-1)).mean() * temperature**2


def plain_nkd(student: Tensor, teacher: Tensor, labels: Tensor, gamma: float = 1.5) -> Tensor:
    log_q, p = (side.gather(-1, labels[:, None])[:, 0] for side in (student.log_softmax(-1), teacher.softmax(-1)))
    log_others, others = plain_without(student, labels).log_softmax(-1), plain_without(teacher, labels).softmax(-1)
    return (-p * log_q - gamma * (others * log_others).sum(-1)).mean()


def plain_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - Pearson of every row."""
    return 1 - F.cosine_similarity(student - student.mean(1, True), teacher - teacher.mean(1, True)).mean()


def plain_dist(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = student.softmax(-1), teacher.softmax(-1)
    return plain_correlation(student, teacher) + plain_correlation(student.T, teacher.T)


def plain_binary_dist(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = student.sigmoid(), teacher.sigmoid()
    return plain_correlation(student, teacher) + plain_correlation(student.T, teacher.T)


def plain_sorted(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (side.softmax(-1).sort(-1, descending=True).values for side in (student, teacher))
    return (mine - theirs).abs().sum(-1).mean()


def plain_label_embeddings(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """All groups at once, distances between the positives picked out by a mask."""

    def part(mine: Tensor, theirs: Tensor, positive: Tensor) -> Tensor:
        both = positive[:, :, None] * positive[:, None] * (1 - torch.eye(positive.shape[1], device=positive.device))
        sides = (torch.cdist(side, side) * both for side in (mine, theirs))
        pairs = both.sum((1, 2), True).clamp(min=1)
        relative = (side / (side.sum((1, 2), True) / pairs).clamp(min=1e-12) for side in sides)
        return (F.smooth_l1_loss(*relative, reduction="none").sum((1, 2)) / positive.sum(1).clamp(min=1)).sum()

    return part(student.transpose(0, 1), teacher.transpose(0, 1), labels.T) + part(student, teacher, labels)


def plain_cosine(student: Tensor, teacher: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def plain_patient(student: Tensor, teacher: Tensor) -> Tensor:
    return (F.normalize(student) - F.normalize(teacher)).square().sum(-1).mean()


def plain_attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (F.normalize(side.square().mean(-1), dim=-1) for side in (student, teacher))
    return (mine - theirs).square().mean()


def plain_fsp(first: Tensor, second: Tensor, their_first: Tensor, their_second: Tensor) -> Tensor:
    flow, their_flow = first.mT @ second, their_first.mT @ their_second
    return ((flow - their_flow) / first.shape[1]).square().mean()


def plain_nst(student: Tensor, teacher: Tensor) -> Tensor:
    """The three mean kernels between all pairs of neurons."""
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.mT @ b).square().mean()

    return kernel(student, student) + kernel(teacher, teacher) - 2 * kernel(student, teacher)


def plain_attention_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher * (teacher.log() - student.log())).sum(-1).mean()


def plain_recorded_kl(query: Tensor, key: Tensor, their_query: Tensor, their_key: Tensor) -> Tensor:
    sides = ((query, key), (their_query, their_key))
    student, teacher = ((mine @ theirs.mT / mine.shape[-1] ** 0.5).softmax(-1) for mine, theirs in sides)
    return plain_attention_kl(student, teacher)


def plain_relation_kl(student: Tensor, teacher: Tensor) -> Tensor:
    log_q, p = ((side @ side.mT / side.shape[-1] ** 0.5) for side in (student, teacher))
    return F.kl_div(log_q.log_softmax(-1), p.softmax(-1), reduction="none").sum(-1).mean()


def plain_distances(rows: Tensor) -> Tensor:
    """Over their mean, the diagonal left out."""
    found = torch.cdist(rows, rows)
    return found / (found.sum() / (len(rows) * (len(rows) - 1)))


def plain_rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    return F.smooth_l1_loss(plain_distances(student), plain_distances(teacher))


def plain_rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    mine, theirs = (F.normalize(side[None] - side[:, None], dim=-1) for side in (student, teacher))
    return F.smooth_l1_loss(mine @ mine.mT, theirs @ theirs.mT)


def plain_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    return F.mse_loss(F.normalize(student @ student.T), F.normalize(teacher @ teacher.T))


def plain_congruence(student: Tensor, teacher: Tensor, gamma: float = 0.4) -> Tensor:
    mine, theirs = (2 * gamma * F.normalize(side) @ F.normalize(side).T for side in (student, teacher))
    decay = torch.tensor(-2 * gamma).exp()
    return F.mse_loss(decay * (1 + mine + mine**2 / 2), decay * (1 + theirs + theirs**2 / 2))


def plain_relative_similarity(student: Tensor, teacher: Tensor, margin: float = 0.1) -> Tensor:
    mine, theirs = plain_distances(student), torch.cdist(teacher, teacher).fill_diagonal_(torch.nan)
    nearer = theirs[:, :, None] < theirs[:, None, :]
    return (F.relu(margin + mine[:, :, None] - mine[:, None, :]) * nearer).sum() / nearer.sum()


def plain_contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    scores = F.normalize(student) @ F.normalize(teacher).T / temperature
    same = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2


# --- inputs: the student's first, by the size that grows ---


def logits(positions: int) -> tuple[Tensor, ...]:
    return torch.randn(positions, VOCABULARY), torch.randn(positions, VOCABULARY)


def labelled(positions: int) -> tuple[Tensor, ...]:
    return *logits(positions), torch.randint(VOCABULARY, (positions,))


def classes(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, CLASSES), torch.randn(batch, CLASSES)


def label_states(batch: int) -> tuple[Tensor, ...]:
    positive = (torch.rand(batch, LABELS) < 0.1).float()
    return torch.randn(batch, LABELS, NARROW), torch.randn(batch, LABELS, WIDE), positive


def same_width(tokens: int) -> tuple[Tensor, ...]:
    return torch.randn(HIDDEN_BATCH, tokens, WIDE), torch.randn(HIDDEN_BATCH, tokens, WIDE)


def own_widths(tokens: int) -> tuple[Tensor, ...]:
    return torch.randn(HIDDEN_BATCH, tokens, NARROW), torch.randn(HIDDEN_BATCH, tokens, WIDE)


def two_layers(tokens: int) -> tuple[Tensor, ...]:
    return *same_width(tokens), *same_width(tokens)


def maps(tokens: int) -> tuple[Tensor, ...]:
    student, teacher = scores(tokens)
    return student.softmax(-1), teacher.softmax(-1)


def scores(tokens: int) -> tuple[Tensor, ...]:
    return torch.randn(MAP_BATCH, HEADS, tokens, tokens), torch.randn(MAP_BATCH, HEADS, tokens, tokens)


def heads(tokens: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn(MAP_BATCH, HEADS, tokens, width // HEADS) for width in (NARROW, WIDE))


def queries_and_keys(tokens: int) -> tuple[Tensor, ...]:
    (query, their_query), (key, their_key) = heads(tokens), heads(tokens)
    return query, key, their_query, their_key


def maps_and_values(tokens: int) -> tuple[Tensor, ...]:
    return tuple(side for pair in zip(maps(tokens), heads(tokens), strict=True) for side in pair)


def first_tokens(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, WIDE), torch.randn(batch, WIDE)


def embeddings(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, NARROW), torch.randn(batch, WIDE)


def projected(batch: int) -> tuple[Tensor, ...]:
    return torch.randn(batch, 128), torch.randn(batch, 128)


# --- the list ---


def mean_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mean over positions, which `Batch.mean` takes in training."""
    return lambda *inputs: function(*inputs).mean()


def chunked(loss: LogitLoss) -> Callable[..., Tensor]:
    return mean_of(loss.chunked)


def relation_kl(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.relation_kl(student, teacher, HEADS).mean()


def recorded_kl(query: Tensor, key: Tensor, their_query: Tensor, their_key: Tensor) -> Tensor:
    sides = ((query, key), (their_query, their_key))
    student, teacher = (RecordedMap.of(AttentionRecord(*side, None, None, None, False, None)) for side in sides)
    batch = Batch({"input_ids": torch.ones(query.shape[0], query.shape[2], device=query.device)}, Task.TOKENS)
    return losses.recorded_maps.recorded_kl(student, teacher, batch)


def label_embeddings(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return torch.stack(losses.label_embeddings(student, teacher, labels)).sum()


def relative_similarity(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.relative_similarity(student, [teacher], margin=0.1)


def minilm(student: Tensor, values: Tensor, teacher: Tensor, their_values: Tensor) -> Tensor:
    return losses.attention_kl(student, teacher).mean() + relation_kl(values, their_values)


def plain_minilm(student: Tensor, values: Tensor, teacher: Tensor, their_values: Tensor) -> Tensor:
    return plain_attention_kl(student, teacher) + plain_relation_kl(values, their_values)


def fsp(first: Tensor, second: Tensor, their_first: Tensor, their_second: Tensor) -> Tensor:
    return losses.fsp((first, second), (their_first, their_second)).mean()


CASES = (
    Case(losses.SoftTargets, "logits", logits, chunked(losses.SoftTargets()), plain_kl),
    Case(
        losses.SoftTargets,
        "logits",
        logits,
        chunked(losses.SoftTargets(standardize=True)),
        plain_standardized_kl,
        "standardized",
    ),
    Case(
        losses.SoftTargets,
        "examples",
        classes,
        mean_of(partial(losses.binary_kl_divergence, temperature=2.0)),
        plain_binary_kl,
        "multi-label",
    ),
    Case(losses.ReverseKL, "logits", logits, chunked(losses.ReverseKL()), plain_reverse_kl),
    Case(losses.GeneralizedJSD, "logits", logits, chunked(losses.GeneralizedJSD()), plain_jsd),
    Case(losses.SkewKL, "logits", logits, chunked(losses.SkewKL()), plain_skew_kl),
    Case(losses.TotalVariation, "logits", logits, chunked(losses.TotalVariation()), plain_total_variation),
    Case(losses.DecoupledKL, "logits", labelled, chunked(losses.DecoupledKL()), plain_dkd),
    Case(losses.NormalizedKD, "logits", labelled, chunked(losses.NormalizedKD()), plain_nkd),
    Case(losses.DIST, "examples", classes, losses.dist, plain_dist),
    Case(losses.DIST, "examples", classes, losses.binary_dist, plain_binary_dist, "multi-label"),
    Case(losses.LogitMSE, "logits", logits, chunked(losses.LogitMSE()), F.mse_loss),
    Case(losses.SortedLogits, "sorted", logits, chunked(losses.SortedLogits()), plain_sorted),
    Case(losses.LabelEmbeddings, "groups", label_states, label_embeddings, plain_label_embeddings),
    Case(losses.HiddenMSE, "hidden", same_width, mean_of(losses.hidden_mse), F.mse_loss),
    Case(losses.HiddenCosine, "hidden", same_width, mean_of(losses.hidden_cosine), plain_cosine),
    Case(losses.Patient, "examples", first_tokens, mean_of(losses.patient), plain_patient),
    Case(losses.AttentionTransfer, "hidden", own_widths, mean_of(losses.attention_transfer), plain_attention_transfer),
    Case(losses.FSP, "hidden", two_layers, fsp, plain_fsp, students=2),
    Case(losses.NST, "hidden", own_widths, mean_of(losses.nst), plain_nst),
    Case(losses.AttentionKL, "maps", maps, mean_of(losses.attention_kl), plain_attention_kl),
    Case(losses.AttentionKL, "maps", queries_and_keys, recorded_kl, plain_recorded_kl, "recorded", students=2),
    Case(losses.AttentionMSE, "maps", scores, mean_of(losses.attention_mse), F.mse_loss),
    Case(losses.MiniLM, "maps", maps_and_values, minilm, plain_minilm, students=2),
    Case(losses.MiniLMv2, "maps", heads, relation_kl, plain_relation_kl),
    Case(losses.RKDDistance, "examples", embeddings, losses.rkd_distance, plain_rkd_distance),
    Case(losses.RKDAngle, "triplets", embeddings, losses.rkd_angle, plain_rkd_angle),
    Case(losses.SimilarityPreserving, "examples", embeddings, losses.similarity_preserving, plain_similarity),
    Case(losses.CorrelationCongruence, "examples", embeddings, losses.correlation_congruence, plain_congruence),
    Case(losses.RelativeSimilarity, "order", embeddings, relative_similarity, plain_relative_similarity),
    Case(
        losses.ContrastiveRepresentation, "examples", projected, losses.contrastive_representation, plain_contrastive
    ),
)


# --- measuring ---

Step = Callable[[], tuple[Tensor, list[Tensor]]]


def step_of(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], students: int) -> Step:
    """One forward and backward: the value and the student's gradients."""

    def step() -> tuple[Tensor, list[Tensor]]:
        value = function(*inputs)
        return value.detach(), list(torch.autograd.grad(value, inputs[:students]))

    return step


def measure(case: Case, size: int, device: torch.device, budget: float) -> Row:
    """Checks that both agree, then measures memory once and time in turn until the budget of seconds is spent."""
    torch.manual_seed(0)
    inputs = tuple(each.to(device) for each in case.inputs(size))
    for student in inputs[: case.students]:
        student.requires_grad_()
    steps = [step_of(function, inputs, case.students) for function in (case.ours, case.plain)]
    agree(*steps, name=f"{case.name} at {size}")
    megabytes = [peak_megabytes(step, device) for step in steps]
    found: list[list[float]] = [[], []]
    start = time.perf_counter()
    while len(found[0]) < PAIRS[0] or (len(found[0]) < PAIRS[1] and time.perf_counter() - start < budget):
        order = (0, 1) if len(found[0]) % 2 else (1, 0)
        for which in order:
            found[which].append(seconds_of(steps[which], device))
    milliseconds = [statistics.median(each) * 1e3 for each in found]
    shape = " x ".join(map(str, inputs[0].shape))
    return Row(case.name, shape, (milliseconds[0], milliseconds[1]), (megabytes[0], megabytes[1]))


def show(rows: list[Row], title: str) -> None:
    """The table, on the screen and as Markdown."""
    header = ["loss", "size", "ours ms", "plain ms", "time ratio", "ours MB", "plain MB", "memory ratio"]
    cells = [
        [row.name, row.shape, *(text for pair in (row.milliseconds, row.megabytes) for text in _pair(*pair))]
        for row in rows
    ]
    table = Table(title=title)
    for index, column in enumerate(header):
        table.add_column(column, justify="right" if index > 1 else "left")
    for row in cells:
        table.add_row(*row)
    Console(width=120).print(table)
    lines = [header, ["---", "---", *["---:"] * 6], *cells]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _pair(ours: float, plain: float) -> tuple[str, str, str]:
    digits = 2 if max(ours, plain) < 10 else 1
    return f"{ours:.{digits}f}", f"{plain:.{digits}f}", f"{ours / plain:.2f}"


def main() -> None:
    names = list(dict.fromkeys(case.loss.__name__ for case in CASES))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", choices=names, default=names, metavar="NAME", help="classes")
    parser.add_argument("--sizes", choices=SIZES, default="small")
    parser.add_argument("--seconds", type=float, default=0.5, help="of timing for each row, three pairs at least")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    chosen = [case for case in CASES if case.loss.__name__ in arguments.losses]
    work = [(case, size) for case in chosen for size in SIZES[arguments.sizes][case.kind]]
    start = time.perf_counter()
    rows = [measure(case, size, device, arguments.seconds) for case, size in track(work, "losses")]
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    minutes = (time.perf_counter() - start) / 60
    show(rows, f"ours against plain: {machine}, torch {torch.__version__}, float32, {minutes:.1f} min")


if __name__ == "__main__":
    main()
