"""A generator of embeddings, trained against the student: what the teacher is sure of and the student has not learned.

Chen et al. 2019 (DAFL), arXiv:1904.01186; Fang et al. 2019 (DFAD), arXiv:1912.11006.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_distill import anatomy
from hf_distill.augment.soft_inputs import Answering, Wanted, table_of


class Generator(nn.Module):
    """Makes rows of embeddings of random vectors: one MLP for all positions, each with a vector of its own.

    What it makes has the mean and deviation of the teacher's table.

    Args:
        table: the teacher's embeddings, (vocabulary, width).
        length: embeddings in a row.
        latent: size of a random vector.
        hidden: width of the MLP.
    """

    def __init__(self, table: Tensor, length: int, latent: int = 100, hidden: int = 256) -> None:
        super().__init__()
        self.latent = latent
        self.enter = nn.Linear(latent, hidden)
        self.positions = nn.Parameter(torch.randn(length, hidden))
        self.inner, self.leave = nn.Linear(hidden, hidden), nn.Linear(hidden, table.shape[1])
        self.register_buffer("mean", table.mean(0))
        self.register_buffer("deviation", table.std(0))

    def forward(self, noise: Tensor) -> Tensor:
        """(rows, latent) -> (rows, length, width)."""
        inside = F.gelu(self.enter(noise)[:, None] + self.positions)
        made = F.layer_norm(self.leave(F.gelu(self.inner(inside))), self.mean.shape)
        return made * self.deviation + self.mean


def disagreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of logits, a scalar: what the generator makes large and the student small (DFAD)."""
    return (student.float() - teacher.float()).abs().mean()


def generated(
    teacher: nn.Module,
    student: nn.Module,
    rows: int,
    length: int,
    wanted: Wanted | None = None,
    adversarial: float = 1.0,
    steps: int = 100,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    seed: int = 0,
    order: Tensor | None = None,
) -> tuple[Tensor, list[float]]:
    """Trains a generator against the student as it is, and makes rows with it.

    Its loss is that of `soft_inputs`, less `adversarial` times the disagreement of teacher and student.

    Args:
        teacher: in eval mode, where it is.
        student: on the same device; it is left as it is.
        rows: how many.
        length: embeddings in a row.
        wanted: see `soft_inputs.Wanted`.
        adversarial: weight of the disagreement.
        steps: of the optimizer (Adam).
        learning_rate: its.
        batch_size: rows of a step.
        seed: of the generator's weights and the random vectors.
        order: for each of the student's labels the index of the teacher's; None where that is the same.

    Returns:
        (rows, length, width), float32, on the processor; and the generator's loss at every step.
    """
    answering, was_training = Answering(teacher, wanted or Wanted()), student.training
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made_by = Generator(table_of(teacher).cpu(), length)
    made_by, noise = made_by.to(answering.device), torch.Generator().manual_seed(seed)
    weights, losses = list(made_by.parameters()), []
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    student.eval()
    for _ in range(steps):
        with torch.enable_grad():
            embeddings = made_by(torch.randn(batch_size, made_by.latent, generator=noise).to(answering.device))
            loss, theirs = answering(embeddings)
            theirs = theirs if order is None else theirs.index_select(-1, order)
            mine = anatomy.logits_of(student(inputs_embeds=embeddings), answering.task)
            loss = loss - adversarial * disagreement(mine, theirs)
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.grad = gradient
        optimizer.step()
        losses.append(loss.item())
    student.train(was_training)
    with torch.no_grad():
        drawn = torch.randn(rows, made_by.latent, generator=noise)
        found = [made_by(part.to(answering.device)).cpu() for part in drawn.split(batch_size)]
    return torch.cat(found), losses
