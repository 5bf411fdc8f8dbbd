"""Sets the running statistics of batch norms to those of a compact program's own activations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

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
    layers, found = LayersOf(program.module), []
    with evaluating(program.module), keeping_buffers(program.module) as changed:
        lockstep, count = Lockstep(program, (*samples.fitted, *samples.held_out)), len(samples.fitted)
        for node in lockstep.nodes():
            if (norm := layers.norm(node)) is None or layers.readers(norm.mean) != 1:
                continue
            values = lockstep.values(norm.source)
            mean, variance = layers.tensors[norm.mean], layers.tensors[norm.variance]
            held_out = values[count:]
            before = _deviation(held_out, mean, variance)
            now = _statistics(values[:count])
            for statistic, value in zip((mean, variance), now, strict=True):
                statistic.copy_(value)
            changed |= {id(mean), id(variance)}
            after = _deviation(held_out, mean, variance)
            name = norm.mean.removesuffix(".running_mean")
            found.append(RepairedLayer(name, before, after, tensors=(norm.mean, norm.variance)))
    return found


def _statistics(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over samples and positions, float64, ``(channels,)``."""
    by_channel = [value.transpose(0, 1).flatten(1).double() for value in values]
    count = sum(each.shape[1] for each in by_channel)
    mean = torch.stack([each.sum(1) for each in by_channel]).sum(0) / count
    squares = torch.stack([(each - mean[:, None]).square().sum(1) for each in by_channel]).sum(0)
    return mean, squares / max(count - 1, 1)


def _deviation(values: Sequence[Tensor], mean: Tensor, variance: Tensor) -> float:
    """How far statistics are from those of some values: in means, as a share of the variance, over all channels."""
    true_mean, true_variance = _statistics(values)
    apart = (true_mean - mean.double()).square() + (true_variance.sqrt() - variance.double().sqrt()).square()
    return float(apart.sum() / true_variance.sum().clamp_min(1e-30))
