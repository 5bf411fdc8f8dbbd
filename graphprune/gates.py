"""Gates: one factor per channel, as real nodes of the graph.

Removing a channel means that no consumer sees it any more. So gates are placed by walking back from every consumer of a
channel to the pre-activation that it sees: the normalisation, or where there is none the convolution, product or parameter.
In a residual stream the walk splits, and every branch that writes the stream carries the same gate.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from graphprune.dependencies import Dependencies, leaf_operands
from graphprune.errors import InternalError
from graphprune.ops.call import Operand
from graphprune.planes import channel_planes, drop, is_sample, squash, varying
from graphprune.program import Program
from graphprune.rewrite.compact import copy_sharing_tensors

GATE = "_gate"


@dataclass(frozen=True)
class Site:
    """Where a gate acts.

    Attributes:
        node: Name of the node whose result is multiplied.
        channels: Channel index of each element, of the result's shape with size 1 where channels do not vary; frozen
            elements have the index ``dependencies.channels``, whose gate is always 1.
        sample_dim: Dim along which samples vary, None where the result is the same for all samples.
        repeats: Consecutive elements along that dim that belong to one sample.
        regular: Whether samples lie along that dim in order; only then each can have a gate of its own.
    """

    node: str
    channels: Tensor
    sample_dim: int | None = None
    repeats: int = 1
    regular: bool = True


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


def insert_gates(program: Program, dependencies: Dependencies, *, per_sample: bool) -> GatedModule:
    """Multiplies the pre-activations of every channel by its gate.

    Raises:
        InternalError: a per-sample gate is asked for at a site where samples do not lie along a dim of their own.
    """
    sites = find_sites(program, dependencies)
    module = copy_sharing_tensors(program.module)
    setattr(module, GATE, torch.ones(dependencies.channels + 1))
    nodes = {node.name: node for node in module.graph.nodes}
    for index, site in enumerate(sites):
        if per_sample and not can_be_per_sample(site):
            raise InternalError(f"site %{site.node} cannot carry one gate per sample")
        _insert(module, nodes[site.node], site, index, per_sample=per_sample)
    module.recompile()
    return GatedModule(module, dependencies.channels, sites, per_sample)


def can_be_per_sample(site: Site) -> bool:
    """Whether samples have a dim of their own at the site, or the result can be spread over them."""
    if not site.regular:
        return False
    if site.sample_dim is None:
        return site.channels.dim() > 0 and site.channels.shape[0] == 1
    return site.channels.shape[site.sample_dim] == 1


def _insert(module: fx.GraphModule, node: fx.Node, site: Site, index: int, *, per_sample: bool) -> None:
    graph = module.graph
    users = list(node.users)
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


def look_up(gate: Tensor, channels: Tensor) -> Tensor:
    """Gates of shape ``(channels + 1,)`` at the elements of a site."""
    return gate[channels]


def spread_per_sample(gate: Tensor, channels: Tensor, sample_dim: int, repeats: int) -> Tensor:
    """Gates of shape ``(N, channels + 1)`` at the elements of a site, the samples along ``sample_dim``."""
    factor = gate[:, channels].movedim(0, sample_dim)
    return factor.repeat_interleave(repeats, sample_dim) if repeats > 1 else factor


def find_sites(program: Program, dependencies: Dependencies) -> tuple[Site, ...]:
    """The sites of all channels, in the order of the graph."""
    finder = _SiteFinder(dependencies)
    for node in program.module.graph.nodes:
        finder.visit_consumer(node)
    ordered = [node for node in program.module.graph.nodes if node.name in finder.sites]
    return tuple(site for node in ordered for site in finder.make_sites(node))


class _SiteFinder:
    """Walks back from consumers; remembers for each node which channels were already traced through it."""

    def __init__(self, dependencies: Dependencies) -> None:
        self.dependencies = dependencies
        self.stops = dependencies.normalised | {contraction.node for contraction in dependencies.contractions}
        self.sites: dict[str, Tensor] = {}
        self._walked: dict[str, Tensor] = {}
        self._carried: dict[str, Tensor] = {}
        self._from_parameters: set[str] = set()

    def carried(self, node: fx.Node) -> Tensor:
        """Channels that a node's result carries, bool, shape ``(channels,)``."""
        if node.name not in self._carried:
            mask = torch.zeros(self.dependencies.channels + 1, dtype=torch.bool)
            for operand in leaf_operands(self.dependencies.values.get(node.name)):
                for plane in channel_planes(operand.planes):
                    mask[self.dependencies.channel_of[squash(plane)].flatten()] = True
            self._carried[node.name] = mask[:-1]
        return self._carried[node.name]

    def visit_consumer(self, node: fx.Node) -> None:
        """Starts a walk where channels go in that do not come out."""
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(source.name in self._from_parameters for source in inputs)):
            self._from_parameters.add(node.name)
        out = self.carried(node)
        for source in inputs:
            if source.name in self._from_parameters:
                continue  # the weight of a functional layer; its columns go with the data's channels
            consumed = self.carried(source) & ~out
            if bool(consumed.any()):
                self.walk(source, consumed)

    def walk(self, node: fx.Node, channels: Tensor) -> None:
        """Traces channels back to their pre-activations."""
        stack = [(node, channels)]
        while stack:
            node, channels = stack.pop()
            channels = channels & self.carried(node)
            walked = self._walked.get(node.name)
            channels = channels if walked is None else channels & ~walked
            if not bool(channels.any()):
                continue
            self._walked[node.name] = channels if walked is None else walked | channels
            sources = [] if node.name in self.stops else _followed(self.dependencies, node)
            sources = [source for source in sources if bool((self.carried(source) & channels).any())]
            begun = channels & ~_any(self.carried(source) for source in sources) if sources else channels
            if bool(begun.any()):
                known = self.sites.get(node.name)
                self.sites[node.name] = begun if known is None else known | begun
            stack += [(source, channels) for source in sources]

    def make_sites(self, node: fx.Node) -> list[Site]:
        """One site for each plane of a node's result that holds channels to be gated."""
        value = self.dependencies.values[node.name]
        if not isinstance(value, Operand):
            return []
        gated = torch.cat([self.sites[node.name], torch.zeros(1, dtype=torch.bool)])
        sites = []
        for plane in channel_planes(value.planes):
            channels = self.dependencies.channel_of[squash(plane)]
            channels = torch.where(gated[channels], channels, self.dependencies.channels)
            if bool((channels < self.dependencies.channels).any()):
                sites.append(_site(node.name, value, channels))
        return sites


def _any(masks: Iterable[Tensor]) -> Tensor:
    result: Tensor | None = None
    for mask in masks:
        result = mask if result is None else result | mask
    assert result is not None
    return result


def _followed(dependencies: Dependencies, node: fx.Node) -> list[fx.Node]:
    """The inputs to walk on through: all, but of a product only the factor with the most elements (the data, not its scale)."""
    sources = node.all_input_nodes
    if node.target not in _PRODUCTS or len(sources) < 2:
        return sources
    return [max(sources, key=lambda source: _elements(dependencies, source))]


def _elements(dependencies: Dependencies, node: fx.Node) -> int:
    value = dependencies.values.get(node.name)
    return torch.Size(value.shape).numel() if isinstance(value, Operand) else 0


_PRODUCTS = {
    torch.mul, torch.multiply, torch.ops.aten.mul.Tensor, torch.ops.aten.mul_.Tensor, "mul", "mul_", "multiply",
    operator.mul, operator.imul,
}  # fmt: skip


def _site(name: str, value: Operand, channels: Tensor) -> Site:
    samples = [plane for plane in value.planes if is_sample(plane)]
    if not samples:
        return Site(name, channels)
    if len(samples) > 1 or len(varying(samples[0])) != 1:
        return Site(name, channels, regular=False)
    (dim,) = varying(samples[0])
    order = drop(samples[0], [other for other in range(samples[0].dim()) if other != dim])
    repeats = int((order == 0).sum())
    return Site(name, channels, dim, repeats, bool((order == torch.arange(len(order)) // repeats).all()))
