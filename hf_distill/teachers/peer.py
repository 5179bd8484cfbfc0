"""Models that learn while they teach: deep mutual learning, and teachers that are trained with the student."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.checks import check_temperature
from hf_distill.losses import Loss, SoftTargets, TaskLoss
from hf_distill.signals import LOGITS, Signal, Signals
from hf_distill.tasks import Task, find_task
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.ensemble import mean_answer
from hf_distill.teachers.learner import Learner, weight_like_labels
from hf_distill.teachers.model import load

_STEPS = "steps"


class PeerTeacher(Teacher):
    """Models that are trained with the student, from the same batches, and teach it as they are in each step.

    Every peer has its own losses, optimizer and learning-rate schedule, made of the student's settings; gradients are
    accumulated, averaged over processes and clipped as the student's are. All of them predict, then all of them learn:
    nobody sees an answer of this step's improved weights. Peers are in train mode while the student trains, and are
    in eval mode in an evaluation. Their weights and optimizers are part of each checkpoint.

    Of several peers the student is told the mean of their soft targets. The gradient of the KL to that mean is the
    mean of the gradients of the KLs, because a cross entropy is linear in its target; the logged value is smaller by
    what the peers differ among themselves. Of hidden states and maps there is no such mean, so with several peers the
    losses can compare logits alone.

    Args:
        teachers: a model or its id, or several: the peers. They are trained in place.
        losses: of each peer; None for the labels and, where `both_ways`, soft targets at `temperature` that count
            alike. Where they look at the student's signals, the student's losses must look at the same ones.
        both_ways: whether, where `losses` is None, the peers learn from the student and from one another too.
        temperature: of the soft targets whose mean is told; with several peers that of all losses that hear it.
        learning_rate: of the peers; None for the student's.
        label_map: see `ModelTeacher`.

    Attributes:
        models: the peers.

    Raises:
        ValueError: there is none, or a temperature or learning rate that is not above 0.

    Reference: Zhang, Xiang, Hospedales, Lu 2018, Deep Mutual Learning, arXiv:1706.00384.
    Differs from the paper: all networks are updated at once, where it updates them one after another.
    """

    known_as = "models that learned beside it"
    models: list[nn.Module] = []  # set for each; the property of `Teacher` gives way to it

    def __init__(
        self,
        teachers: nn.Module | str | Sequence[nn.Module | str],
        losses: Sequence[Loss] | None = None,
        both_ways: bool = True,
        temperature: float = 1.0,
        learning_rate: float | None = None,
        label_map: Literal["by_name"] | None = None,
    ) -> None:
        given = [teachers] if isinstance(teachers, nn.Module | str) else list(teachers)
        if not given:
            raise ValueError("PeerTeacher: there is no peer. Pass one model or several.")
        if strange := next((each for each in given if not isinstance(each, nn.Module | str)), None):
            raise ValueError(
                f"PeerTeacher trains models, and {type(strange).__name__} is none. Pass the model inside."
            )
        if temperature <= 0:
            raise ValueError(f"PeerTeacher: temperature={temperature} must be above 0.")
        if learning_rate is not None and not learning_rate > 0:
            raise ValueError(f"PeerTeacher: learning_rate={learning_rate} must be above 0.")
        self.teachers, self.losses, self.both_ways = teachers, losses, both_ways
        self.temperature, self.learning_rate, self.label_map = temperature, learning_rate, label_map
        self.models = [load(each) if isinstance(each, str) else each for each in given]
        if losses is None:
            alike = SoftTargets(temperature=temperature, weight=weight_like_labels(self.models[0]))
            losses = [TaskLoss(), alike] if both_ways else [TaskLoss()]
        self._peers = [Learner(model, losses, learning_rate, label_map) for model in self.models]
        self.model, self.shape = self.models[0], self._peers[0].shape
        self.compared_at = temperature if len(self.models) > 1 else None
        self.input_names = list(dict.fromkeys(name for model in self.models for name in anatomy.forward_names(model)))
        self._wanted: frozenset[Signal] = frozenset()
        self._seen: list[Signals] = []
        self._steps, self._of, self._processes, self._max_grad_norm = 0, 1, 1, 0.0
        self._unread: Mapping[str, Tensor] = {}  # of a checkpoint, until there are optimizers

    def prepare(self, student: nn.Module, wanted: frozenset[Signal], device: torch.device, tokenizer: Any) -> None:
        """See `Teacher.prepare`.

        Raises:
            ValueError: as that of `ModelTeacher`; losses on other signals than logits with several peers.
        """
        self._wanted, self._steps, self._unread = wanted, 0, {}
        asked = [wanted, *(peer.objective.wanted_of_teacher for peer in self._peers)]
        beyond = frozenset().union(*asked) - {LOGITS}
        if len(self._peers) > 1 and beyond:
            raise ValueError(
                f"the losses ask {len(self._peers)} peers for {', '.join(sorted(map(str, beyond)))}, of which no mean "
                "can be taken. Use losses on logits, or one peer."
            )
        for peer in self._peers:
            check_temperature(peer.objective, self.compared_at, find_task(anatomy.unwrap(peer.model)))
            peer.prepare(student, wanted, device, tokenizer, anatomy.describe(student))

    def check_training(self, args: TrainingArguments) -> None:
        """See `Teacher.check_training`.

        Raises:
            ValueError: float16, or a schedule that follows the evaluation.
        """
        Learner.check_training(args)

    def begin(self, args: TrainingArguments, steps: int) -> None:
        """See `Teacher.begin`: makes the optimizers."""
        self._of, self._max_grad_norm, self._seen = max(steps, 1), args.max_grad_norm or 0.0, []
        for number, peer in enumerate(self._peers, start=1):
            peer.begin(args, steps)
            if self._unread:
                peer.load_optimizer(_part(self._unread, number), self._steps)
        if not self._unread:
            self._steps = 0
        self._unread = {}

    def observe(self, batch: Batch) -> Signals:
        """See `Teacher.observe`: every peer looks at the batch, and the student is told what they say."""
        learning = torch.is_grad_enabled()
        self._seen = [peer.look(batch, learning) for peer in self._peers]
        return self._together(self._seen, self._wanted, batch)

    def respond(self, batch: Batch, student: Signals) -> Signals:
        """See `Teacher.respond`: every peer learns from the student and the other peers."""
        seen, self._seen = self._seen, []
        if not torch.is_grad_enabled():
            return {}
        self._processes = batch.processes
        said = [{signal: each.detach() for signal, each in one.items()} for one in (student, *seen)]
        for number, (peer, own) in enumerate(zip(self._peers, seen, strict=True), start=1):
            others = [one for place, one in enumerate(said) if place != number]
            asked = peer.objective.wanted_of_teacher
            peer.learn(own, self._together(others, asked, batch), batch, self._steps / self._of)
        return {}

    def step(self) -> None:
        """See `Teacher.step`: every peer makes its own."""
        for peer in self._peers:
            peer.step(self._max_grad_norm, self._processes)
        self._steps += 1

    def state(self) -> dict[str, Tensor]:
        """See `Teacher.state`: weights and optimizers."""
        each = (peer.state().items() for peer in self._peers)
        found = {f"{number}.{name}": tensor for number, items in enumerate(each, start=1) for name, tensor in items}
        return {_STEPS: torch.tensor(self._steps), **found}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Teacher.load_state`. Optimizers go on when the training begins.

        Raises:
            ValueError: it is of other models.
        """
        if _STEPS not in state or not _part(state, len(self._peers)) or _part(state, len(self._peers) + 1):
            raise ValueError(
                f"the checkpoint does not hold {len(self._peers)} models beside the student. Resume with the teacher "
                "that wrote it, or start anew."
            )
        for number, peer in enumerate(self._peers, start=1):
            peer.load_weights(_part(state, number))
        self._steps, self._unread = int(state[_STEPS]), state

    def _together(self, several: Sequence[Signals], asked: frozenset[Signal], batch: Batch) -> Signals:
        """What several say as one, without gradient; of one all that is asked.

        Raises:
            ValueError: something is asked that was not looked at.
        """
        if missing := next((str(signal) for signal in asked for one in several if signal not in one), None):
            raise ValueError(
                f"the losses of a peer ask for {missing} of the student, and the student's losses do not look at it. "
                "Give both losses on the same signals, or the peers losses=[...] on logits."
            )
        if len(several) == 1:
            return {signal: several[0][signal].detach() for signal in asked}
        logits = [one[LOGITS].detach() for one in several] if asked else []
        logits = [batch.align(each) for each in logits] if batch.task is Task.SPAN else logits
        said = (logits, batch.task, "probabilities", None, self.temperature)
        return {signal: mean_answer(*said) for signal in asked}


def _part(state: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """What of a state is of one peer."""
    start = f"{number}."
    return {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}
