"""Convolutions, linear layers and batch norms of a graph, whether modules or functions compute them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from graphprune.program.nodes import argument, op_name
from graphprune.program.tensors import Layers, stored_tensors
from graphprune.repair.geometry import Geometry, geometry_of


@dataclass(frozen=True)
class Affine:
    """A node that computes a convolution or a linear layer from one input.

    Attributes:
        node: The node.
        source: The node of the input.
        weight: Name of the weight.
        bias: Name of the bias; None if there is none.
        geometry: How the input is read.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    bias: str | None
    geometry: Geometry

    @property
    def name(self) -> str:
        """What reports call it: the path of its layer, or the name of its weight."""
        return self.weight.removesuffix(".weight")


@dataclass(frozen=True)
class Norm:
    """A node that computes a batch norm by running statistics.

    Attributes:
        node: The node.
        source: The node of the input.
        mean: Name of the running mean.
        variance: Name of the running variance.
        scale: Name of the weight; None if there is none.
        shift: Name of the bias; None if there is none.
        epsilon: What is added to the variance.
    """

    node: fx.Node
    source: fx.Node
    mean: str
    variance: str
    scale: str | None
    shift: str | None
    epsilon: float


Stored = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Running mean, running variance, weight and bias of a batch norm."""


class LayersOf:
    """The layers of a module's graph."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.graph, self.tensors = module.graph, stored_tensors(module)
        self._layers = Layers(module)
        self._names = {id(tensor): name for name, tensor in self.tensors.items()}
        self._readers = _readers(module.graph, self._layers)

    def affine(self, node: fx.Node) -> Affine | None:
        """The convolution or linear layer that a node computes; None if it computes something else."""
        return self._affine_module(node) if node.op == "call_module" else self._affine_function(node)

    def norm(self, node: fx.Node) -> Norm | None:
        """The batch norm by running statistics that a node computes; None if it computes something else."""
        if node.op == "call_module":
            layer = self._layers.called_by(node)
            if not isinstance(layer, _BatchNorm) or layer.running_mean is None or layer.running_var is None:
                return None
            stored: Stored = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            epsilon = layer.eps
        elif node.op == "call_function" and op_name(node) == "batch_norm":
            # torch.nn.functional and ATen take the same tensors in different orders
            first = 3 if isinstance(node.target, torch._ops.OpOverload) else 1
            stored = (
                self._stored(argument(node, first, "running_mean")),
                self._stored(argument(node, first + 1, "running_var")),
                self._stored(argument(node, 4 - first, "weight")),
                self._stored(argument(node, 5 - first, "bias")),
            )
            epsilon = argument(node, 7, "eps", default=1e-5)
            if not _is_off_in_evaluation(argument(node, 5, "training", default=False)):
                return None
        else:
            return None
        mean, variance, scale, shift = (None if each is None else self._names.get(id(each)) for each in stored)
        source = _input_of(node)
        if mean is None or variance is None or source is None:
            return None
        return Norm(node, source, mean, variance, scale, shift, epsilon)

    def added(self, node: fx.Node) -> str | None:
        """Name of the stored tensor that a node stands for, if it is only added, joined, or looked up in."""
        if node.op != "get_attr" or any(op_name(user) not in _ADDING for user in node.users):
            return None
        tensor = self._stored(node)
        return None if tensor is None else self._names.get(id(tensor))

    def embedding(self, node: fx.Node) -> str | None:
        """Name of the weight whose rows a node looks up; None if it computes something else."""
        if node.op == "call_module":
            layer = self._layers.called_by(node)
            weight = layer.weight if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) else None
        elif op_name(node) in ("embedding", "embedding_bag"):
            # torch.nn.functional takes the weight second, ATen first
            found = [self._stored(argument(node, place, "weight")) for place in (1, 0)]
            weight = next((each for each in found if each is not None), None)
        else:
            return None
        return None if weight is None else self._names.get(id(weight))

    def readers(self, name: str) -> int:
        """Number of times that the graph reads a stored tensor."""
        return self._readers.get(id(self.tensors[name]), 0)

    def _affine_module(self, node: fx.Node) -> Affine | None:
        layer = self._layers.called_by(node)
        if isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward:
            geometry = Geometry()
        elif isinstance(layer, _ConvNd):
            transposed = isinstance(layer, _ConvTransposeNd)
            geometry = geometry_of(
                layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups, transposed=transposed,
                padding_mode=layer.padding_mode,
            )  # fmt: skip
        else:
            return None
        return self._made(node, layer.weight, layer.bias, geometry)

    def _affine_function(self, node: fx.Node) -> Affine | None:
        name = op_name(node)
        if node.op != "call_function" or name not in _FUNCTIONS:
            return None
        weight, bias = self._stored(argument(node, 1, "weight")), self._stored(argument(node, 2, "bias"))
        if weight is None or (bias is None and argument(node, 2, "bias") is not None):
            return None
        if name == "linear":
            return self._made(node, weight, bias, Geometry())
        transposed = name.startswith("conv_transpose")
        # a transposed convolution takes output_padding and groups before the dilation; its output's shape says the rest
        dilation = argument(node, 7 if transposed else 5, "dilation", default=1)
        geometry = geometry_of(
            tuple(weight.shape[2:]), argument(node, 3, "stride", default=1), argument(node, 4, "padding", default=0),
            dilation, argument(node, 6, "groups", default=1), transposed=transposed,
        )  # fmt: skip
        return self._made(node, weight, bias, geometry)

    def _made(self, node: fx.Node, weight: Any, bias: Any, geometry: Geometry) -> Affine | None:
        source, name = _input_of(node), self._names.get(id(weight))
        named = None if bias is None else self._names.get(id(bias))
        if source is None or name is None or (bias is not None and named is None):
            return None
        return Affine(node, source, name, named, geometry)

    def _stored(self, given: Any) -> Tensor | None:
        """The tensor that a node reads from the module, if it does."""
        if not isinstance(given, fx.Node) or given.op != "get_attr":
            return None
        value: Any = self._layers.module
        for part in str(given.target).split("."):
            value = getattr(value, part)
        return value if isinstance(value, Tensor) else None


def _is_off_in_evaluation(training: Any) -> bool:
    """Whether a batch norm's ``training`` is False in evaluation mode: as it stands, or as the module's own mode."""
    is_mode = isinstance(training, fx.Node) and training.op == "get_attr"
    return training is False or (is_mode and str(training.target).rpartition(".")[2] == "training")


_FUNCTIONS = frozenset({
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
})  # fmt: skip


_ADDING = frozenset({"add", "cat", "concat", "expand", "getitem", "iadd", "repeat", "sub"})
"""Ops to which the channels of a stored tensor are outputs: a class token, positions, a table of biases."""


def _input_of(node: fx.Node) -> fx.Node | None:
    source = argument(node, 0, "input", "x")
    return source if isinstance(source, fx.Node) else None


def _readers(graph: fx.Graph, layers: Layers) -> dict[int, int]:
    """How often the graph reads each stored tensor, by the tensor's id."""
    counts: dict[int, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            read = [*layers.called_by(node).parameters(), *layers.called_by(node).buffers()]
            times = 1
        elif node.op == "get_attr":
            value: Any = layers.module
            for part in str(node.target).split("."):
                value = getattr(value, part)
            read, times = ([value] if isinstance(value, Tensor) else []), len(node.users)
        else:
            continue
        for tensor in read:
            counts[id(tensor)] = counts.get(id(tensor), 0) + times
    return counts
