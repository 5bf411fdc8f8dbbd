"""The gates of a program, as a criterion wants them."""

from __future__ import annotations

from torch.nn.modules.batchnorm import _BatchNorm

from graphprune.gates.insertion import GatedModule, Gating, can_be_per_sample, insert_gates
from graphprune.gates.placement import find_sites
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from graphprune.program.tensors import Layers


def gated_module(program: Program, gating: Gating) -> GatedModule:
    """The program's module with gates, all ones.

    Args:
        program: The program, with its dependencies; it is not changed.
        gating: Where gates come, and whether each sample has its own, which is only so where all sites allow it.
    """
    dependencies = program[Dependencies]
    passed = _normalisations(program) if gating.before_normalisation else frozenset[str]()
    sites = find_sites(program, dependencies, passed)
    per_sample = gating.per_sample and all(map(can_be_per_sample, sites))
    return insert_gates(program, dependencies, sites, per_sample=per_sample, gating=gating)


def _normalisations(program: Program) -> frozenset[str]:
    """Names of nodes that call a BatchNorm layer, which does not mix channels."""
    layers = Layers(program.module)
    calls = [node for node in program.module.graph.nodes if node.op == "call_module"]
    return frozenset(node.name for node in calls if isinstance(layers.called_by(node), _BatchNorm))
