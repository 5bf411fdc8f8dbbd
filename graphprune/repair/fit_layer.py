"""Fits one layer in place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, isfinite

import torch
from torch import Tensor

from graphprune.repair.layers import Norm
from graphprune.repair.least_squares import Regression, Solution
from graphprune.repair.record import RepairedLayer
from graphprune.repair.sites import Site

RIDGES = (1e-3, 1e-2, 1e-1)
"""Ridges that are tried; the one with the least error on held-out samples is taken."""

EXACT = 1e-9
"""An error below this share of the variance is rounding: the layer has lost nothing."""

DEAF = 1e-4
"""A batch norm passes next to nothing of a channel whose factor is below this share of the largest one."""

Rows = tuple[Tensor, Tensor]
"""Inputs ``(groups, rows, inputs)`` of a batch, and what is wanted of them, ``(groups, rows, outputs)``."""


def fit_layer(
    site: Site, tensors: Mapping[str, Tensor], regression: Regression, held_out: Iterable[Rows]
) -> RepairedLayer | None:
    """Puts the best weights into a layer; leaves it as it is if none is better than those that are there.

    Args:
        site: The layer.
        tensors: Parameters and buffers by name; those of the layer are written to.
        regression: The rows to fit to.
        held_out: Rows that choose the ridge.

    Returns:
        What was done; None if the layer has lost nothing.
    """
    held_out = list(held_out)
    spread = _spread(held_out)
    present = present_solution(site, tensors)
    before = _error(present, held_out) / spread
    if before < EXACT:
        return None
    best, least, chosen = present, before, None
    for ridge in RIDGES if isfinite(before) else ():
        found = regression.solve(present.matrix, ridge)
        error = _error(found, held_out) / spread if found is not None else inf
        if found is not None and error < least:
            best, least, chosen = found, error, ridge
    written = () if chosen is None else _write(site, tensors, best)
    return RepairedLayer(site.affine.name, before, least, chosen, written)


def has_place_for_intercept(site: Site) -> bool:
    """Whether a layer has a bias, or a batch norm behind it whose running mean does as well."""
    return site.affine.bias is not None or site.norm is not None


def present_solution(site: Site, tensors: Mapping[str, Tensor]) -> Solution:
    """The weights and biases that a layer has, float64."""
    matrix = site.affine.geometry.matrix(tensors[site.affine.weight].detach()).double()
    groups, _, outputs = matrix.shape
    if site.affine.bias is None:
        return Solution(matrix, matrix.new_zeros(groups, outputs))
    return Solution(matrix, tensors[site.affine.bias].detach().double().view(groups, outputs))


def before_norm(norm: Norm | None, tensors: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    """What a layer has to compute so that the batch norm behind it gives what is wanted, ``(rows, channels)``."""
    if norm is None:
        return wanted
    mean, variance = tensors[norm.mean], tensors[norm.variance]
    factor = (variance + norm.epsilon).rsqrt()
    if norm.scale is not None:
        factor = factor * tensors[norm.scale].detach()
    if norm.shift is not None:
        wanted = wanted - tensors[norm.shift].detach()
    size = factor.abs()
    inverse = torch.where(size > DEAF * size.max(), 1 / factor, 0)
    return wanted * inverse + mean


def _write(site: Site, tensors: Mapping[str, Tensor], solution: Solution) -> tuple[str, ...]:
    """Puts a solution into a layer; returns the names of the tensors that were written to."""
    weight, bias = tensors[site.affine.weight], site.affine.bias
    weight.copy_(site.affine.geometry.weight(solution.matrix, weight))
    intercept = solution.intercept.flatten()
    if bias is not None:
        tensors[bias].copy_(intercept)
        return site.affine.weight, bias
    if site.norm is not None:
        tensors[site.norm.mean].sub_(intercept.to(tensors[site.norm.mean]))
        return site.affine.weight, site.norm.mean
    return (site.affine.weight,)


def _spread(held_out: list[Rows]) -> float:
    """Sum of the squared distances of what is wanted from its mean; 1 where it is constant."""
    wanted = torch.cat([wanted for _, wanted in held_out], 1).double()
    spread = float((wanted - wanted.mean(1, keepdim=True)).square().sum())
    return spread if spread > 0 else 1.0


def _error(solution: Solution, held_out: list[Rows]) -> float:
    return sum(float(solution.error(rows, wanted)) for rows, wanted in held_out)
