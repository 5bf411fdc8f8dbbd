"""How far two tensors are apart, and how far they may be."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest error as a share of the output's scale, because sums come in another order.

These are 84 rounding steps of float32, 4 of bfloat16, 5 of float16, and 450,000 of float64.
"""


def difference(first: Tensor, second: Tensor) -> float:
    """Largest absolute difference; equal infinities and two NaN count as equal, one NaN as an infinite difference.

    Where the shapes differ, the difference is infinite. For integers and booleans, it is 1 if any value differs.
    """
    if first.shape != second.shape:
        return float("inf")
    if first.numel() == 0:
        return 0.0
    if not first.is_floating_point() and not first.is_complex():
        return float((first != second).any())
    difference = (first - second).abs()
    if not bool(torch.isfinite(difference).all()):
        same = (first == second) | (first.isnan() & second.isnan())
        difference = torch.where(same, 0.0, difference).nan_to_num(nan=float("inf"))
    return float(difference.max())


def scale_of(tensor: Tensor) -> float:
    """Largest finite absolute value of a tensor; 0 where there is none."""
    finite = tensor[tensor.isfinite()]
    finite = finite.abs() if finite.is_complex() else finite.double().abs()
    return float(finite.max()) if finite.numel() else 0.0
