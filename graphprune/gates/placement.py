"""Finds where gates act.

Removing a channel means that no consumer sees it any more. So sites are found by walking back from every consumer of a
channel to the pre-activation that it sees: the normalisation, or where there is none the convolution, product or
parameter. In a residual stream the walk splits, and every branch that writes the stream is a site of the same gate.

The walk goes through ops that keep a channel of zeros at zero (ReLU, pooling, a reshape), because a gate before such an
op closes the channel just as a gate after it does. The walk ends at any other op (sigmoid, ``x + 1``), and the gate
comes after that op.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from graphprune.coupling.recurrent_calls import is_recurrent_layer
from graphprune.gates.recurrent import cell_state_argument, takes_cell_state
from graphprune.gates.site import Acts, Site, site_of
from graphprune.labels.dependencies import Dependencies, leaf_operands
from graphprune.labels.operand import Operand
from graphprune.labels.planes import channel_planes, drop, squash
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program, device_of


def find_sites(program: Program, dependencies: Dependencies, passed: frozenset[str] = frozenset()) -> tuple[Site, ...]:
    """The sites of all channels, in the order of the graph.

    Args:
        program: The program.
        dependencies: The channels of the program.
        passed: Names of normalisation nodes that gates are placed before instead of after. This is wrong; it serves to
            replicate published code.
    """
    finder = _SiteFinder(program, dependencies, passed)
    with evaluating(program.module):
        for node in program.module.graph.nodes:
            finder.visit_consumer(node)
    return tuple(site for node in program.module.graph.nodes for site in finder.make_sites(node))


class _SiteFinder:
    """Walks back from consumers, and remembers for each node which channels were already traced through it."""

    def __init__(self, program: Program, dependencies: Dependencies, passed: frozenset[str]) -> None:
        self.program, self.dependencies, self.passed = program, dependencies, passed
        contractions = {contraction.node for contraction in dependencies.contractions}
        self.stops = (dependencies.normalised - passed) | contractions
        self.order = {node.name: place for place, node in enumerate(program.module.graph.nodes)}
        self.sites: dict[str, Tensor] = {}
        self.sites_at_users: dict[tuple[str, str], Tensor] = {}
        self._walked: dict[str, Tensor] = {}
        self._users: dict[str, set[str]] = {}
        self._carried: dict[str, Tensor] = {}
        self._keeps_zero: dict[str, bool] = {}
        self._from_parameters: set[str] = set()
        self._mixed = _mixed(dependencies)
        self._seen_by_others = self._writers_seen_by_others()

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
        """Starts a walk if channels go into the node that do not come out again, or only summed with others."""
        inputs = node.all_input_nodes
        if node.op == "get_attr" or (inputs and all(source.name in self._from_parameters for source in inputs)):
            self._from_parameters.add(node.name)
        if not leaf_operands(self.dependencies.values.get(node.name)) or node.name in self.dependencies.views:
            return  # the node reads only a shape, or returns a view of channels that other nodes consume
        passed = self.carried(node) & ~self._mixed.get(node.name, torch.tensor(False))
        inside = cell_state_argument(self.program.module, node)
        for source in inputs:
            if source.name in self._from_parameters:
                continue  # the weight of a functional layer; its columns go with the data's channels
            if source is inside:
                continue  # the cell state is seen only through the hidden state, which has a gate
            consumed = self.carried(source) & ~passed
            if bool(consumed.any()):
                self.walk(source, consumed, node)

    def walk(self, node: fx.Node, channels: Tensor, user: fx.Node) -> None:
        """Traces channels that a user sees in a node's result back to their pre-activations."""
        stack = [(node, channels, user)]
        while stack:
            node, channels, user = stack.pop()
            channels = channels & self.carried(node)
            if not _is_differentiable(self.dependencies.values[node.name]):
                continue  # positions or a mask
            if self.sees_writes(node, user):
                _add(self.sites_at_users, (node.name, user.name), channels)
                continue
            self._users.setdefault(node.name, set()).add(user.name)
            walked = self._walked.get(node.name)
            channels = channels if walked is None else channels & ~walked
            if not bool(channels.any()):
                continue
            self._walked[node.name] = channels if walked is None else walked | channels
            sources = [source for source in self.sources(node) if bool((self.carried(source) & channels).any())]
            begun = channels & ~_any(self.carried(source) for source in sources) if sources else channels
            if takes_cell_state(self.program.module, self.dependencies.values, node):
                begun = channels  # the layer's own gate is on the hidden state
            if bool(begun.any()):
                _add(self.sites, node.name, begun)
            stack += [(source, channels, node) for source in sources]

    def sources(self, node: fx.Node) -> list[fx.Node]:
        """The inputs through which the walk goes on; none where it ends."""
        if node.name in self.stops or node.name in self._seen_by_others or not node.all_input_nodes:
            return []
        if node.name in self.passed:
            return _followed(self.dependencies, node)
        if node.name not in self._keeps_zero:
            self._keeps_zero[node.name] = _keeps_zero(self.program, self.dependencies, node)
        if not self._keeps_zero[node.name]:
            return []
        sources = _followed(self.dependencies, node)
        if node.target in _PARTS and isinstance(self.dependencies.values[sources[0].name], tuple):
            several = sources[0].name not in self.stops and not self.sources(sources[0])
            return [] if several else sources  # each of several results has a gate of its own
        return sources

    def sees_writes(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether the user sees the node's result after other nodes have written to it in place."""
        first, last = self.order[node.name], self.order[user.name]
        return any(first < self.order[writer] < last for writer in self.dependencies.rewritten.get(node.name, ()))

    def _writers_seen_by_others(self) -> set[str]:
        """Nodes that write in place to a result that others see later; a gate before the write would hide it."""
        nodes = {node.name: node for node in self.program.module.graph.nodes}
        return {
            writer
            for name, writers in self.dependencies.rewritten.items()
            for writer in writers
            if any(self.order[user.name] > self.order[writer] for user in nodes[name].users)
        }

    def make_sites(self, node: fx.Node) -> list[Site]:
        """One site for each plane of a node's result that holds channels to be gated."""
        sites: list[Site] = []
        acts_on, value = self._gated(node)
        if node.name in self.sites and value is not None and node.target not in _ZEROS:
            users = [user for user in node.users if user.name in self._users[node.name]]
            sites += self._on_planes(node, users, value, self.sites[node.name], acts_on)
        for user in node.users:
            if value is not None and (node.name, user.name) in self.sites_at_users:
                sites += self._on_planes(node, [user], value, self.sites_at_users[node.name, user.name], "user")
        return sites

    def _on_planes(
        self, node: fx.Node, users: list[fx.Node], value: Operand, channels: Tensor, acts_on: Acts
    ) -> Iterator[Site]:
        gated = torch.cat([channels, torch.zeros(1, dtype=torch.bool)])
        for plane in channel_planes(value.planes):
            here = self.dependencies.channel_of[squash(plane)]
            here = torch.where(gated[here], here, self.dependencies.channels)
            if bool((here < self.dependencies.channels).any()):
                yield replace(site_of(self.dependencies, node, users, value, here), acts_on=acts_on)

    def _gated(self, node: fx.Node) -> tuple[Acts, Operand | None]:
        """What the gate acts on, and the operand that it multiplies; no operand where there can be no gate."""
        value = self.dependencies.values.get(node.name)
        if isinstance(value, Operand):
            return "result", value
        found = leaf_operands(value)
        if node.name not in self.stops or not found:
            return "result", None
        if not is_recurrent_layer(self.program.module, node):
            return "first", found[0]
        states = found[1]  # (layers * directions, N, H)
        return "steps", states.mapped(states.shape[1:], lambda plane: drop(plane, [0]))


def _mixed(dependencies: Dependencies) -> dict[str, Tensor]:
    """Channels that a contraction sums over, by node; its result may carry the same channels nevertheless.

    This is so in a layer that is applied to its own result, and in attention whose values have the channels of the
    queries.
    """
    mixed: dict[str, Tensor] = {}
    for contraction in dependencies.contractions:
        summed = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
        for plane in channel_planes(contraction.summed_planes):
            summed[dependencies.channel_of[squash(plane)].flatten()] = True
        _add(mixed, contraction.node, summed[:-1])
    return mixed


def _add(sites: dict[Any, Tensor], key: Hashable, channels: Tensor) -> None:
    sites[key] = sites[key] | channels if key in sites else channels


def _is_differentiable(value: Any) -> bool:
    operands = leaf_operands(value)
    return not operands or any(operand.is_differentiable for operand in operands)


def _any(masks: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(masks)).any(0)


def _keeps_zero(program: Program, dependencies: Dependencies, node: fx.Node) -> bool:
    """Whether channels that are zero in all inputs are zero in the result, found by running the node on zeros.

    Minus infinity counts as zero: it is the padding before a maximum, and a gate cannot be multiplied by it. A node
    that cannot be run on zeros (because it expects other types) is assumed to keep zeros.
    """
    device, values = device_of(program), dependencies.values

    def stand_in(operand: Operand) -> Tensor:
        if channel_planes(operand.planes):
            return torch.zeros(operand.shape, dtype=operand.dtype, device=device)
        if operand.constant is not None:
            return operand.constant
        return torch.ones(operand.shape, dtype=operand.dtype, device=device)

    arguments = fx.map_arg(
        (node.args, dict(node.kwargs)), lambda source: tree_map_only(Operand, stand_in, values[source.name])
    )
    try:
        result = getattr(fx.Interpreter(program.module), node.op)(node.target, *arguments)
    except Exception:  # any op may raise its own kind of error
        return True
    results = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    return not any(
        bool((leaf.where(leaf != float("-inf"), 0) * (dependencies.channel_of[squash(plane)] >= 0).to(device)).any())
        for leaf, operand in zip(results, leaf_operands(values[node.name]), strict=True)
        if operand.is_differentiable
        for plane in channel_planes(operand.planes)
    )


def _followed(dependencies: Dependencies, node: fx.Node) -> list[fx.Node]:
    """All inputs of a node; of a product, only the factor with the most elements (the data, not its scale)."""
    sources = node.all_input_nodes
    if node.target not in _PRODUCTS or len(sources) < 2:
        return sources
    return [max(sources, key=lambda source: _elements(dependencies, source))]


def _elements(dependencies: Dependencies, node: fx.Node) -> int:
    value = dependencies.values.get(node.name)
    return torch.Size(value.shape).numel() if isinstance(value, Operand) else 0


_PARTS = {operator.getitem, getattr}

_ZEROS = {torch.zeros, torch.ops.aten.zeros.default}

_PRODUCTS = {
    torch.mul, torch.multiply, torch.ops.aten.mul.Tensor, torch.ops.aten.mul_.Tensor, "mul", "mul_", "multiply",
    operator.mul, operator.imul,
}  # fmt: skip
