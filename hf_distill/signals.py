"""The words of the library: what can be looked at in a model.

A signal is an object and its own dictionary key, so that a typo is an ImportError and never a silent zero:

    student[hidden(3)]       # the output of block 3 of the student, shape (batch, tokens, width)
    teacher[LOGITS]          # shape (batch, classes), or (batch, tokens, classes)
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

MAPS = ("attention", "attention_scores")
RELATED = ("query", "key", "value")  # of tokens; some losses look at nothing but how alike they are
ATTENTION_KINDS = (*MAPS, *RELATED)
EMBEDDINGS: Literal["embeddings"] = "embeddings"
Layer = int | Literal["embeddings"]
Pooling = Literal["first", "last", "mean"]
Direction = int | Literal["loss"]


@dataclass(frozen=True)
class Signal:
    """One thing to look at. Make it with the functions below; compare and hash by value.

    Args:
        kind: what it is, for example ``"hidden"``.
        layer: the block, counted from 0, negative from the end; ``EMBEDDINGS`` for what enters block 0.
        pooling: how tokens become one vector, for ``pooled`` only.
        direction: along what is differentiated, for ``input_gradient`` only.
        order: how often, for ``input_gradient`` only.
        teacher: of which member of an ensemble; None where there is one teacher, or for the ensemble's own answer.
    """

    kind: str
    layer: Layer | None = None
    pooling: Pooling | None = None
    direction: Direction | None = None
    order: int | None = None
    teacher: int | None = None

    def __str__(self) -> str:
        parts = (self.layer, self.pooling, self.direction, self.order)
        inside = ", ".join(str(part) for part in parts if part is not None)
        own = f"{self.kind}({inside})" if inside else self.kind
        return own if self.teacher is None else f"{own} of teacher {self.teacher}"

    def of(self, teacher: int | None) -> "Signal":
        """The same of one member of an ensemble, counted from 0; None: of a teacher by itself."""
        return replace(self, teacher=teacher)


Signals = Mapping[Signal, Tensor]

LOGITS = Signal("logits")
TASK_LOSS = Signal("task_loss")
TRUST = Signal("trust")
"""How much what a teacher says of each prediction counts, 0 to 1: of the shape of the predictions, or in multi-label
(batch, labels). A teacher says it unasked (`Teacher.says_trust`); without it all counts."""
BOUNDARY = Signal("boundary")
"""What both say of each example's boundary sample, the student's logits with gradient and then the teacher's, shape
(batch, 2, classes); both 0 where an example has none. An `augment.boundary.BoundaryTeacher` gives it."""


def hidden(layer: Layer) -> Signal:
    """Output of block `layer` before any final norm; with `EMBEDDINGS` what enters block 0. (batch, tokens, width)."""
    return Signal("hidden", layer)


def pooled(pooling: Pooling = "first") -> Signal:
    """One vector an example from the last block: its first, last or mean attended token. (batch, width)."""
    return Signal("pooled", pooling=pooling)


def attention(layer: int) -> Signal:
    """Attention probabilities of block `layer` without dropout, masked keys 0. (batch, heads, query, key)."""
    return Signal("attention", layer)


def attention_scores(layer: int) -> Signal:
    """Scaled query-key products of block `layer` before mask and softmax. (batch, heads, query, key)."""
    return Signal("attention_scores", layer)


def query(layer: int) -> Signal:
    """Queries of block `layer`. (batch, heads, tokens, head width)."""
    return Signal("query", layer)


def key(layer: int) -> Signal:
    """Keys of block `layer`. (batch, key-value heads, tokens, head width)."""
    return Signal("key", layer)


def value(layer: int) -> Signal:
    """Values of block `layer`. (batch, key-value heads, tokens, head width)."""
    return Signal("value", layer)


def label_embeddings() -> Signal:
    """What each label sees of an example: the head's input times the label's weights. (batch, labels, width)."""
    return Signal("label_embeddings")


def input_gradient(direction: Direction = "loss", order: int = 1) -> Signal:
    """Derivative of the answer by the token embeddings. (batch, tokens, width), with its own graph in the student.

    Args:
        direction: ``"loss"`` differentiates the labels' loss, summed over the examples; a number the projection of the
            logits on that random unit vector, which is the same for both models and another one in every step.
        order: 2 differentiates the first derivative's projection on a random unit vector of the embedding space.
    """
    return Signal("input_gradient", direction=direction, order=order)


@dataclass(frozen=True)
class ModelShape:
    """What a loss must know about a model before step 1, with no need to know the model.

    Args:
        name: how messages call it, for example ``"BertForSequenceClassification"``.
        layers: number of blocks.
        width: size of a hidden state.
        heads: attention heads, 0 where the model has none that can be recorded.
        classes: size of the last axis of the logits, 0 without a head.
        causal: whether a position sees only what is before it.
        key_heads: heads of keys and values, fewer than `heads` where queries share them.
        head_width: size of one head.
        members: of an ensemble, what each teacher in it is (None for one that is no model); what stands beside it is
            then that of the first that is a model, and the classes are the ensemble's own.
    """

    name: str
    layers: int
    width: int
    heads: int
    classes: int
    causal: bool = False
    key_heads: int = 0
    head_width: int = 0
    members: tuple["ModelShape | None", ...] = ()
