"""Disconnection: which channels and outputs no live path joins to the input, and which lead to no output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.costs.pool import live_of, pool_of
from graphprune.labels.dependencies import Dependencies
from graphprune.paths.find import Paths, paths_of
from graphprune.paths.outputs import reached_rows
from graphprune.paths.steps import Hub, PerChannel, Step, WeightPath, any_along
from graphprune.program.program import Program
from graphprune.program.tensors import Masks, stored_parameters


@dataclass(frozen=True, eq=False)
class Connectivity:
    """What is joined to input and output by live weights.

    A channel is *reached* if it depends on the input, and *useful* if an output depends on it, for weights that do not
    cancel. Biases pass nothing on: they are the same for every input. Where it cannot be told a channel counts as
    joined, so what is said to be dead is. Frozen channels count so where a tensor has others beside them, and are taken
    together as one where it has not; depthwise filters pass their channel on even when all of their weights are dead;
    and a channel that is in several tensors at a time (branches, factors of a product, the same index of every group)
    is reached when it is in one of them.

    Attributes:
        reached: bool, shape ``(channels,)``.
        useful: bool, shape ``(channels,)``.
        outputs: Number of outputs: of indices of what leaves the program that rows of weights make. What the same rows
            make counts once.
        cut: Outputs that are not reached, as rows of the weights that would make them: parameter and index.
        cut_outputs: How many outputs that are; several rows may make one.
    """

    reached: Tensor
    useful: Tensor
    outputs: int
    cut: tuple[tuple[str, int], ...]
    cut_outputs: int

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
    dependencies = program[Dependencies]
    walk, channels = _walk(program, dependencies), dependencies.channels
    outputs = walk.paths.outputs
    cut_outputs, cut = outputs.cut(reached_rows(walk.paths.steps, walk.hits))
    return Connectivity(walk.reached[:channels], walk.useful[:channels], len(outputs.otherwise), cut, cut_outputs)


def connected_masks(program: Program) -> Masks:
    """Live weights of the pool that lie on a path from input to output, of the shapes of the parameters.

    What is missing of ``program.masks`` afterwards is dead: it brings nothing from the input to an output. Where its
    channel is not reached it passes on a constant, of biases, that the layers behind it may be used to.
    """
    walk = _walk(program, program[Dependencies])
    return _between(program, walk.paths, walk.before, walk.after)


def useful_masks(program: Program) -> Masks:
    """Live weights of the pool that an output depends on: without the others every output is exactly what it was."""
    walk = _walk(program, program[Dependencies])
    return _between(program, walk.paths, [torch.ones_like(before) for before in walk.before], walk.after)


def _between(program: Program, paths: Paths, before: list[Tensor], after: list[Tensor]) -> Masks:
    """Live weights from channels in ``before`` to channels in ``after``, both for each step."""
    pool = pool_of(program)
    joined: Masks = {}
    for step, from_, to in zip(paths.steps, before, after, strict=True):
        if isinstance(step, (WeightPath, PerChannel)) and step.name in pool and step.name not in paths.whole:
            weight = pool[step.name]
            if isinstance(step, WeightPath):
                on_path = step.spread(to[step.rows].unsqueeze(1) & from_[step.columns], weight)
            else:
                on_path = (from_ & to)[step.channels].reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
            # a weight that several nodes read is alive if it is for one of them
            joined[step.name] = joined.get(step.name, torch.zeros((), dtype=torch.bool)) | on_path
    live = {name: live_of(program, name, weight) for name, weight in pool.items()}
    return {name: mask & joined[name].to(mask.device) if name in joined else mask for name, mask in live.items()}


@dataclass(frozen=True, eq=False)
class _Walk:
    """A program from end to end and back; all over channels, with those of what is frozen.

    Attributes:
        paths: All that leads from channel to channel.
        before: For each step, what was reached before it.
        after: For each step, what is useful after it.
        hits: For each step, which rows of a weight are reached; empty for other steps.
        reached: Channels that are reached in the end.
        useful: Channels that are useful in the beginning.
    """

    paths: Paths
    before: list[Tensor]
    after: list[Tensor]
    hits: list[Tensor]
    reached: Tensor
    useful: Tensor


def _walk(program: Program, dependencies: Dependencies) -> _Walk:
    """One pass in each direction is enough: what a step reads, earlier steps have made."""
    paths, parameters = _paths_of(program, dependencies), stored_parameters(program.module)
    steps = paths.steps
    pairs = [
        step.flat(live_of(program, step.name, parameters[step.name])).cpu() if isinstance(step, WeightPath) else None
        for step in steps
    ]
    reached, useful = (torch.arange(paths.channels) == dependencies.channels for _ in range(2))
    before, after, hits = [], [], []
    for step, pair in zip(steps, pairs, strict=True):
        before.append(reached.clone())
        hits.append(_forward(step, pair, reached))
    for step, pair in zip(reversed(steps), reversed(pairs), strict=True):
        after.append(useful.clone())
        _backward(step, pair, useful)
    return _Walk(paths, before, after[::-1], hits, reached, useful)


def _paths_of(program: Program, dependencies: Dependencies) -> Paths:
    """What leads from channel to channel, found once: masks change nothing of it."""
    remembered = vars(dependencies)
    if "_paths" not in remembered:
        remembered["_paths"] = paths_of(program)
    paths: Paths = remembered["_paths"]
    return paths


def _forward(step: Step, pair: Tensor | None, reached: Tensor) -> Tensor:
    """Adds what a step reaches, and returns the rows of its weight that are reached."""
    hit = torch.empty(0, dtype=torch.bool)
    if isinstance(step, WeightPath) and pair is not None:
        hit = any_along(pair & reached[step.columns], 1)
        reached[step.rows[hit]] = True
    elif isinstance(step, Hub):
        reached[step.after] |= reached[step.before].any()
    return hit


def _backward(step: Step, pair: Tensor | None, useful: Tensor) -> None:
    """Adds what a step makes useful."""
    if isinstance(step, WeightPath) and pair is not None:
        useful[step.columns[any_along(pair & useful[step.rows].unsqueeze(1), 0)]] = True
    elif isinstance(step, Hub):
        useful[step.before] |= useful[step.after].any()
