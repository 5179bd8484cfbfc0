"""Hooks on the needed modules only, armed only inside `with`."""

import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.hooks import RemovableHandle

from hf_distill import anatomy
from hf_distill.batch import Batch
from hf_distill.derivatives import input_gradient
from hf_distill.heads import HeadLogits
from hf_distill.signals import ATTENTION_KINDS, EMBEDDINGS, LOGITS, TASK_LOSS, Layer, Signal
from hf_distill.vocabulary import find_vocabulary_head

logger = logging.getLogger(__name__)
_SAID: set[str] = set()  # of which models it was said that they make maps in their own way


@dataclass(frozen=True)
class _Place:
    """One block that is looked at: which layers it is (a shared block is several), and what is wanted of it."""

    block: nn.Module
    layers: list[int]
    embeddings: bool
    hidden: bool
    attention: bool
    modules: list[nn.Module]


class Capture:
    """Looks at some signals of a model during one forward:

        capture = Capture(model, {LOGITS, hidden(3)})
        with capture:
            outputs = model(**inputs)
        signals = capture.take(outputs, batch)

    Outside of `with` nothing is hooked and the model is as it was: gradient checkpointing runs blocks again in
    backward, and that must not be recorded. Nothing is switched to eager attention: q, k, v and the mask of the wanted
    layers are kept while sdpa or flash attention runs, or the eager attention of a family that has no other because it
    caps its scores, and maps and scores are not computed before somebody touches them (`recorded.RecordedMap`).
    Families with attention code of their own (DeBERTa, MPNet, ...) are asked for the maps of the wanted layers. What a
    layer says first is kept, whatever runs it again.

    Derivatives by the token embeddings are taken with gradients on, whatever is around; where they are differentiated
    again, attention runs in the one implementation that has second derivatives, inside of `with` only.

    Where a batch says that nobody reads a vocabulary's logits but those that count (`with capture.counting(batch)`),
    the head is given these positions, and a last layer that is plainly linear is not computed: see `HeadLogits`.

    Args:
        model: a transformers model or PEFT wrapper, not wrapped for DDP.
        wanted: the signals; layers counted from 0 or from the end.
        order: for each label the index of it in the model's own logits; None where that is the same.
        ends: whether the forward ends where the last signal was seen; `outputs` is then None where it ended early.

    Attributes:
        head: the model's `VocabularyHead`, found once; None where it has none.

    Raises:
        ValueError: a layer does not exist, or the family's attention cannot be recorded; on entering `with`, if blocks
            are checkpointed with `use_reentrant=True`, or checkpointed or compiled where derivatives by the embeddings
            are differentiated again.
    """

    def __init__(
        self, model: nn.Module, wanted: Iterable[Signal], order: Tensor | None = None, ends: bool = False
    ) -> None:
        self.wanted = frozenset(wanted)
        self._name = type(anatomy.unwrap(model)).__name__
        self._order = order
        kinds = {signal.kind for signal in self.wanted}
        self._head = anatomy.find_head(model) if "label_embeddings" in kinds else None
        self._blocks = anatomy.find_blocks(model) if kinds - {"logits", "task_loss"} else []
        self._embeddings = anatomy.find_embeddings(model) if "input_gradient" in kinds else None
        apart = not kinds & {"task_loss", "input_gradient", "label_embeddings"}  # these compute with all logits
        self.head = find_vocabulary_head(model)
        self._vocabulary = self.head if LOGITS in self.wanted and apart else None
        self._counted: Batch | None = None
        self._twice = any(signal.order == 2 for signal in self.wanted)
        self._contexts = ExitStack()
        inside = [signal for signal in self.wanted if signal.kind in ("hidden", "pooled", *ATTENTION_KINDS)]
        blocks = self._blocks if inside else []
        if inside and not blocks:
            raise ValueError(f"no blocks were found in {self._name}: it has no layers to match.")
        self._count = len(blocks)
        hidden = {self._index(signal) for signal in inside if signal.kind in ("hidden", "pooled")}
        attention = {self._index(signal) for signal in inside if signal.kind in ATTENTION_KINDS}
        self._last = _last(hidden | attention) if ends and len(inside) == len(self.wanted) and inside else None
        self._asks = bool(attention) and anatomy.hands_out_maps(model)
        if self._asks:
            self._check_maps(kinds)
        self._configs = anatomy.attention_configs(model) if attention and not self._asks else []
        self._sdpa = anatomy.has_sdpa(anatomy.unwrap(model))
        self._places = _places(blocks, hidden, attention)
        self._before: list[Any] = []
        self._handles: list[RemovableHandle] = []
        self._forget()

    def counting(self, batch: Batch) -> "Capture":
        """For the next `with`: what the model is given, which knows whether the head may leave positions out."""
        self._counted = batch if batch.counted_only and batch.positions is not None else None
        return self

    def __enter__(self) -> "Capture":
        self._forget()
        if torch.is_grad_enabled() and any(anatomy.loses_gradients(place.block) for place in self._places):
            raise ValueError(
                f"{self._name} is checkpointed with use_reentrant=True: what is caught inside a block would have no "
                'gradient. Call activation_checkpointing_enable({"use_reentrant": False}).'
            )
        self._create_graph = torch.is_grad_enabled()
        self._check_recomputed_attention()
        if self._embeddings is not None:
            self._check_second_derivatives()
        self._arm_ends()
        self._arm_blocks()
        self._before = [config._attn_implementation_internal for config in self._configs]
        for config in self._configs:
            config._attn_implementation_internal = anatomy.recording_name(
                config._attn_implementation_internal, self._sdpa
            )
        return self

    def _arm_ends(self) -> None:
        """Before the blocks and after them."""
        if self._embeddings is not None:
            self._contexts.enter_context(torch.enable_grad())
            if self._create_graph or self._twice:
                self._contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._handles.append(self._embeddings.register_forward_hook(self._keep_embedded))
        if self._head is not None:
            self._handles.append(self._head.register_forward_pre_hook(self._keep_head_input))
        if self._counted is not None and self._vocabulary is not None:
            self._handles.append(self._vocabulary.entry.register_forward_pre_hook(self._keep_counted(self._counted)))
            if self._vocabulary.is_linear:
                vars(self._vocabulary.last)["forward"] = self._not_yet

    def _arm_blocks(self) -> None:
        for place in self._places:
            if place.embeddings:
                self._handles.append(place.block.register_forward_pre_hook(self._keep_input, with_kwargs=True))
            if place.hidden:
                self._handles.append(place.block.register_forward_hook(self._keep_output(place.layers)))
            if place.attention:
                records: list[Any] = []
                self._records.append((place.layers, records))
                if self._asks:
                    self._handles.append(place.block.register_forward_pre_hook(anatomy.ask_for_map, with_kwargs=True))
                    self._handles.append(place.block.register_forward_hook(_keep_map(records)))
                else:
                    for module in place.modules:
                        vars(module)[anatomy.SINK] = records
        if self._last is not None:
            self._handles.append(self._blocks[self._last].register_forward_hook(self._end(self._last)))

    def _check_maps(self, kinds: set[str]) -> None:
        """Maps are all that such a family gives, and that it computes them in its own way is said once."""
        beyond = sorted(kinds & set(ATTENTION_KINDS) - {"attention"})
        if beyond:
            raise ValueError(
                f"{self._name} computes its attention in code of its own and hands out maps only, no "
                f"{' or '.join(beyond).replace('_', ' ')}. Use AttentionKL, or HiddenMSE."
            )
        if self._name not in _SAID:
            _SAID.add(self._name)
            logger.info("%s computes attention in code of its own; its maps are taken as it makes them.", self._name)

    def _check_recomputed_attention(self) -> None:
        """Backward runs a checkpointed block again, outside of `with`, and must run the same attention."""
        looked_at = [place for place in self._places if place.attention and anatomy.is_checkpointed(place.block)]
        if not (torch.is_grad_enabled() and looked_at):
            return
        for config in self._configs:
            runs = config._attn_implementation_internal
            if not anatomy.recording_name(runs, self._sdpa).startswith(str(runs)):
                raise ValueError(
                    f"{self._name} runs {runs} attention, which is not recorded, and its blocks are checkpointed. "
                    'Call set_attn_implementation("sdpa") on it, or turn activation_checkpointing off.'
                )

    def _check_second_derivatives(self) -> None:
        if self._create_graph and any(map(anatomy.is_checkpointed, self._blocks)):
            raise ValueError(
                f"the activations of {self._name} are checkpointed, and derivatives by the embeddings are "
                "differentiated again, which checkpoints cannot. Turn activation_checkpointing off."
            )
        if self._create_graph and any(block._compiled_call_impl is not None for block in self._blocks):
            raise ValueError(
                f"{self._name} is compiled, and derivatives by the embeddings are differentiated again, which "
                "compiled code cannot. Turn torch_compile off."
            )

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> bool:
        self._contexts.close()
        for handle in self._handles:
            handle.remove()
        if self._vocabulary is not None and vars(self._vocabulary.last).get("forward") == self._not_yet:
            del vars(self._vocabulary.last)["forward"]
        self._counted = None
        for config, before in zip(self._configs, self._before, strict=True):
            config._attn_implementation_internal = before
        for place in self._places:
            if place.attention:
                for module in place.modules:
                    vars(module).pop(anatomy.SINK, None)
        self._handles, self._before = [], []
        if failed not in (None, _Enough):
            self._forget()
        return failed is _Enough

    def take(self, outputs: Any, batch: Batch) -> dict[Signal, Tensor]:
        """What was seen in the last forward, inside of `with` or after it; nothing of it is kept here.

        Args:
            outputs: the model's output.
            batch: the batch that it was given; it knows padding.

        Returns:
            {signal: tensor}, one for each wanted signal, shapes as in `signals`.

        Raises:
            ValueError: a wanted layer did not run since `with`, or was taken already.
        """
        records = {
            layer: record for layers, found in self._records for layer, record in zip(layers, found, strict=False)
        }
        seen = {signal: self._one(signal, outputs, batch, records) for signal in self.wanted}
        if self._embeddings is not None and not self._create_graph:  # the graph was for the derivatives alone
            seen = {signal: each.detach() for signal, each in seen.items()}
        self._forget()
        return seen

    def _one(self, signal: Signal, outputs: Any, batch: Batch, records: dict[int, Any]) -> Tensor:
        if signal == LOGITS:
            return self._placed(self._ordered(anatomy.logits_of(outputs, batch.task), axis=-1), batch)
        if signal.kind == "input_gradient":
            logits = self._ordered(anatomy.logits_of(outputs, batch.task), axis=-1)
            return input_gradient(logits, self._embedded(), batch, signal, self._create_graph)
        if signal.kind == "label_embeddings":
            return self._ordered(self._seen_by_labels(), axis=1)
        if signal == TASK_LOSS:
            if outputs.loss is None:
                raise ValueError(f"{self._name} was given no labels and computes no loss of its own. Use TaskLoss.")
            loss: Tensor = outputs.loss
            return loss
        layer = self._index(signal)
        if layer not in (records if signal.kind in ATTENTION_KINDS else self._seen):
            raise ValueError(
                f"{signal} of {self._name} was not seen: call the model once inside `with`, then take once."
            )
        if signal.kind in ATTENTION_KINDS:
            return records[layer].signal(signal.kind)  # type: ignore[index]
        hidden = self._seen[layer]
        return hidden if signal.pooling is None else batch.pool(hidden, signal.pooling)

    def _placed(self, logits: Tensor, batch: Batch) -> Tensor:
        """As they are, or, where the head was given some positions only, in the place of those of all."""
        if not self._left_out or batch.positions is None:
            return logits.whole() if isinstance(logits, HeadLogits) else logits
        if logits.shape[:-1].numel() != len(batch.counted_rows):
            raise RuntimeError(
                f"{self._name} was given {len(batch.counted_rows)} positions in its head and answered with "
                f"{tuple(logits.shape)}: it is not known which is which."
            )
        return HeadLogits.placed(logits, batch.counted_rows.to(logits.device), batch.positions.shape)

    def _ordered(self, values: Tensor, axis: int) -> Tensor:
        return values if self._order is None else values.index_select(axis, self._order)

    def _embedded(self) -> Tensor:
        if self._token_embeddings is None:
            raise ValueError(f"{self._name} did not embed tokens: give it input_ids, and call it inside `with`.")
        return self._token_embeddings

    def _seen_by_labels(self) -> Tensor:
        """What the head's last linear layer multiplies and adds up, label by label: (batch, labels, width)."""
        entering = self._head_input
        if entering is None or entering.dim() != 2 or self._head is None:
            raise ValueError(f"the head of {self._name} does not read one vector an example. Use SoftTargets instead.")
        return entering[:, None, :] * self._head.weight

    def _index(self, signal: Signal) -> Layer:
        """The layer of a signal, counted from 0."""
        layer = self._count - 1 if signal.kind == "pooled" else signal.layer
        if layer == EMBEDDINGS and signal.kind == "hidden":
            return EMBEDDINGS
        if not isinstance(layer, int) or not -self._count <= layer < self._count:
            raise ValueError(
                f"{signal}: layer {layer} does not exist: {self._name} has {self._count} layers, "
                f"0 to {self._count - 1}."
            )
        return layer % self._count

    def _forget(self) -> None:
        self._seen: dict[Layer, Tensor] = {}
        self._token_embeddings: Tensor | None = None
        self._head_input: Tensor | None = None
        self._left_out = False
        self._records: list[tuple[list[int], list[Any]]] = []

    def _keep_embedded(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._token_embeddings is None:  # an encoder-decoder embeds twice
            self._token_embeddings = output if output.requires_grad else output.requires_grad_()

    def _keep_counted(self, batch: Batch) -> Callable[..., Any]:
        """Gives the head the positions that count, one row each, if it is about to be given all of them."""

        def keep(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if not args or args[0].dim() != 3 or batch.counted_positions(args[0]) is None:
                return None
            self._left_out = True
            rows = batch.counted_rows.to(args[0].device)  # of a model that is spread out, the head is elsewhere
            return args[0].flatten(0, 1).index_select(0, rows)[None], *args[1:]

        return keep

    def _not_yet(self, hidden: Tensor) -> Tensor:
        """Stands in for the last layer of a vocabulary's head."""
        last: Any = self._vocabulary.last  # type: ignore[union-attr]
        if not self._left_out:
            return nn.functional.linear(hidden, last.weight, last.bias)
        return HeadLogits.of(hidden, last.weight, last.bias)

    def _keep_head_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._head_input = args[0]

    def _keep_input(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entering = args[0] if args else kwargs["hidden_states"]
        self._seen.setdefault(EMBEDDINGS, entering)

    def _keep_output(self, layers: list[int]) -> Callable[..., None]:
        remaining = list(layers)  # a list, because a compiled block traces this and has no iterators

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if remaining:
                self._seen[remaining.pop(0)] = output[0] if isinstance(output, tuple) else output

        return keep

    def _end(self, last: int) -> Callable[..., None]:
        calls = [layer for layer, block in enumerate(self._blocks) if block is self._blocks[last]]

        def end(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if calls.pop(0) == last:
                raise _Enough

        return end


def _keep_map(records: list[Any]) -> Callable[..., None]:
    def keep(module: nn.Module, args: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        records.append(anatomy.HandedOut(output[1]))

    return keep


class _Enough(Exception):  # no error: it leaves a forward where everything was seen
    pass


def _last(layers: set[Layer]) -> int:
    """The last block that must run."""
    return max(0 if layer == EMBEDDINGS else layer for layer in layers)


def _places(blocks: list[nn.Module], hidden: set[Layer], attention: set[Layer]) -> list[_Place]:
    """Each different block that is looked at, once."""
    layers: dict[nn.Module, list[int]] = {}
    for layer, block in enumerate(blocks):
        layers.setdefault(block, []).append(layer)
    places = []
    for block, mine in layers.items():
        wants = (EMBEDDINGS in hidden and mine[0] == 0, not hidden.isdisjoint(mine), not attention.isdisjoint(mine))
        if any(wants):
            places.append(_Place(block, mine, *wants, modules=list(block.modules())))
    return places
