"""Runs a program on its labels, and notes the steps that lead from channel to channel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.labels.labels import PINNED, look_up
from graphprune.labels.planes import Planes, channel_planes, squash
from graphprune.ops.call import OpCall
from graphprune.ops.schema import schema_of
from graphprune.paths.outputs import Leaving
from graphprune.paths.steps import Hub, PerChannel, Step, WeightPath, distinct

Bundles = frozenset[int]

aten = torch.ops.aten


@dataclass
class _Memory:
    """Channels of tensors that depend on the input and share one memory.

    Attributes:
        bundles: Bundles that the tensors depend on, if none of their channels can be pruned.
        roots: Roots of the labels of each tensor.
    """

    bundles: Bundles = frozenset()
    roots: list[Tensor] = field(default_factory=list)


@dataclass
class PathRun(LabelRun):
    """A run on known labels that notes where channels depend on each other, through weights or without them.

    A tensor depends on the input through its channels; if none of them can be pruned, through its bundles; and if it
    has none, always. Each operand of an op influences all channels of the result that it does not have itself, except
    in concatenations. Where an op sums or normalises over channels, these influence all channels of the result.

    Attributes:
        channel_of: Channel of each label; `frozen` for a label that cannot be pruned.
        root: Root of each label, see `ties_without_pins`.
        frozen: The channel that stands for all that is frozen.
        channels: Number of channels so far, including the frozen one and the bundles.
        known: For nodes that contract with known weights, the steps of these weights.
        found: The steps that are found, by node.
        leaving: The tensors that leave the program.
        otherwise: Roots of labels whose channels something other than known weights influences.
        mixed: Sets of roots of labels whose channels influence each other.
    """

    channel_of: Tensor = field(default_factory=lambda: torch.empty(0))
    root: Tensor = field(default_factory=lambda: torch.empty(0))
    frozen: int = 0
    channels: int = 0
    known: dict[str, list[WeightPath | PerChannel]] = field(default_factory=dict)
    found: dict[str, list[Step]] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    otherwise: list[Tensor] = field(default_factory=list)
    mixed: list[Tensor] = field(default_factory=list)
    _memory: dict[int, _Memory] = field(default_factory=dict, repr=False)
    """Channels of the tensors that depend on the input, by their memory."""
    _of_result: Bundles | None = None
    """Bundles of the result of the op that runs now; None if the result does not depend on the input."""

    def depends(self, tree: Any, bundles: Bundles = frozenset()) -> None:
        """Notes that tensors depend on the input."""
        for leaf in _labelled(tree):
            memory = self._memory.setdefault(self.memory_of(leaf), _Memory())
            memory.bundles = bundles
            memory.roots.append(_roots(self.root, [leaf.planes]))

    def leave(self, node: str, tree: Any) -> None:
        """Notes the tensors that leave the program, and that the channels they depend on are useful."""
        self.node = node
        for leaf in _labelled(tree):
            bundles = self._memory.get(self.memory_of(leaf), _Memory()).bundles
            self.leaving.append(Leaving(_roots(self.root, [leaf.planes]), bundles))
            self._use(_tensor(bundles))

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one op as in any run; its result depends on the input if an operand does."""
        result = super().dispatch(func, args, kwargs)
        if self._of_result is not None:
            self.depends(result, self._of_result)
        return result

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        planes = super()._planes_of_outputs(call)
        operands = [leaf for leaf in _labelled(call.arguments) if self.memory_of(leaf) in self._memory]
        if len(operands) == 1 and _is_passed_on(call, operands[0], planes):
            self._of_result = self._memory[self.memory_of(operands[0])].bundles
            return planes
        known = self.known.get(self.node, ()) if call.contracts else ()
        if known:
            self._add_weights(known, operands)
        if known and operands:
            self._of_result = self._by_weights(known, operands, planes)
        elif operands:
            self._of_result = self._by_op(call, operands, planes)
        else:
            self._of_result = None
            if call.contracts or call.mixes:  # all operands are constants, which are followed by their labels alone
                of_constants = self._channels_of(leaf.planes for leaf in _labelled(call.arguments))
                self._use(_without(of_constants, self._channels_of(planes)) if known else of_constants)
        self._note_roots(call, operands, planes, by_weights=bool(known) and len(operands) == 1)
        return planes

    def _own(self, operand: Labelled) -> Tensor:
        """Channels that a tensor depends on: its own, else its bundles, else the frozen one."""
        channels = self._channels_of([operand.planes])
        if bool((channels < self.frozen).any()):
            return channels
        bundles = self._memory[self.memory_of(operand)].bundles
        return _tensor(bundles) if bundles else self._always

    def _by_op(self, call: OpCall, operands: Sequence[Labelled], planes: Sequence[Planes]) -> Bundles:
        """Notes what the operands of an op without known weights influence; returns the bundles of its result."""
        owns, after = [self._own(operand) for operand in operands], self._channels_of(planes)
        own, prunable = distinct(owns), after[after < self.frozen]
        if not len(prunable):
            return self._without_channels(own, whole=call.contracts or call.mixes is not None)
        if _is_concatenation(call):
            self._get_into(self._always, _without(prunable, own))
            self._use(own[own > self.frozen])
        else:
            for of_operand in owns:
                self._get_into(of_operand, _without(after, of_operand))
        if call.mixes:
            self._get_into(own, after)
        if call.contracts:
            self._get_into(distinct([self._channels_of([tuple(call.summed)]), _without(own, after)]), after)
        for of_output in planes:  # the same channels in two dims, as in a result for all pairs of channels
            dims = [self._channels_of([(plane,)]) for plane in channel_planes(of_output)]
            shared = distinct(one[torch.isin(one, other)] for one, other in combinations(dims, 2))
            self._get_into(shared, shared)
        return frozenset()

    def _without_channels(self, own: Tensor, whole: bool) -> Bundles:
        """The bundles of a result of which nothing can be pruned.

        Args:
            own: Channels that the operands depend on.
            whole: Whether the result depends on all of them, and not on a part that the result may have selected.
        """
        if bool((own == self.frozen).any()):
            self._use(own if whole else own[own > self.frozen])
            return frozenset()
        if bool((own > self.frozen).all()):
            return frozenset(own.tolist())
        bundle, self.channels = self.channels, self.channels + 1
        self._get_into(own, torch.tensor([bundle]))
        return frozenset({bundle})

    def _add_weights(self, known: Sequence[WeightPath | PerChannel], operands: Sequence[Labelled]) -> None:
        """Adds the weights of a node, after the steps from the operands to the bundles of the weights' columns.

        What is computed from constants counts as reached, because data may be multiplied with it later.
        """
        for operand in operands:
            self._get_into(self._own(operand), distinct(filter(self._is_bundle, map(_columns, known))))
        if not operands:
            self._get_into(self._always, distinct([*map(_columns, known), *map(_rows, known)]))
        self.found.setdefault(self.node, []).extend(known)
        if not operands:  # labels alone are followed through constants
            self._use(distinct(filter(self._is_bundle, map(_rows, known))))

    def _by_weights(
        self, known: Sequence[WeightPath | PerChannel], operands: Sequence[Labelled], planes: Sequence[Planes]
    ) -> Bundles:
        """The bundles of the result of an op with known weights; it usually has one operand besides the weights."""
        after, rows = self._channels_of(planes), distinct(map(_rows, known))
        prunable, out_of = after[after < self.frozen], rows[rows > self.frozen]
        others = _without(prunable, rows) if len(operands) == 1 else torch.cat([after, out_of])
        for own in map(self._own, operands):
            self._get_into(own, _without(others, own))
        if not len(prunable):
            owns = [self._own(operand) for operand in operands] if len(operands) > 1 else []
            return self._without_channels(distinct([out_of, *owns]), whole=True)
        self._use(out_of)
        return frozenset()

    def _note_roots(
        self, call: OpCall, operands: Sequence[Labelled], planes: Sequence[Planes], *, by_weights: bool
    ) -> None:
        """Notes the roots of labels, frozen ones too, that something other than known weights influences."""
        roots = _roots(self.root, planes)
        if operands and call.mixes:
            self.mixed.append(roots)
        if not operands or by_weights or _is_concatenation(call):
            return
        if call.contracts:
            self.otherwise.append(roots)
        written = schema_of(call.func).written
        if written is not None and len(operands) > 1 and isinstance(call.arguments[written], Labelled):
            memory = self._memory.get(self.memory_of(call.arguments[written]), _Memory())
            roots = distinct([roots, *memory.roots])
        for operand in operands:
            self.otherwise.append(_without(roots, _roots(self.root, [operand.planes])))

    def _is_bundle(self, channels: Tensor) -> bool:
        return bool((channels > self.frozen).all())

    @property
    def _always(self) -> Tensor:
        """The channel of what is frozen, which is always reached and always useful."""
        return torch.tensor([self.frozen])

    def _use(self, channels: Tensor) -> None:
        """Notes that channels are useful, whatever their weights."""
        if len(channels):
            self._get_into(channels, self._always)

    def _get_into(self, before: Tensor, after: Tensor) -> None:
        if len(before) and len(after):
            self.found.setdefault(self.node, []).append(Hub(before, after))

    def _channels_of(self, tensors: Iterable[Planes]) -> Tensor:
        return _looked_up(self.channel_of, tensors)


def _is_passed_on(call: OpCall, operand: Labelled, planes: Sequence[Planes]) -> bool:
    """Whether the result has the operand's channels, and none influences another, as in most ops."""
    return not call.contracts and not call.mixes and all(of_output is operand.planes for of_output in planes)


def _is_concatenation(call: OpCall) -> bool:
    """Whether the operands lie side by side in the result, so that they do not influence each other."""
    return call.func.overloadpacket is aten.cat


def _columns(step: WeightPath | PerChannel) -> Tensor:
    return step.columns if isinstance(step, WeightPath) else step.channels


def _rows(step: WeightPath | PerChannel) -> Tensor:
    return step.rows if isinstance(step, WeightPath) else step.channels


def _labelled(tree: Any) -> list[Labelled]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Labelled)]


def _roots(root: Tensor, tensors: Iterable[Planes]) -> Tensor:
    """The distinct roots of the labels of some tensors, without the one of indices that have no label of their own."""
    found = _looked_up(root, tensors)
    return found[found != PINNED]


def _looked_up(table: Tensor, tensors: Iterable[Planes]) -> Tensor:
    return distinct(
        look_up(table, squash(plane)).reshape(-1) for planes in tensors for plane in channel_planes(tuple(planes))
    )


def _without(these: Tensor, others: Tensor) -> Tensor:
    return these[~torch.isin(these, others)]


def _tensor(bundles: Bundles) -> Tensor:
    return torch.tensor(sorted(bundles), dtype=torch.long)
