"""Runs a graph node by node on several batches, so that a layer can change before it is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.program.example import Example
from graphprune.program.program import Program


class Lockstep:
    """Runs of a program on several batches, all of which have come to the same node.

    Values are dropped after their last use. What is kept of all batches at a time are the values that later nodes need.
    """

    def __init__(self, program: Program, batches: Sequence[Example]) -> None:
        self.graph = program.module.graph
        self._runs = [_run(program, batch) for batch in batches]
        self._last_uses = _last_uses(self.graph)

    def nodes(self) -> Iterator[fx.Node]:
        """Yields each node before it is run; the values of nodes before it are known."""
        for node in self.graph.nodes:
            yield node
            for run in self._runs:
                run.env[node] = run.run_node(node)
                for used in self._last_uses.get(node, ()):
                    del run.env[used]

    def values(self, node: fx.Node) -> list[Any]:
        """The value of a node in each batch."""
        return [run.env[node] for run in self._runs]


def _run(program: Program, batch: Example) -> fx.Interpreter:
    run = fx.Interpreter(program.module)
    copied = batch.mapped(Tensor.clone)  # a graph may write to its inputs, which are the user's
    run.args_iter = iter(program.inputs(copied))
    return run


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
