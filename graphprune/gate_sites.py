"""Where gates act.

Removing a channel means that no consumer sees it any more. So sites are found by walking back from every consumer of a
channel to the pre-activation that it sees: the normalisation, or where there is none the convolution, product or
parameter. In a residual stream the walk splits, and every branch that writes the stream is a site of the same gate.

The walk goes through ops that keep a channel of zeros at zero (ReLU, pooling, a reshape), for a gate before those
closes the channel as well as one behind. It ends at any other op (sigmoid, ``x + 1``): there the gate has to come
after.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from graphprune.dependencies import Dependencies, leaf_operands
from graphprune.interpret import evaluating
from graphprune.ops.operand import Operand
from graphprune.planes import channel_planes, drop, is_sample, squash, varying
from graphprune.program import Program, device_of


@dataclass(frozen=True)
class Site:
    """Where a gate acts.

    Attributes:
        node: Name of the node whose result is multiplied.
        users: Names of the nodes that see the product; the others lead to sites further on.
        channels: Channel index of each element, of the result's shape with size 1 where channels do not vary; frozen
            elements have the index ``dependencies.channels``, whose gate is always 1.
        sample_dim: Dim along which samples vary, None where the result is the same for all samples.
        repeats: Consecutive elements along that dim that belong to one sample.
        regular: Whether samples lie along that dim in order; only then each can have a gate of its own.
    """

    node: str
    users: frozenset[str]
    channels: Tensor
    sample_dim: int | None = None
    repeats: int = 1
    regular: bool = True


def find_sites(program: Program, dependencies: Dependencies) -> tuple[Site, ...]:
    """The sites of all channels, in the order of the graph."""
    finder = _SiteFinder(program, dependencies)
    with evaluating(program.module):
        for node in program.module.graph.nodes:
            finder.visit_consumer(node)
    ordered = [node for node in program.module.graph.nodes if node.name in finder.sites]
    return tuple(site for node in ordered for site in finder.make_sites(node))


class _SiteFinder:
    """Walks back from consumers; remembers for each node which channels were already traced through it."""

    def __init__(self, program: Program, dependencies: Dependencies) -> None:
        self.program, self.dependencies = program, dependencies
        self.stops = dependencies.normalised | {contraction.node for contraction in dependencies.contractions}
        self.sites: dict[str, Tensor] = {}
        self._walked: dict[str, Tensor] = {}
        self._users: dict[str, set[str]] = {}
        self._carried: dict[str, Tensor] = {}
        self._keeps_zero: dict[str, bool] = {}
        self._from_parameters: set[str] = set()
        self._mixed = _mixed(dependencies)

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
        """Starts a walk where channels go in that do not come out, or only summed with others."""
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(source.name in self._from_parameters for source in inputs)):
            self._from_parameters.add(node.name)
        if not leaf_operands(self.dependencies.values.get(node.name)):
            return  # reads a shape, not the channels
        passed = self.carried(node) & ~self._mixed.get(node.name, torch.tensor(False))
        for source in inputs:
            if source.name in self._from_parameters:
                continue  # the weight of a functional layer; its columns go with the data's channels
            consumed = self.carried(source) & ~passed
            if bool(consumed.any()):
                self.walk(source, consumed, node)

    def walk(self, node: fx.Node, channels: Tensor, user: fx.Node) -> None:
        """Traces channels that a user sees in a node's result back to their pre-activations."""
        stack = [(node, channels, user)]
        while stack:
            node, channels, user = stack.pop()
            channels = channels & self.carried(node)
            self._users.setdefault(node.name, set()).add(user.name)
            walked = self._walked.get(node.name)
            channels = channels if walked is None else channels & ~walked
            if not bool(channels.any()):
                continue
            self._walked[node.name] = channels if walked is None else walked | channels
            sources = [source for source in self.sources(node) if bool((self.carried(source) & channels).any())]
            begun = channels & ~_any(self.carried(source) for source in sources) if sources else channels
            if bool(begun.any()):
                known = self.sites.get(node.name)
                self.sites[node.name] = begun if known is None else known | begun
            stack += [(source, channels, node) for source in sources]

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs to walk on through; none where the walk ends."""
        if node.name in self.stops or not node.all_input_nodes:
            return []
        if node.name not in self._keeps_zero:
            self._keeps_zero[node.name] = _keeps_zero(self.program, self.dependencies, node)
        return _followed(self.dependencies, node) if self._keeps_zero[node.name] else []

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
                users = [user for user in node.users if user.name in self._users[node.name]]
                sites.append(_site(self.dependencies, node, users, value, channels))
        return sites


def _mixed(dependencies: Dependencies) -> dict[str, Tensor]:
    """Channels that are summed over in a contraction although its result has them too, by node.

    Such a channel is seen along two loops, those of the inputs and of the outputs (a layer that is applied to its own
    result); in a depthwise convolution it is seen along one.
    """
    mixed: dict[str, Tensor] = {}
    for contraction in dependencies.contractions:
        seen = torch.zeros(dependencies.channels + 1, dtype=torch.long)
        for plane in channel_planes(contraction.planes):
            seen[dependencies.channel_of[squash(plane)].unique()] += 1
        mixed[contraction.node] = mixed.get(contraction.node, torch.tensor(False)) | (seen[:-1] > 1)
    return mixed


def _any(masks: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(masks)).any(0)


def _keeps_zero(program: Program, dependencies: Dependencies, node: fx.Node) -> bool:
    """Whether channels that are zero in all inputs are zero in the result, found by running the node on zeros.

    A node that cannot be run so (it wants other types) is taken to keep them.
    """
    device, values = device_of(program), dependencies.values

    def stand_in(operand: Operand) -> Tensor:
        if channel_planes(operand.planes):
            return torch.zeros(operand.shape, device=device)
        return torch.ones(operand.shape, device=device) if operand.constant is None else operand.constant

    arguments = fx.map_arg(
        (node.args, dict(node.kwargs)), lambda source: tree_map_only(Operand, stand_in, values[source.name])
    )
    try:
        result = getattr(fx.Interpreter(program.module), node.op)(node.target, *arguments)
    except Exception:  # any op may refuse, in its own way
        return True
    results = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return not any(
        bool((leaf * (dependencies.channel_of[squash(plane)] >= 0).to(device)).any())
        for leaf, operand in zip(results, leaf_operands(values[node.name]), strict=True)
        for plane in channel_planes(operand.planes)
    )


def _followed(dependencies: Dependencies, node: fx.Node) -> list[fx.Node]:
    """All inputs, but of a product only the factor with the most elements (the data, not its scale)."""
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


def _site(
    dependencies: Dependencies, node: fx.Node, users: Sequence[fx.Node], value: Operand, channels: Tensor
) -> Site:
    names = frozenset(user.name for user in users)
    samples = [plane for plane in value.planes if is_sample(plane)]
    if not samples:
        meets = all(_meets_samples(dependencies, user, value) for user in users)
        return Site(node.name, names, channels, regular=meets)
    if len(samples) > 1 or len(varying(samples[0])) != 1:
        return Site(node.name, names, channels, regular=False)
    (dim,) = varying(samples[0])
    order = drop(samples[0], [other for other in range(samples[0].dim()) if other != dim])
    repeats = int((order == 0).sum())
    in_order = bool((order == torch.arange(len(order)) // repeats).all())
    return Site(node.name, names, channels, dim, repeats, in_order)


def _meets_samples(dependencies: Dependencies, user: fx.Node, value: Operand) -> bool:
    """Whether a user broadcasts a result without samples against one with samples along dim 0."""
    result = dependencies.values[user.name]
    return (
        isinstance(result, Operand)
        and len(result.shape) == len(value.shape)
        and any(varying(plane) == {0} for plane in result.planes if is_sample(plane))
    )
