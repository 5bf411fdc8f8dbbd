"""Runs a graph on several batches, up to a node at a time, so that a layer can change before it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.program.example import Example
from graphprune.program.program import Program
from graphprune.repair.shelf import Shelf

Values = Mapping[fx.Node, Any]
"""Values of nodes, for one batch."""


class Lockstep:
    """Runs of a program on several batches, all of which stop before the same node.

    One batch is run at a time. Of the others, what later nodes need lies on a shelf.
    """

    def __init__(self, program: Program, batches: Sequence[Example], shelf: Shelf) -> None:
        self._program, self._batches, self._shelf = program, batches, shelf
        self._nodes = list(program.module.graph.nodes)
        self._last_uses = _last_uses(program.module.graph)
        self._run = fx.Interpreter(program.module)
        self._at, self._left = 0, frozenset(self._nodes)

    def until(self, node: fx.Node) -> Iterator[Values]:
        """Runs what comes before a node, batch by batch; yields the values that it and later nodes need.

        The values hold until the next ones are asked for. All batches have to be gone through before the next call.
        """
        stop = self._nodes.index(node, self._at)
        for place in range(len(self._batches)):
            values = self._run.env = self._taken(place)
            for each in self._nodes[self._at : stop]:
                values[each] = self._run.run_node(each)
                for used in self._last_uses.get(each, ()):
                    del values[used]
            yield values
            self._run.env = {}
            # tensors of the module are looked up again, because they may change until then
            self._shelf.put(place, {each.name: value for each, value in values.items() if each.op != "get_attr"})
        self._at, self._left = stop, frozenset(self._nodes[stop:])

    def _taken(self, place: int) -> dict[fx.Node, Any]:
        if not self._at:
            copied = self._batches[place].mapped(Tensor.clone)  # a graph may write to its inputs, which are the user's
            self._run.args_iter = iter(self._program.inputs(copied))
            return {}
        shelved, values = self._shelf.take(place), {}
        for node in self._nodes[: self._at]:
            if node.name in shelved:
                values[node] = shelved[node.name]
            elif node.op == "get_attr" and any(user in self._left for user in node.users):
                values[node] = self._run.run_node(node)
        return values


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For each node, those that no later node uses; a value that nothing uses goes at once."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last[node] = node
        for used in node.all_input_nodes:
            last[used] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for node, user in last.items():
        if node.op != "output":
            found.setdefault(user, []).append(node)
    return found


def chosen_positions(count: int, wanted: int, seed: int, device: torch.device) -> Tensor:
    """At most ``wanted`` of ``count`` positions, ascending, always the same ones for a seed."""
    if count <= wanted:
        return torch.arange(count, device=device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:wanted].sort().values.to(device)
