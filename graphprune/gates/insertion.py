"""Gates: one factor per channel, as real nodes of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from graphprune.errors import InternalError
from graphprune.gates.recurrent import GatedRecurrent
from graphprune.gates.site import Site, spread
from graphprune.labels.dependencies import Dependencies
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.program.surgery import copy_sharing_tensors

GATE = "_gate"


@dataclass(frozen=True)
class Gating:
    """How a criterion wants its gates.

    Attributes:
        before_normalisation: Whether gates are placed before BatchNorms instead of after them. This is wrong, but
            the published code of the method does so.
        per_sample: Whether each sample has gates of its own.
    """

    before_normalisation: bool = False
    per_sample: bool = False


@dataclass(frozen=True)
class GatedModule(Fact):
    """A module with gate nodes.

    Attributes:
        module: The module; it shares its tensors with the program, and the gate is its attribute `GATE`.
        channels: Number of channels; the gate has one entry more.
        sites: Where gates act.
        per_sample: Whether each sample has gates of its own; the gate then has the shape ``(N, channels + 1)``.
        gating: The gating that the criterion wanted.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("insert-gates",)

    module: fx.GraphModule
    channels: int
    sites: tuple[Site, ...]
    per_sample: bool
    gating: Gating = Gating()

    @property
    def shown(self) -> fx.GraphModule:
        """The module with its gates."""
        return self.module

    def set_gate(self, gate: Tensor) -> None:
        """Sets the gate values, shape ``(channels + 1,)`` or ``(N, channels + 1)``."""
        setattr(self.module, GATE, gate)


def insert_gates(
    program: Program, dependencies: Dependencies, sites: Sequence[Site], *, per_sample: bool, gating: Gating = Gating()
) -> GatedModule:
    """Multiplies the pre-activations of every channel by its gate.

    Args:
        program: It is not changed.
        dependencies: Its channels.
        sites: The sites that `graphprune.gates.placement.find_sites` gives.
        per_sample: Whether each sample has gates of its own.
        gating: The gating that the criterion wanted; the result only records it.

    Raises:
        InternalError: each sample is to have gates of its own, but at a site samples have no dim of their own.
    """
    module = copy_sharing_tensors(program.module)
    parameter, size = next(module.parameters()), dependencies.channels + 1
    shape = (program.example.batch_size, size) if per_sample else (size,)
    setattr(module, GATE, torch.ones(shape, dtype=parameter.dtype.to_real(), device=parameter.device))
    nodes = {node.name: node for node in module.graph.nodes}
    products: dict[tuple[str, frozenset[str]], fx.Node] = {}
    for index, site in enumerate(sites):
        if per_sample and not can_be_per_sample(site):
            raise InternalError(f"site %{site.node} cannot carry one gate per sample")
        place = site.node, site.users  # several planes of one result are gated one after the other
        node = products.get(place, nodes[site.node])
        products[place] = _insert(module, node, site, index, per_sample=per_sample)
    module.recompile()
    return GatedModule(module, dependencies.channels, tuple(sites), per_sample, gating)


def can_be_per_sample(site: Site) -> bool:
    """Whether samples have a dim of their own at the site, or the result can be expanded over samples."""
    if site.sample_dim is None:
        return site.regular and site.channels.dim() > 0 and site.channels.shape[0] == 1
    return site.regular


def _insert(module: fx.GraphModule, node: fx.Node, site: Site, index: int, *, per_sample: bool) -> fx.Node:
    """Inserts the product of a node's result and its gates; the users of the site see it in place of the result."""
    graph = module.graph
    users = [user for user in node.users if user.name in site.users]
    after = {"steps": node, "user": users[0]}.get(site.acts_on, node.next)
    with graph.inserting_before(after):
        factor = _factor(module, node, site, index, per_sample=per_sample)
        if site.acts_on == "steps":
            return _insert_in_steps(module, node, factor)
        product = graph.call_function(scale_first if site.acts_on == "first" else torch.mul, (node, factor))
    for user in users:
        user.replace_input_with(node, product)
    return product


def _factor(module: fx.GraphModule, node: fx.Node, site: Site, index: int, *, per_sample: bool) -> fx.Node:
    """Inserts the node that looks up the gate of each element of a site."""
    graph = module.graph
    name = f"{GATE}_map_{index}"
    module.register_buffer(name, site.channels.to(next(module.parameters()).device), persistent=False)
    gate, where = graph.create_node("get_attr", GATE), graph.create_node("get_attr", name)
    dim = site.sample_dim or 0
    if per_sample:
        return graph.call_function(spread_per_sample, (gate, where, dim, site.repeats, site.sample_major))
    if site.sample_dim is None or site.channels.shape[dim] == 1 or not site.regular:
        return graph.call_function(look_up, (gate, where))
    return graph.call_function(look_up_for_all, (gate, where, node, dim, site.sample_major))


def _insert_in_steps(module: fx.GraphModule, node: fx.Node, factor: fx.Node) -> fx.Node:
    """Puts a gated recurrent layer in place of the node."""
    layer: Any = module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
    name = f"{GATE}_layer_{node.name}"
    module.add_submodule(name, GatedRecurrent(layer))
    gated = module.graph.call_module(name, (factor, *node.args), node.kwargs)
    node.replace_all_uses_with(gated)
    module.graph.erase_node(node)
    return gated


def scale_first(results: Sequence[Tensor], factor: Tensor) -> tuple[Tensor, ...]:
    """Multiplies the first of several results by its gates."""
    return results[0] * factor, *results[1:]


def look_up(gate: Tensor, channels: Tensor) -> Tensor:
    """Gates of shape ``(channels + 1,)`` at the elements of a site."""
    return gate[channels]


def look_up_for_all(gate: Tensor, channels: Tensor, result: Tensor, dim: int, sample_major: bool) -> Tensor:
    """Looks up gates where ``channels`` are those of one sample along a dim that has all samples in the result."""
    return spread(gate[channels], result.shape[dim] // channels.shape[dim], dim, sample_major=sample_major)


def spread_per_sample(
    gate: Tensor, channels: Tensor, sample_dim: int, repeats: int, sample_major: bool = True
) -> Tensor:
    """Gates of shape ``(N, channels + 1)`` at the elements of a site, with the samples along ``sample_dim``."""
    factor = gate[:, channels].movedim(0, sample_dim if sample_major else sample_dim + 1)
    places = sample_dim + 1 if sample_major else sample_dim
    if factor.shape[places] != repeats:
        factor = factor.expand([repeats if dim == places else size for dim, size in enumerate(factor.shape)])
    return factor.flatten(sample_dim, sample_dim + 1)
