"""Disconnection: which channels and outputs no live path joins to the input, and which lead to no output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.dependencies import Dependencies, leaf_operands
from graphprune.labels import PINNED, look_up, merged
from graphprune.paths import Paths, WeightPath, distinct, paths_of
from graphprune.planes import channel_planes, squash
from graphprune.program import Program, stored_parameters
from graphprune.weight_pool import Masks, live_of, pool_of


@dataclass(frozen=True, eq=False)
class Connectivity:
    """What is joined to input and output by live weights.

    A channel is *reached* if it depends on the input, and *useful* if an output depends on it, for weights that do not
    cancel. Biases pass nothing on: they are the same for every input. Where it cannot be told a channel counts as
    joined, so what is said to be dead is. Frozen channels always count so; depthwise filters pass their channel on even
    when all of their weights are dead; and a channel that is in several places (layers that are added, factors of a
    product, the same index of every group) is reached when it is in one of them.

    Attributes:
        reached: bool, shape ``(channels,)``.
        useful: bool, shape ``(channels,)``.
        outputs: Number of outputs: of indices of what leaves the program that a weight makes.
        cut: Outputs that are not reached, as rows of the weights that would make them: parameter and index.
    """

    reached: Tensor
    useful: Tensor
    outputs: int
    cut: tuple[tuple[str, int], ...]

    @property
    def alive(self) -> Tensor:
        """Channels between input and output: reached and useful."""
        return self.reached & self.useful

    @property
    def connected(self) -> bool:
        """Whether every output is reached."""
        return not self.cut

    def to_dict(self) -> dict[str, Any]:
        """Channels by index, ready for JSON."""
        return {
            "channels": len(self.reached),
            "unreachable": (~self.reached).nonzero().flatten().tolist(),
            "useless": (~self.useful).nonzero().flatten().tolist(),
            "outputs": self.outputs,
            "cut": [list(row) for row in self.cut],
            "connected": self.connected,
        }


def connectivity_of(program: Program) -> Connectivity:
    """Follows the live weights of an analysed program (its ``masks``) from the input on, and from the output back.

    Normalisations and softmaxes over channels are paths too: what goes into one of their channels gets into all.
    """
    dependencies = program.dependencies
    assert dependencies is not None
    paths = paths_of(program)
    pairs = _live_pairs(program, paths)
    reached, useful = _reached(dependencies, paths, pairs), _useful(dependencies, paths, pairs)
    hits = [(pair & reached[path.columns]).any(1) for path, pair in zip(paths.weights, pairs, strict=True)]
    outputs, cut = _cut_outputs(program, dependencies, paths.weights, hits)
    return Connectivity(reached[:-1], useful[:-1], outputs, cut)


def connected_masks(program: Program) -> Masks:
    """Live weights of the pool that lie on a path from input to output, of the shapes of the parameters.

    What is missing of ``program.masks`` afterwards is dead: no output changes with it but by constants (biases).
    """
    dependencies = program.dependencies
    assert dependencies is not None
    paths = paths_of(program)
    pairs = _live_pairs(program, paths)
    reached, useful = _reached(dependencies, paths, pairs), _useful(dependencies, paths, pairs)
    pool = pool_of(program)
    found = {name: torch.zeros_like(live_of(program, name, weight)) for name, weight in pool.items()}
    for path in paths.weights:  # a weight that several nodes read is alive if it is for one of them
        if path.name in pool:
            joined = useful[path.rows].unsqueeze(1) & reached[path.columns]
            found[path.name] |= path.spread(joined.to(pool[path.name].device), pool[path.name])
    for name, channels in paths.per_channel:
        if name in pool:
            alive = (reached & useful)[channels].to(pool[name].device)
            found[name] |= alive.reshape(-1, *[1] * (pool[name].dim() - 1))
    followed = {path.name for path in paths.weights} | {name for name, _ in paths.per_channel}
    return {
        name: live_of(program, name, weight) & (found[name] if name in followed else True)
        for name, weight in pool.items()
    }


def _live_pairs(program: Program, paths: Paths) -> list[Tensor]:
    parameters = stored_parameters(program.module)
    return [path.flat(live_of(program, path.name, parameters[path.name])).cpu() for path in paths.weights]


def _reached(dependencies: Dependencies, paths: Paths, pairs: list[Tensor]) -> Tensor:
    """Bool ``(channels + 1,)``, the last for what is frozen."""
    reached = _ends(dependencies, paths.sources)
    count = -1
    while count != (count := int(reached.sum())):
        for path, pair in zip(paths.weights, pairs, strict=True):
            reached[path.rows[(pair & reached[path.columns]).any(1)]] = True
        for before, after in paths.hubs:
            reached[after] |= reached[before].any()
    return reached


def _useful(dependencies: Dependencies, paths: Paths, pairs: list[Tensor]) -> Tensor:
    """As `_reached`, from the other end."""
    useful = _ends(dependencies, paths.sinks)
    count = -1
    while count != (count := int(useful.sum())):
        for path, pair in zip(reversed(paths.weights), reversed(pairs), strict=True):
            useful[path.columns[(pair & useful[path.rows].unsqueeze(1)).any(0)]] = True
        for before, after in reversed(paths.hubs):
            useful[before] |= useful[after].any()
    return useful


def _ends(dependencies: Dependencies, channels: list[Tensor]) -> Tensor:
    ends = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
    ends[-1] = True
    for each in channels:
        ends[each] = True
    return ends


def _cut_outputs(
    program: Program, dependencies: Dependencies, weights: list[WeightPath], hits: list[Tensor]
) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Number of outputs, and the rows of those that no live path gets to.

    An output may be made by several rows (a sum of two heads); it is cut if none is reached.

    Args:
        program: The program.
        dependencies: Its dependencies.
        weights: Weights, in the order of the program.
        hits: Which rows of each are reached.
    """
    root = _ties_without_pins(dependencies)
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    rows = [
        (path.name, look_up(root, owners[path.name, path.row].labels), hit)
        for path, hit in zip(weights, hits, strict=True)
        if (path.name, path.row) in owners
    ]
    made = _roots_of_output(program, dependencies, root)
    makers = [each for each in rows if bool(torch.isin(each[1], made).any())]
    if not makers and rows:  # an op that labels do not get through; the last layer is as good as its output
        makers, made = rows[-1:], rows[-1][1]
    whole = distinct(roots[torch.isin(roots, made)] for _, roots, _ in makers)
    left = whole[~torch.isin(whole, distinct(roots[hit] for _, roots, hit in makers))]
    cut = ((name, index) for name, roots, _ in makers for index in torch.isin(roots, left).nonzero().flatten().tolist())
    return len(whole), tuple(cut)


def _ties_without_pins(dependencies: Dependencies) -> Tensor:
    """What goes together though it is frozen: the smallest label tied to each."""
    first, second = dependencies.space.ties()
    free = (first != PINNED) & (second != PINNED)
    return merged(torch.arange(dependencies.space.size), first[free], second[free])


def _roots_of_output(program: Program, dependencies: Dependencies, root: Tensor) -> Tensor:
    output: fx.Node = next(node for node in program.module.graph.nodes if node.op == "output")
    return distinct(
        look_up(root, squash(plane)).reshape(-1)
        for node in output.all_input_nodes
        for operand in leaf_operands(dependencies.values[node.name])
        for plane in channel_planes(operand.planes)
    )
