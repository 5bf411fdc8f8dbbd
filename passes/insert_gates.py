"""Puts a gate on each channel, where those that read it see it."""

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
    """Multiplies the pre-activations of each channel by a gate, which is one.

    How much the loss depends on a channel is the gradient of the loss in its gate: over the loss, the channel's
    elasticity. The program itself stays as it is, for it goes on without gates; what it is with them is a fact about
    it, which is printed in its place.
    """

    gating: Gating = field(default_factory=Gating)
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({GatedModule})

    def run(self, program: Program) -> PassResult:
        """Finds the sites of all channels, and puts products there."""
        gated = gated_module(program, self.gating)
        return PassResult(program.knowing(gated), True, (f"{gated.channels} gates at {len(gated.sites)} places",))

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        """Every place has gates of channels that there are, and each of its users reads the product."""
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
