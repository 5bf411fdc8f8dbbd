"""The weights that a program's contractions read, as steps from channel to channel."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import NOT_PRUNABLE
from graphprune.paths.steps import Hub, PerChannel, Step, WeightPath, distinct
from graphprune.program.program import Program
from graphprune.program.tensors import Layers, stored_parameters

aten = torch.ops.aten

_LINEAR = {functional.linear, aten.linear.default}
_PRODUCTS = {
    torch.matmul, torch.mm, torch.bmm, operator.matmul, aten.matmul.default, aten.mm.default, aten.bmm.default,
    "matmul", "mm", "bmm",
}  # fmt: skip
_ADDED = {torch.addmm, aten.addmm.default, torch.baddbmm, aten.baddbmm.default}
_CONVOLUTIONS = {
    torch.conv1d, torch.conv2d, torch.conv3d, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default
}  # fmt: skip
"""Functions whose weight has the output channels first; without transposed ones, whose channels count as joined."""


class WeightFinder:
    """Finds the weights that a node with a contraction reads, and which of their dims is summed over.

    Attributes:
        channels: Number of channels so far, including the frozen one and the bundles.
    """

    def __init__(self, program: Program, dependencies: Dependencies) -> None:
        self.module, self.layers, self.dependencies = program.module, Layers(program.module), dependencies
        self.names = {id(parameter): name for name, parameter in stored_parameters(program.module).items()}
        self.classes, self.channels = dependencies.classes(), dependencies.channels + 1
        self._bundles: dict[tuple[str, int], int] = {}

    def steps(self, node: fx.Node) -> list[Step]:
        """The steps of a node's weights; if they are not known, the channels count as joined to input and output."""
        read = list(self._read(node))
        found = [(parameter, self._orientation(node, parameter)) for parameter in read]
        if any(orientation is None for _, orientation in found):
            always = torch.tensor([self.dependencies.channels])
            channels = distinct(self._channels(each, dim) for each in read for dim in range(each.dim()))
            return [Hub(always, channels), Hub(channels, always)]
        return [self._step(parameter, *orientation) for parameter, orientation in found if orientation is not None]

    def _step(self, parameter: nn.Parameter, row: int, column: int, per_channel: bool) -> Step:
        name = self.names[id(parameter)]
        if per_channel:
            return PerChannel(name, self._channels(parameter, 0))
        return WeightPath(name, row, column, self._channels(parameter, row), self._channels(parameter, column))

    def _read(self, node: fx.Node) -> Iterator[nn.Parameter]:
        """Yields the parameters of two dims or more that a node reads."""
        found: list[object] = []
        if node.op == "call_module":
            found = list(self.layers.called_by(node).parameters())
        found += [self._stored(source) for source in node.all_input_nodes if source.op == "get_attr"]
        yield from (each for each in found if isinstance(each, nn.Parameter) and each.dim() >= 2)

    def _stored(self, node: fx.Node) -> object:
        return operator.attrgetter(str(node.target))(self.module)

    def _orientation(self, node: fx.Node, parameter: nn.Parameter) -> tuple[int, int, bool] | None:
        """Dims of output and input channels, and whether the node is depthwise; None if not known."""
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
        """Channel of each index of a dim; one bundle if none can be pruned, as in a dim of size 1."""
        key, size = (self.names[id(parameter)], dim), parameter.shape[dim]
        known = self.classes.get(key, torch.full((size,), NOT_PRUNABLE))
        if not bool((known == NOT_PRUNABLE).all()):
            return with_frozen(self.dependencies, known)
        if key not in self._bundles:
            self._bundles[key], self.channels = self.channels, self.channels + 1
        return torch.full((size,), self._bundles[key])


def with_frozen(dependencies: Dependencies, channels: Tensor) -> Tensor:
    """Replaces frozen channels by the index after the last channel."""
    return torch.where(channels == NOT_PRUNABLE, dependencies.channels, channels)


def _of_layer(layer: nn.Module, parameter: nn.Parameter) -> tuple[int, int, bool] | None:
    # not by attribute, which would compute a parametrized weight and update the buffers of a spectral norm
    if layer._parameters.get("weight") is not parameter:
        return None
    if isinstance(layer, nn.Linear):
        return 0, 1, False
    if isinstance(layer, _ConvNd):
        by_itself = layer.groups > 1 and layer.groups == layer.in_channels
        return (1, 0, by_itself) if layer.transposed else (0, 1, by_itself)
    return None
