"""Sets the running statistics of batch norms to those of a compact program's own activations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.process_state import private_random_state
from graphprune.program.module_state import evaluating, keeping_buffers
from graphprune.program.program import Program
from graphprune.repair.judgement import distance
from graphprune.repair.layers import LayersOf
from graphprune.repair.lockstep import Lockstep
from graphprune.repair.record import Repair, RepairedLayer
from graphprune.repair.samples import Split
from graphprune.repair.shelf import Shelf
from graphprune.repair.targets import dense_values


def recalibrate(compact: Program, dense: Program, samples: Split) -> tuple[Program, Repair]:
    """Sets the statistics of a copy of the compact program, in the order of the graph.

    Args:
        compact: The compact program, which is not changed.
        dense: The dense program, by whose outputs the result is judged; it is not changed.
        samples: Samples of which the statistics are taken, and samples that are held out.

    Returns:
        The program with its own statistics, or the compact program itself if it is nearer to the dense one on the
        samples that are held out; and what was done.
    """
    with private_random_state(0):  # a model may draw random numbers
        return _recalibrate(compact, dense, samples)


def _recalibrate(compact: Program, dense: Program, samples: Split) -> tuple[Program, Repair]:
    recalibrated = replace(compact, module=copy.deepcopy(compact.module))
    with evaluating(dense.module), keeping_buffers(dense.module):
        wanted = [dense_values(dense, (), batch, 0).outputs for batch in samples.held_out]
    before = distance(compact, samples.held_out, wanted)
    layers = _recalibrate_in_order(recalibrated, samples)
    after = distance(recalibrated, samples.held_out, wanted)
    record = Repair("recalibrate", *samples.sizes, before, after, after < before, tuple(layers))
    return (recalibrated if record.accepted else compact), record


def _recalibrate_in_order(program: Program, samples: Split) -> list[RepairedLayer]:
    layers, found, fitted = LayersOf(program.module), [], len(samples.fitted)
    norms = [norm for node in program.module.graph.nodes if (norm := layers.norm(node)) is not None]
    with Shelf() as shelf, evaluating(program.module), keeping_buffers(program.module) as changed:
        lockstep = Lockstep(program, (*samples.fitted, *samples.held_out), shelf)
        for norm in norms:
            if layers.readers(norm.mean) != 1:
                continue
            moments = [Moments.of(values[norm.source]) for values in lockstep.until(norm.node)]
            now, held_out = Moments.together(moments[:fitted]), Moments.together(moments[fitted:])
            mean, variance = layers.tensors[norm.mean], layers.tensors[norm.variance]
            before = held_out.distance(mean, variance)
            mean.copy_(now.mean)
            variance.copy_(now.variance)
            changed |= {id(mean), id(variance)}
            name = norm.mean.removesuffix(".running_mean")
            error = held_out.distance(mean, variance)
            found.append(RepairedLayer(name, before, error, tensors=(norm.mean, norm.variance)))
    return found


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of the values of each channel, over samples and positions.

    Attributes:
        count: Number of values of a channel.
        mean: Float64, shape ``(channels,)``.
        squares: Sum of the squared deviations from the mean, float64, shape ``(channels,)``.
    """

    count: int
    mean: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Moments:
        """The moments of a tensor ``(N, C, ...)``."""
        by_channel = values.transpose(0, 1).flatten(1).double()
        mean = by_channel.mean(1)
        return cls(by_channel.shape[1], mean, (by_channel - mean[:, None]).square().sum(1))

    @classmethod
    def together(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of all values of several tensors."""
        count = sum(part.count for part in parts)
        mean = torch.stack([part.mean * part.count for part in parts]).sum(0) / count
        between = torch.stack([part.count * (part.mean - mean).square() for part in parts]).sum(0)
        return cls(count, mean, torch.stack([part.squares for part in parts]).sum(0) + between)

    @property
    def variance(self) -> Tensor:
        """Unbiased, as torch's running variance is."""
        return self.squares / max(self.count - 1, 1)

    def distance(self, mean: Tensor, variance: Tensor) -> float:
        """How far other statistics are: squared, in means and in standard deviations, as a share of the variance."""
        apart = (self.mean - mean.double()).square() + (self.variance.sqrt() - variance.double().sqrt()).square()
        return float(apart.sum() / self.variance.sum().clamp_min(1e-30))
