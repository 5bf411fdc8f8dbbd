"""Norms of the weights that make a channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from graphprune.criteria.criterion import CRITERIA, Sensitivity
from graphprune.program import Program
from graphprune.scores import Scores


def _weight_norm(program: Program, name: str, power: Callable[[Tensor], Tensor], root: float) -> Scores:
    """Norm over all weights of two dims or more that produce the channel (its rows), mean over those weights."""
    dependencies = program.dependencies
    assert dependencies is not None
    total = torch.zeros(dependencies.channels + 1, dtype=torch.float64)
    weights = {key: value for key, value in program.module.named_parameters() if value.dim() >= 2}
    for owner in dependencies.stored:
        if owner.dim == 0 and owner.name in weights:
            rows = power(weights[owner.name].detach().double().flatten(1)).sum(1).cpu()
            channels = dependencies.channel_of[owner.start : owner.start + owner.size]
            total.scatter_add_(0, channels % (dependencies.channels + 1), rows)
    return Scores(total[:-1] ** root, name)


@CRITERIA.register("l1-norm")
def l1_norm(program: Program, sensitivity: Sensitivity) -> Scores:
    """Sum of absolute weights of a channel, over all coupled layers; also known as "magnitude".

    Source: Li et al., Pruning Filters for Efficient ConvNets, summed over coupled layers and ranked globally.
    """
    return _weight_norm(program, "l1-norm", torch.abs, 1.0)


CRITERIA.register("magnitude")(l1_norm)


@CRITERIA.register("l2-norm")
def l2_norm(program: Program, sensitivity: Sensitivity) -> Scores:
    """Root of the sum of squared weights of a channel, over all coupled layers."""
    return _weight_norm(program, "l2-norm", torch.square, 0.5)
