"""The weights that may become zero one by one: those of convolutions, linear layers and other matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphprune.program import Layers, Program, stored_parameters
from graphprune.protection import protected_dims

Masks = dict[str, Tensor]
"""Live weights of each parameter, bool, of its shape; a parameter that is missing is live as a whole."""


def pool_of(program: Program) -> dict[str, nn.Parameter]:
    """Parameters by name, in the order of the module, each once.

    Biases and normalisation parameters are not among them, nor is what ``protect`` names.
    """
    read = {id(parameter) for node in _contractions(program) for parameter in _parameters_read_by(program, node)}
    protected = {name for name, _ in protected_dims(program.module, program.protect)}
    return {
        name: parameter
        for name, parameter in stored_parameters(program.module).items()
        if id(parameter) in read and name not in protected
    }


def _contractions(program: Program) -> Iterator[fx.Node]:
    assert program.dependencies is not None
    names = {contraction.node for contraction in program.dependencies.contractions}
    return (node for node in program.module.graph.nodes if node.name in names)


def _parameters_read_by(program: Program, node: fx.Node) -> list[nn.Parameter]:
    """The weights of a layer, or those that a function takes: floating, of two dims or more."""
    layers = Layers(program.module)
    found: list[object] = []
    if node.op == "call_module":
        found = list(layers.called_by(node).parameters())
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            home, _, name = str(source.target).rpartition(".")
            found.append(getattr(program.module.get_submodule(home), name))
    return [each for each in found if isinstance(each, nn.Parameter) and each.dim() >= 2 and each.is_floating_point()]


def live_of(program: Program, name: str, weight: Tensor) -> Tensor:
    """Which of a parameter's weights are live, bool, of its shape."""
    mask = program.masks.get(name)
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)


def full_weights(program: Program) -> dict[str, Tensor]:
    """The pool's values; where weights can come back, dead ones with the value that they had when they went."""
    return {
        name: torch.where(live_of(program, name, weight), weight.detach(), program.dormant[name].to(weight))
        if name in program.dormant
        else weight.detach()
        for name, weight in pool_of(program).items()
    }
