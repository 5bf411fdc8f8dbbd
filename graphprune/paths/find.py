"""Finds the steps that lead from channel to channel, by one more run of the program on its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from graphprune.costs.pool import weights_by_node
from graphprune.coupling.interpret import interpret, meta_tensors
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.labels import ReplayedSpace
from graphprune.paths.outputs import Outputs, outputs_of, ties_without_pins
from graphprune.paths.run import PathRun
from graphprune.paths.steps import Hub, PerChannel, Step, WeightPath, distinct
from graphprune.paths.weights import WeightFinder, with_frozen
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import stored_parameters


@dataclass(frozen=True)
class Paths:
    """All steps that lead from channel to channel in a program.

    Attributes:
        steps: Steps in the order of the program.
        channels: Number of channels, including the frozen one and the bundles.
        outputs: Outputs of the program, and the rows that make them.
        whole: Names of weights that something else reads besides their steps; none of these weights counts as dead.
    """

    steps: tuple[Step, ...]
    channels: int
    outputs: Outputs
    whole: frozenset[str]


def paths_of(program: Program) -> Paths:
    """Finds all steps that lead from channel to channel in an analysed program, in the order of the program."""
    dependencies = program[Dependencies]
    finder = WeightFinder(program, dependencies)
    names = {contraction.node for contraction in dependencies.contractions}
    of_nodes = {node.name: finder.steps(node) for node in program.module.graph.nodes if node.name in names}
    known = {
        name: [step for step in steps if not isinstance(step, Hub)]
        for name, steps in of_nodes.items()
        if steps and not any(isinstance(step, Hub) for step in steps)
    }
    run = PathRun(
        ReplayedSpace(dependencies.space), device_of(program), choices=dict(dependencies.choices),
        attention=program.attention, channel_of=with_frozen(dependencies, dependencies.channel_of),
        root=ties_without_pins(dependencies), frozen=dependencies.channels, channels=finder.channels, known=known,
        found={name: list(steps) for name, steps in of_nodes.items() if name not in known},
    )  # fmt: skip

    def record(node: fx.Node, result: Any) -> None:
        if node.op == "placeholder":
            run.depends(result)
        if node.op == "output":
            run.leave(node.name, result)

    interpret(program, run, meta_tensors(program.module), program.example, record)
    order = [node.name for node in program.module.graph.nodes]
    steps = tuple(step for name in order for step in run.found.get(name, ()))
    outputs = outputs_of(dependencies, run.root, steps, run.leaving, distinct(run.otherwise), run.mixed)
    return Paths(steps, run.channels, outputs, _also_read_otherwise(program, known))


def _also_read_otherwise(program: Program, known: Mapping[str, Sequence[WeightPath | PerChannel]]) -> frozenset[str]:
    """Names of weights that are read by a node for which no step with them is known."""
    names = {id(parameter): name for name, parameter in stored_parameters(program.module).items()}
    return frozenset(
        names[id(parameter)]
        for node, parameters in weights_by_node(program)
        for parameter in parameters
        if names[id(parameter)] not in {step.name for step in known.get(node.name, ())}
    )
