"""The weights that may become zero one by one: those of convolutions, linear layers and other matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphprune.coupling.protection import protected_dims
from graphprune.labels.dependencies import Dependencies
from graphprune.program.nodes import Kind, kind_of
from graphprune.program.program import Program
from graphprune.program.tensors import Layers, stored_parameters


def pool_of(program: Program) -> dict[str, nn.Parameter]:
    """Parameters by name, in the order of the module, each once.

    Biases, normalisation parameters and protected parameters are not in the pool. Of a weight that is computed from
    other parameters, the pool has those whose zeros are zeros of the weight: the direction of a weight norm but not
    its magnitude, the original of a spectral norm, and none of any other parametrization.
    """
    read = {id(parameter) for _, parameters in weights_by_node(program) for parameter in parameters}
    protected = {name for name, _ in protected_dims(program.module, program.protect)}
    return {
        name: parameter
        for name, parameter in stored_parameters(program.module).items()
        if id(parameter) in read and name not in protected
    }


def not_in_pool(program: Program) -> dict[str, nn.Parameter]:
    """Parameters of two dims or more that are neither in the pool nor protected."""
    pool, protected = pool_of(program), {name for name, _ in protected_dims(program.module, program.protect)}
    return {
        name: parameter
        for name, parameter in stored_parameters(program.module).items()
        if parameter.dim() >= 2 and name not in pool and name not in protected
    }


def weights_by_node(program: Program) -> Iterator[tuple[fx.Node, list[nn.Parameter]]]:
    """Yields the nodes that contract, in the order of the graph, with the weights of the layer or of the function."""
    names = {contraction.node for contraction in program[Dependencies].contractions}
    layers = Layers(program.module)
    for node in program.module.graph.nodes:
        if node.name in names:
            found = _weights_of_layer(layers.called_by(node)) if node.op == "call_module" else []
            found += [given for source in node.all_input_nodes for given in _read_by(program.module, source)]
            yield node, [weight for weight in found if weight.dim() >= 2 and weight.is_floating_point()]


def _read_by(module: nn.Module, source: fx.Node) -> list[nn.Parameter]:
    """The parameter that a node reads, or views or slices; empty if it computes something else."""
    while Kind.MOVES in kind_of(source):
        if len(source.all_input_nodes) != 1:
            return []
        source = source.all_input_nodes[0]
    if source.op != "get_attr":
        return []
    home, _, name = str(source.target).rpartition(".")
    found = getattr(module.get_submodule(home), name)
    return [found] if isinstance(found, nn.Parameter) else []


def _weights_of_layer(layer: nn.Module) -> list[nn.Parameter]:
    unsuited = set[int]()
    for module in layer.modules():
        if isinstance(module, nn.utils.parametrize.ParametrizationList):
            unsuited |= _unsuited(module)
        if "weight_g" in module._parameters and "weight_v" in module._parameters:
            unsuited.add(id(module._parameters["weight_g"]))  # the magnitude of the older torch.nn.utils.weight_norm
    return [parameter for parameter in layer.parameters() if id(parameter) not in unsuited]


def _unsuited(parametrized: nn.utils.parametrize.ParametrizationList) -> set[int]:
    """Ids of the parameters that a weight is computed from and whose zeros are not zeros of the weight."""
    kinds = {type(each).__name__ for each in parametrized}
    if kinds == {"_SpectralNorm"}:
        return set()
    if kinds == {"_WeightNorm"}:
        return {id(parametrized.original0)}
    return {id(parameter) for parameter in parametrized.parameters()}


def live_of(program: Program, name: str, weight: Tensor) -> Tensor:
    """Which weights of a parameter are live: bool, of the parameter's shape."""
    mask = program.history.masks.get(name)
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)


def full_weights(program: Program) -> dict[str, Tensor]:
    """Values of the pool; dead weights that can come back have the value that they had when they were zeroed."""
    return {
        name: torch.where(live_of(program, name, weight), weight.detach(), program.history.dormant[name].to(weight))
        if name in program.history.dormant
        else weight.detach()
        for name, weight in pool_of(program).items()
    }
