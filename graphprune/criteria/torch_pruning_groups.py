"""Converts groups of graphprune to the form that importances of torch-pruning read.

They hold only what an importance reads: layers with the function that would prune them, indices, and root indices.
torch-pruning takes a second to import, so functions import it when one of its importances is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from graphprune.coupling.protection import output_dim
from graphprune.criteria.group_members import Indices
from graphprune.program.tensors import stored_tensors

_TYPES_WITH_ROWS = ("CONV", "DEPTHWISE_CONV", "LINEAR", "EMBED")
_TYPES_OF_VECTORS = ("BN", "LN", "GN", "IN", "PRELU")
"""Names of layer types in torch-pruning, in two sets by the form of their weight."""


@dataclass(frozen=True)
class RatedGroup:
    """A group for torch-pruning.

    Attributes:
        group: The group; its first item is the root.
        positions: Places of each channel's indices among those of the root, shape ``(channels, per_channel)``.
    """

    group: Any
    positions: Tensor


@dataclass(frozen=True)
class _Item:
    """A layer (or a parameter of no layer) with the function that prunes it, and the indices of each channel."""

    layer: Any
    name: str
    handler: Any
    indices: Tensor
    pruning_dim: int = -1


Home = tuple[str, Any, str]
"""Name of a module, the module, and the name of a parameter in it."""

Homes = dict[str, list[Home]]
"""For each stored name, the places of the parameter; a tied one has several homes."""


def homes_of(module: fx.GraphModule) -> Homes:
    """Finds the homes of all parameters; one that ``functional.linear`` takes gets a layer of its own."""
    names = {id(tensor): name for name, tensor in stored_tensors(module).items()}
    linears = _functional_linears(module)
    found: Homes = {}
    for path, submodule in module.named_modules():
        for attribute, parameter in submodule._parameters.items():
            if parameter is not None:
                layer = linears.get(id(parameter))
                home = (path, submodule, attribute) if layer is None else (f"{path}.{attribute}", layer, "weight")
                found.setdefault(names[id(parameter)], []).append(home)
    return found


def _functional_linears(module: fx.GraphModule) -> dict[int, nn.Linear]:
    """Makes a layer for each weight that the graph gives to ``functional.linear``, as in attention."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    found = {}
    for target in (functional.linear, torch.ops.aten.linear.default):
        for node in module.graph.find_nodes(op="call_function", target=target):
            weight, bias = (*(parameters.get(_attribute(argument)) for argument in node.args[1:3]), None)[:2]
            if weight is not None:
                layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
                layer.weight, layer.bias = weight, bias
                found[id(weight)] = layer
    return found


def _attribute(argument: Any) -> str:
    return str(argument.target) if isinstance(argument, fx.Node) and argument.op == "get_attr" else ""


def rated_group(indices: Indices, homes: Homes, rated_types: tuple[type, ...]) -> RatedGroup | None:
    """Converts one group; None if it holds no parameter that torch-pruning has a function for.

    If there is a layer of a rated type that makes the channels, it is the root, because the first layer that an
    importance rates sets the size of its result. If a channel has several indices in the root, those of other layers
    are spread over them evenly: it is not known which index belongs to which, and this matters only to normalisations
    that are not linear.
    """
    from torch_pruning.dependency import Dependency, Group, Node

    items = [item for (name, dim), of_member in indices.items() for item in _items(homes.get(name, []), dim, of_member)]
    if not items:
        return None
    items.sort(key=lambda item: (not isinstance(item.layer, rated_types), not _makes_channels(item)))
    root = items[0]
    root_node = Node(root.layer, None, root.name)
    positions = _ranks(root.indices)
    group = Group()
    for item in items:
        target = root_node if item is root else Node(item.layer, None, item.name)
        target.pruning_dim = item.pruning_dim
        per_channel = item.indices.shape[1]
        slots = torch.arange(per_channel) * positions.shape[1] // per_channel
        flat = item.indices.flatten()
        order = torch.argsort(flat)  # importances sort the indices, but not the root indices with them
        group.add_dep(Dependency(root.handler, item.handler, root_node, target), flat[order].tolist())
        group[-1].root_idxs = positions[:, slots].flatten()[order].tolist()
    return RatedGroup(group, positions)


def _ranks(indices: Tensor) -> Tensor:
    flat = indices.flatten()
    return torch.empty_like(flat).scatter_(0, torch.argsort(flat), torch.arange(len(flat))).view_as(indices)


def _items(homes: list[Home], dim: int, indices: Tensor) -> Iterator[_Item]:
    from torch_pruning import ops
    from torch_pruning.pruner import function

    for path, layer, attribute in homes:
        kind = ops.module2type(layer)
        if attribute == "weight" and kind.name in _TYPES_WITH_ROWS:
            yield from _rows(path, layer, kind, dim, indices)
        elif attribute == "weight" and kind.name in _TYPES_OF_VECTORS and layer.weight.dim() == 1:
            yield _Item(layer, path, function.PrunerBox[kind].prune_out_channels, indices)
        elif kind not in function.PrunerBox:
            prune = function.PrunerBox[ops.OPTYPE.PARAMETER].prune_out_channels
            yield _Item(layer._parameters[attribute], f"{path}.{attribute}", prune, indices, dim)


def _rows(path: str, layer: Any, kind: Any, dim: int, indices: Tensor) -> Iterator[_Item]:
    """Yields an item for the weight of a convolution, linear layer or embedding, by its outputs or inputs."""
    from torch_pruning.pruner import function

    pruner = function.PrunerBox[kind]
    if isinstance(layer, _ConvNd) and layer.transposed and layer.groups > 1:
        return  # torch-pruning takes the dims as if it had no groups
    if dim == output_dim(layer, layer.weight.dim()):
        yield _Item(layer, path, pruner.prune_out_channels, indices)
    elif dim < 2:
        groups = layer.groups if isinstance(layer, _ConvNd) else 1
        offsets = torch.arange(groups) * layer.weight.shape[dim]  # input channels are numbered across all groups
        yield _Item(layer, path, pruner.prune_in_channels, (indices[:, None] + offsets[:, None]).flatten(1))


def _makes_channels(item: _Item) -> bool:
    from torch_pruning.pruner import function

    return item.handler in (function.prune_conv_out_channels, function.prune_linear_out_channels)
