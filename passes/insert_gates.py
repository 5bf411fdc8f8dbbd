"""Puts a gate on each channel, at a place where all nodes that read the channel read the product."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from graphprune.gates.gating import gated_module
from graphprune.gates.insertion import GatedModule, Gating
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class InsertGates(Pass):
    """Multiplies the pre-activations of each channel by a gate of value one.

    The gradient of the loss with respect to the gate says how much the loss depends on the channel; divided by the
    loss, it is the channel's elasticity. The program itself stays as it is, because later passes need it without gates;
    the module with gates is a fact about the program, and is printed in its place.
    """

    gating: Gating = field(default_factory=Gating)
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({GatedModule})

    def run(self, program: Program) -> PassResult:
        """Finds the sites of all channels, and inserts a product at each of them."""
        gated = gated_module(program, self.gating)
        return PassResult(program.knowing(gated), True, (f"{gated.channels} gates at {len(gated.sites)} places",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Every site has gates of existing channels, and each of its users reads the product."""
        gated = result.program[GatedModule]
        nodes = {node.name: node for node in gated.module.graph.nodes}
        highest = max((int(site.channels.max()) for site in gated.sites), default=0)
        problems = [] if highest <= gated.channels else [f"a gate of channel {highest}, there are {gated.channels}"]
        return problems + [
            f"%{user} reads %{site.node} without its gates"
            for site in gated.sites
            for user in site.users
            # a recurrent layer is replaced as a whole, and reads the product under another name
            if {site.node, user} <= nodes.keys() and nodes[site.node] in nodes[user].all_input_nodes
        ]
