"""Finds the channels and outputs that no live path joins to the input, and the channels that lead to no output."""

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

    A channel is *reached* if it depends on the input, and *useful* if an output depends on it, provided that weights
    do not cancel. Biases pass nothing on, because they are the same for every input. Where it is not certain, a channel
    counts as joined, so what is called dead is dead: frozen channels count as joined in a tensor that has others beside
    them (a tensor with none but frozen ones counts as one channel); depthwise filters pass their channel on even if all
    of their weights are dead; and a channel that is in several tensors (branches, factors of a product, the same index
    of every group) is reached if it is reached in one of them.

    Attributes:
        reached: Channels that are reached, bool, shape ``(channels,)``.
        useful: Channels that are useful, bool, shape ``(channels,)``.
        outputs: Number of outputs: indices of the program's output tensors that rows of weights make. Those that the
            same rows make count once.
        cut: Rows of weights whose outputs are not reached, as parameter and index.
        cut_outputs: Number of outputs that are not reached; several rows may make one.
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
        """The result ready for JSON, with channels by index."""
        return {
            "channels": len(self.reached),
            "unreachable": (~self.reached).nonzero().flatten().tolist(),
            "useless": (~self.useful).nonzero().flatten().tolist(),
            "outputs": self.outputs,
            "cut": [list(row) for row in self.cut],
            "connected": self.connected,
        }


def connectivity_of(program: Program) -> Connectivity:
    """Follows the live weights of an analysed program (its ``masks``) forward from the input and back from the output.

    Normalisations and softmaxes over channels are paths too: each channel that they read influences all that they make.
    """
    dependencies = program[Dependencies]
    walk, channels = _walk(program, dependencies), dependencies.channels
    outputs = walk.paths.outputs
    cut_outputs, cut = outputs.cut(reached_rows(walk.paths.steps, walk.hits))
    return Connectivity(walk.reached[:channels], walk.useful[:channels], len(outputs.otherwise), cut, cut_outputs)


def connected_masks(program: Program) -> Masks:
    """Live weights of the pool that lie on a path from input to output, bool, of the shapes of the parameters.

    Other weights are dead: they carry nothing from the input to an output. A dead weight whose channel is not reached
    may still pass on a constant that comes from biases and that later layers rely on.
    """
    walk = _walk(program, program[Dependencies])
    return _between(program, walk.paths, walk.before, walk.after)


def useful_masks(program: Program) -> Masks:
    """Live weights of the pool that an output depends on; without the others every output is exactly the same."""
    walk = _walk(program, program[Dependencies])
    return _between(program, walk.paths, [torch.ones_like(before) for before in walk.before], walk.after)


def _between(program: Program, paths: Paths, before: list[Tensor], after: list[Tensor]) -> Masks:
    """Live weights that lead from channels in ``before`` to channels in ``after``, which are given for each step."""
    pool = pool_of(program)
    joined: Masks = {}
    for step, from_, to in zip(paths.steps, before, after, strict=True):
        if isinstance(step, (WeightPath, PerChannel)) and step.name in pool and step.name not in paths.whole:
            weight = pool[step.name]
            if isinstance(step, WeightPath):
                on_path = step.spread(to[step.rows].unsqueeze(1) & from_[step.columns], weight)
            else:
                on_path = (from_ & to)[step.channels].reshape(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
            # a weight that several nodes read is live if it is live for one of them
            joined[step.name] = joined.get(step.name, torch.zeros((), dtype=torch.bool)) | on_path
    live = {name: live_of(program, name, weight) for name, weight in pool.items()}
    return {name: mask & joined[name].to(mask.device) if name in joined else mask for name, mask in live.items()}


@dataclass(frozen=True, eq=False)
class _Walk:
    """The result of following a program forward and back; channels include the frozen one and the bundles.

    Attributes:
        paths: All steps from channel to channel.
        before: For each step, the channels that were reached before it.
        after: For each step, the channels that are useful after it.
        hits: For each step, the rows of its weight that are reached; empty for other steps.
        reached: Channels that are reached after all steps.
        useful: Channels that are useful before all steps.
    """

    paths: Paths
    before: list[Tensor]
    after: list[Tensor]
    hits: list[Tensor]
    reached: Tensor
    useful: Tensor


def _walk(program: Program, dependencies: Dependencies) -> _Walk:
    """Follows the steps once in each direction, which is enough: what a step reads, earlier steps have made."""
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
    """Finds the steps from channel to channel, once for all masks, because they do not depend on masks."""
    remembered = vars(dependencies)
    if "_paths" not in remembered:
        remembered["_paths"] = paths_of(program)
    paths: Paths = remembered["_paths"]
    return paths


def _forward(step: Step, pair: Tensor | None, reached: Tensor) -> Tensor:
    """Marks the channels that a step reaches, and returns the rows of its weight that are reached."""
    hit = torch.empty(0, dtype=torch.bool)
    if isinstance(step, WeightPath) and pair is not None:
        hit = any_along(pair & reached[step.columns], 1)
        reached[step.rows[hit]] = True
    elif isinstance(step, Hub):
        reached[step.after] |= reached[step.before].any()
    return hit


def _backward(step: Step, pair: Tensor | None, useful: Tensor) -> None:
    """Marks the channels that a step makes useful."""
    if isinstance(step, WeightPath) and pair is not None:
        useful[step.columns[any_along(pair & useful[step.rows].unsqueeze(1), 0)]] = True
    elif isinstance(step, Hub):
        useful[step.before] |= useful[step.after].any()
