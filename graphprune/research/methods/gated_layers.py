"""Layers whose outputs are multiplied by hard-concrete gates; gates are put around layers and folded into them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from graphprune.errors import OptionError
from graphprune.gates.placement import find_sites
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from graphprune.research.methods.hard_concrete import HardConcrete, probability_open
from graphprune.research.methods.masks import LAYERS

WITH_WEIGHTS = (*LAYERS, _BatchNorm)


@dataclass(frozen=True)
class Place:
    """A layer whose output channels are nodes that can go.

    Attributes:
        path: Path of the layer: a BatchNorm, or a convolution or linear layer that no normalisation follows.
        weights: Number of weights that make one node: those in a row of the convolution or linear layer.
        channels: Number of nodes.
    """

    path: str
    weights: int
    channels: int


def places_of(program: Program) -> list[Place]:
    """Returns the layers whose outputs are to be gated, see `graphprune.gates.placement`.

    If a normalisation follows a layer, the gate is behind the normalisation, which would undo a gate before it.

    Raises:
        OptionError: a gate would have to act on something other than the output of a layer as in `Place`.
    """
    nodes = {node.name: node for node in program.module.graph.nodes}
    sites = find_sites(program, program[Dependencies])
    places = [_place(program, nodes[site.node]) for site in sites]
    return list({place.path: place for place in places}.values())


def _place(program: Program, node: fx.Node) -> Place:
    site, layer = node, _layer(program, node)
    while layer is not None and _is_in_place(layer):
        # a site is behind an in-place activation, because a product before one would hide what it writes; a gated
        # layer would not, so the gate goes to the layer before
        node = node.all_input_nodes[0]
        layer = _layer(program, node)
    source = _layer(program, node.all_input_nodes[0]) if isinstance(layer, _BatchNorm) and layer.affine else layer
    if not isinstance(source, LAYERS):
        raise OptionError(
            f"l0: the nodes at %{site.name} cannot be gated: expected the output of a convolution or linear layer, or "
            "of a BatchNorm with scale and shift behind one"
        )
    return Place(str(node.target), source.weight[0].numel(), len(source.weight))


def _is_in_place(layer: nn.Module) -> bool:
    """Whether a layer is an in-place activation that keeps zeros, so that a gate may be before it or behind it."""
    return bool(getattr(layer, "inplace", False)) and not bool(layer(torch.zeros(1)).any())


def _layer(program: Program, node: fx.Node) -> nn.Module | None:
    return program.module.get_submodule(str(node.target)) if node.op == "call_module" else None


class GatedLayer(nn.Module):
    """A layer whose output channels are multiplied by gates.

    Args:
        layer: A layer with `weight`, of which dim 0 is the output channels, and maybe `bias`.
        gate: A module that gives as many gates.
        weights: Weights that make one channel.
    """

    def __init__(self, layer: nn.Module, gate: HardConcrete, weights: int) -> None:
        super().__init__()
        self.layer, self.gate, self.weights = layer, gate, weights

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the layer gives, times the gates."""
        out: Tensor = self.layer(x)
        dim = -1 if isinstance(self.layer, nn.Linear) else 1
        product: Tensor = (out.movedim(dim, -1) * self.gate()).movedim(-1, dim)
        return product

    def expected_weights(self) -> Tensor:
        """Returns the expected number of weights whose channel is open, a scalar."""
        return self.weights * probability_open(self.gate.log_alpha).sum()

    @torch.no_grad()
    def folded(self) -> Tensor:
        """Multiplies the gates of eval mode into the layer's weight and bias; returns these gates, ``(channels,)``."""
        was_training, self.gate.training = self.gate.training, False
        gates: Tensor = self.gate()
        self.gate.training = was_training
        for parameter in self.layer.parameters(recurse=False):
            parameter.mul_(gates.view(-1, *[1] * (parameter.dim() - 1)))
        return gates


def put_gates(module: nn.Module, places: list[Place], drop_rate: float, seed: int) -> dict[str, GatedLayer]:
    """Puts gates around layers of a module, in place; returns the gated layers by path of the layer."""
    generator = torch.Generator().manual_seed(seed)
    gated = {}
    for place in places:
        layer = module.get_submodule(place.path)
        gate = HardConcrete(place.channels, drop_rate, generator).to(next(layer.parameters()).device)
        gated[place.path] = GatedLayer(layer, gate, place.weights).train(layer.training)
        module.set_submodule(place.path, gated[place.path])
    return gated


def fold_gates(module: nn.Module, gated: dict[str, GatedLayer]) -> dict[str, Tensor]:
    """Puts the layers back with their gates multiplied in; in eval mode the module computes the same as before.

    Returns:
        The gates ``(channels,)`` by path of the layer.
    """
    gates = {}
    for path, wrapper in gated.items():
        gates[path] = wrapper.folded()
        module.set_submodule(path, wrapper.layer)
    return gates
