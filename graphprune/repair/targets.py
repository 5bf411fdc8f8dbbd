"""What the dense program computes at the sites, and at its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.criteria.losses import refused
from graphprune.errors import is_out_of_memory
from graphprune.program.example import Example
from graphprune.program.program import Program
from graphprune.repair.lockstep import chosen_positions
from graphprune.repair.sites import Site

POSITIONS = 64
"""At most so many positions of each sample are fitted to; neighbouring ones hardly differ."""

MANY_INPUTS = 8192
"""From so many inputs of a layer on, one position of each sample is fitted to, because every row takes memory."""


@dataclass(frozen=True)
class Target:
    """What a layer should compute for a batch, at some positions.

    Attributes:
        positions: The positions, among all positions of a sample, shape ``(positions,)``.
        output_shape: Shape of the layer's dense output.
        rows: Values of the channels that are left, shape ``(samples * positions, channels)``.
    """

    positions: Tensor
    output_shape: tuple[int, ...]
    rows: Tensor


@dataclass(frozen=True)
class Dense:
    """Values of the dense program for a batch.

    Attributes:
        targets: What each layer should compute, by the name of its node.
        outputs: The program's outputs that are real numbers, flat, float64.
    """

    targets: dict[str, Target]
    outputs: tuple[Tensor, ...]


def dense_values(program: Program, sites: Sequence[Site], batch: Example, seed: int) -> Dense:
    """Runs the dense program once.

    Raises:
        InputError: the program cannot take the batch.
    """
    recorder = _Recorder(program.module, sites, batch.batch_size, seed)
    inputs = program.inputs(batch.mapped(Tensor.clone))
    try:
        found = recorder.run(*inputs, enable_io_processing=False)
    except Exception as error:  # any op may refuse, in its own way
        if is_out_of_memory(error):
            raise
        raise refused(batch, str(error).partition("\n")[0]) from error
    return Dense(recorder.targets, real_outputs(found))


def real_outputs(found: Any) -> tuple[Tensor, ...]:
    """The outputs of a program that are real numbers, flat, float64."""
    leaves = (leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return tuple(leaf.detach().double().flatten() for leaf in leaves)


class _Recorder(fx.Interpreter):
    """Keeps some positions of what the sites should compute."""

    def __init__(self, module: fx.GraphModule, sites: Sequence[Site], samples: int, seed: int) -> None:
        super().__init__(module)
        self.targets: dict[str, Target] = {}
        self._samples, self._seed = samples, seed
        self._sites: dict[str, list[Site]] = {}
        for site in sites:
            self._sites.setdefault(site.target, []).append(site)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for site in self._sites.get(n.name, ()):
            self.targets[site.affine.node.name] = self._target(site, value)
        return value

    def _target(self, site: Site, value: Tensor) -> Target:
        geometry = site.affine.geometry
        shape = tuple(value.shape)
        spatial = shape[2:] if geometry.kernel else shape[1:-1]
        each = POSITIONS if site.inputs < MANY_INPUTS else 1
        # frames and windows may count as samples of their own
        wanted = max(1, each * self._samples // max(1, len(value)))
        positions = chosen_positions(prod(spatial), wanted, self._seed, value.device)
        rows = geometry.rows(value, positions).index_select(1, site.channels.to(value.device))
        return Target(positions, shape, at_least_float(rows))


def at_least_float(rows: Tensor) -> Tensor:
    """Rows in half precision as float32: sums of thousands of products would be lost in theirs."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32))
