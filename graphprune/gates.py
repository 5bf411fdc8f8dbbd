"""Gates: one factor per channel, as real nodes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.dependencies import Dependencies
from graphprune.errors import InternalError
from graphprune.gate_sites import Site
from graphprune.program import Program
from graphprune.rewrite.compact import copy_sharing_tensors

GATE = "_gate"


@dataclass(frozen=True)
class GatedModule:
    """A module with gate nodes.

    Attributes:
        module: Shares its tensors with the program; the gate is its attribute `GATE`.
        channels: Number of channels; the gate has one entry more.
        sites: Where gates act.
        per_sample: Whether each sample has gates of its own: the gate has the shape ``(N, channels + 1)`` then.
    """

    module: fx.GraphModule
    channels: int
    sites: tuple[Site, ...]
    per_sample: bool

    def set_gate(self, gate: Tensor) -> None:
        """Sets the gate values."""
        setattr(self.module, GATE, gate)


def insert_gates(
    program: Program, dependencies: Dependencies, sites: Sequence[Site], *, per_sample: bool
) -> GatedModule:
    """Multiplies the pre-activations of every channel by its gate.

    Args:
        program: It is not changed.
        dependencies: Its channels.
        sites: As `graphprune.gate_sites.find_sites` gives them.
        per_sample: Whether each sample has gates of its own.

    Raises:
        InternalError: a per-sample gate is asked for at a site where samples do not lie along a dim of their own.
    """
    module = copy_sharing_tensors(program.module)
    setattr(module, GATE, torch.ones(dependencies.channels + 1))
    nodes = {node.name: node for node in module.graph.nodes}
    for index, site in enumerate(sites):
        if per_sample and not can_be_per_sample(site):
            raise InternalError(f"site %{site.node} cannot carry one gate per sample")
        nodes[site.node] = _insert(module, nodes[site.node], site, index, per_sample=per_sample)
    module.recompile()
    return GatedModule(module, dependencies.channels, tuple(sites), per_sample)


def can_be_per_sample(site: Site) -> bool:
    """Whether samples have a dim of their own at the site, or the result can be spread over them."""
    if not site.regular:
        return False
    if site.sample_dim is None:
        return site.channels.dim() > 0 and site.channels.shape[0] == 1
    return site.channels.shape[site.sample_dim] == 1


def _insert(module: fx.GraphModule, node: fx.Node, site: Site, index: int, *, per_sample: bool) -> fx.Node:
    """Puts the product in the place of the node where the site's users see it."""
    graph = module.graph
    users = [user for user in node.users if user.name in site.users]
    device = next(module.parameters()).device
    sample_dim = site.sample_dim or 0
    channels = site.channels.select(sample_dim, 0) if per_sample else site.channels
    name = f"{GATE}_map_{index}"
    module.register_buffer(name, channels.to(device), persistent=False)
    with graph.inserting_after(node):
        gate = graph.create_node("get_attr", GATE)
    with graph.inserting_after(gate):
        where = graph.create_node("get_attr", name)
    lookup = spread_per_sample if per_sample else look_up
    arguments = (gate, where, sample_dim, site.repeats) if per_sample else (gate, where)
    with graph.inserting_after(where):
        factor = graph.call_function(lookup, arguments)
    with graph.inserting_after(factor):
        product = graph.call_function(torch.mul, (node, factor))
    for user in users:
        user.replace_input_with(node, product)
    return product


def look_up(gate: Tensor, channels: Tensor) -> Tensor:
    """Gates of shape ``(channels + 1,)`` at the elements of a site."""
    return gate[channels]


def spread_per_sample(gate: Tensor, channels: Tensor, sample_dim: int, repeats: int) -> Tensor:
    """Gates of shape ``(N, channels + 1)`` at the elements of a site, the samples along ``sample_dim``."""
    factor = gate[:, channels].movedim(0, sample_dim)
    return factor.repeat_interleave(repeats, sample_dim) if repeats > 1 else factor
