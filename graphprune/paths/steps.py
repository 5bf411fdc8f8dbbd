"""What leads from channel to channel: weights, and ops in which channels depend on each other without any.

Channels have the indices of the dependencies; one more stands for what is frozen.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from graphprune.coupling.dependencies import Dependencies
from graphprune.coupling.groups import NOT_PRUNABLE
from graphprune.coupling.interpret import interpret, meta_tensors
from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.coupling.labels import ReplayedSpace
from graphprune.coupling.planes import Planes, channel_planes, squash
from graphprune.ops.call import OpCall
from graphprune.program import Layers, Program, device_of, stored_parameters

aten = torch.ops.aten


def any_along(mask: Tensor, dim: int) -> Tensor:
    """`Tensor.any` along a dim, for large masks: torch finds the largest of bytes up to a hundred times as fast."""
    return mask.view(torch.uint8).amax(dim).view(torch.bool) if mask.shape[dim] else mask.any(dim)


@dataclass(frozen=True)
class WeightPath:
    """A weight that leads from the channels of its columns to those of its rows.

    Attributes:
        name: The parameter.
        row: Its dim of output channels.
        column: Its dim of input channels.
        rows: Channel of each index of that dim, int64; the number of channels for frozen ones.
        columns: Likewise of the other dim.
    """

    name: str
    row: int
    column: int
    rows: Tensor
    columns: Tensor

    def flat(self, live: Tensor) -> Tensor:
        """Which pairs have a live weight, bool ``(rows, columns)``, given the live weights."""
        pairs = live.movedim((self.row, self.column), (0, 1))
        return any_along(pairs.flatten(2), 2) if pairs.dim() > 2 else pairs

    def spread(self, pairs: Tensor, like: Tensor) -> Tensor:
        """Undoes `flat`: each pair for all weights that it has."""
        moved = pairs.reshape(*pairs.shape, *[1] * (like.dim() - 2)).movedim((0, 1), (self.row, self.column))
        return moved.expand(like.shape)


@dataclass(frozen=True)
class PerChannel:
    """A parameter that acts on each channel by itself (depthwise).

    Attributes:
        name: The parameter.
        channels: Channel of each index of dim 0.
    """

    name: str
    channels: Tensor


@dataclass(frozen=True)
class Hub:
    """Channels that mix: a normalisation over channels, a softmax.

    Attributes:
        before: What goes in.
        after: What all of it gets into.
    """

    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Ends:
    """Channels that depend on the input, or that the output depends on, in a way that no weight tells.

    Attributes:
        sources: The former: of an embedding, a product of data.
        sinks: The latter: of what is multiplied with data, or reduced.
    """

    sources: Tensor
    sinks: Tensor


Step = WeightPath | PerChannel | Hub | Ends


def paths_of(program: Program) -> list[Step]:
    """All that leads from channel to channel in an analysed program, in its order."""
    dependencies = program.dependencies
    assert dependencies is not None
    finder = _WeightFinder(program, dependencies)
    names = {contraction.node for contraction in dependencies.contractions}
    of_nodes = {node.name: finder.steps(node) for node in program.module.graph.nodes if node.name in names}
    known = {name for name, steps in of_nodes.items() if steps and not any(isinstance(step, Ends) for step in steps)}
    run = _PathRun(
        ReplayedSpace(dependencies.space), device_of(program), choices=dict(dependencies.choices),
        attention=program.attention, channel_of=_with_frozen(dependencies, dependencies.channel_of), known=known,
    )  # fmt: skip

    def record(node: fx.Node, result: Any) -> None:
        if node.op == "placeholder":
            run.mark(result)

    interpret(program, run, meta_tensors(program.module), program.example, record)
    order = [node.name for node in program.module.graph.nodes]
    return [step for name in order for step in (*of_nodes.get(name, ()), *run.found.get(name, ()))]


def _with_frozen(dependencies: Dependencies, channels: Tensor) -> Tensor:
    """Channels with the index past the last for frozen ones."""
    return torch.where(channels == NOT_PRUNABLE, dependencies.channels, channels)


_LINEAR = {functional.linear, aten.linear.default}
_PRODUCTS = {
    torch.matmul, torch.mm, torch.bmm, operator.matmul, aten.matmul.default, aten.mm.default, aten.bmm.default,
    "matmul", "mm", "bmm",
}  # fmt: skip
_ADDED = {torch.addmm, aten.addmm.default, torch.baddbmm, aten.baddbmm.default}
_CONVOLUTIONS = {
    torch.conv1d, torch.conv2d, torch.conv3d, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default
}  # fmt: skip
"""Only those whose weight has the output channels first; transposed ones by function are looked at conservatively."""


class _WeightFinder:
    """Finds the weights that a contraction's node reads, and which of their dims is summed over."""

    def __init__(self, program: Program, dependencies: Dependencies) -> None:
        self.module, self.layers, self.dependencies = program.module, Layers(program.module), dependencies
        self.names = {id(parameter): name for name, parameter in stored_parameters(program.module).items()}
        self.classes = dependencies.classes()

    def steps(self, node: fx.Node) -> list[Step]:
        """What the weights of a node do; where that is not known, their channels are both ends."""
        read = list(self._read(node))
        found = [(parameter, self._orientation(node, parameter)) for parameter in read]
        if any(orientation is None for _, orientation in found):
            channels = distinct(self._channels(each, dim) for each in read for dim in range(each.dim()))
            return [Ends(channels, channels)]
        return [self._step(parameter, *orientation) for parameter, orientation in found if orientation is not None]

    def _step(self, parameter: nn.Parameter, row: int, column: int, per_channel: bool) -> Step:
        name = self.names[id(parameter)]
        if per_channel:
            return PerChannel(name, self._channels(parameter, 0))
        return WeightPath(name, row, column, self._channels(parameter, row), self._channels(parameter, column))

    def _read(self, node: fx.Node) -> Iterator[nn.Parameter]:
        """Parameters of two dims or more."""
        found: list[object] = []
        if node.op == "call_module":
            found = list(self.layers.called_by(node).parameters())
        found += [self._stored(source) for source in node.all_input_nodes if source.op == "get_attr"]
        yield from (each for each in found if isinstance(each, nn.Parameter) and each.dim() >= 2)

    def _stored(self, node: fx.Node) -> object:
        return operator.attrgetter(str(node.target))(self.module)

    def _orientation(self, node: fx.Node, parameter: nn.Parameter) -> tuple[int, int, bool] | None:
        """Dims of output and of input channels, and whether each channel stays by itself; None if not known."""
        if node.op == "call_module":
            return _of_layer(self.layers.called_by(node), parameter)
        places = [
            place for place, argument in enumerate(node.args)
            if isinstance(argument, fx.Node) and argument.op == "get_attr" and self._stored(argument) is parameter
        ]  # fmt: skip
        last, dims = parameter.dim() - 1, parameter.dim()
        if node.target in _LINEAR and places == [1]:
            return 0, 1, False
        if node.target in _CONVOLUTIONS and places == [1]:
            groups = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
            return 0, 1, bool(groups != 1 and parameter.shape[1] == 1)
        if (node.target in _PRODUCTS and places == [1]) or (node.target in _ADDED and places == [2]):
            return last, dims - 2, False
        if node.target in _PRODUCTS and places == [0]:
            return dims - 2, last, False
        return None

    def _channels(self, parameter: nn.Parameter, dim: int) -> Tensor:
        """Channel of each index of a dim; a dim of one index has no label, and is taken to be frozen."""
        known = self.classes.get((self.names[id(parameter)], dim))
        if known is None:
            return torch.full((parameter.shape[dim],), self.dependencies.channels)
        return _with_frozen(self.dependencies, known)


def _of_layer(layer: nn.Module, parameter: nn.Parameter) -> tuple[int, int, bool] | None:
    # not by attribute: a parametrized weight is computed then, and a spectral norm updates its buffers by that
    if layer._parameters.get("weight") is not parameter:
        return None
    if isinstance(layer, nn.Linear):
        return 0, 1, False
    if isinstance(layer, _ConvNd):
        by_itself = layer.groups > 1 and layer.groups == layer.in_channels
        return (1, 0, by_itself) if layer.transposed else (0, 1, by_itself)
    return None


@dataclass
class _PathRun(LabelRun):
    """A run on known labels that notes where channels depend on each other without weights.

    Attributes:
        channel_of: Of each label; the number of channels for frozen ones.
        known: Nodes whose contractions are with weights that are known.
        found: What is found, by node.
    """

    channel_of: Tensor = field(default_factory=lambda: torch.empty(0))
    known: set[str] = field(default_factory=set)
    found: dict[str, list[Step]] = field(default_factory=dict)
    _computed: dict[int, Labelled] = field(default_factory=dict, repr=False)

    def mark(self, tree: Any) -> None:
        """Notes tensors that depend on the input; held, so that no other one gets their identity."""
        self._computed |= {id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Labelled)}

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As in any run; what is made of something that depends on the input does so too."""
        result = super().dispatch(func, args, kwargs)
        if any(id(leaf) in self._computed for leaf in tree_leaves((args, kwargs))):
            self.mark(result)
        return result

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        planes = super()._planes_of_outputs(call)
        operands = [leaf for leaf in tree_leaves(call.arguments) if id(leaf) in self._computed]
        if operands and not (call.contracts and self.node in self.known):
            before = self._channels(plane for operand in operands for plane in operand.planes)
            self._note(call, before, self._channels(plane for of_output in planes for plane in of_output))
        return planes

    def _note(self, call: OpCall, before: Tensor, after: Tensor) -> None:
        """Notes what an op makes of the channels of its operands, other than passing them on."""
        new, gone = after[~torch.isin(after, before)], before[~torch.isin(before, after)]
        lost = gone if call.contracts or (call.mixes and not len(after)) else gone[:0]
        steps = self.found.setdefault(self.node, [])
        if len(new) or len(lost):
            steps.append(Ends(new, lost))
        if call.mixes and len(after):
            steps.append(Hub(before, after))

    def _channels(self, planes: Iterable[Tensor]) -> Tensor:
        return distinct(self.channel_of[squash(plane)].reshape(-1) for plane in channel_planes(tuple(planes)))


def distinct(parts: Iterable[Tensor]) -> Tensor:
    """The distinct integers of some tensors, ascending; none of none."""
    found: Tensor = torch.cat([torch.empty(0, dtype=torch.long), *parts]).unique()
    return found
