"""Finds the k-th lowest of very many values."""

from __future__ import annotations

import torch
from torch import Tensor

_SAMPLE = 100_000
"""Size of the sample; it locates the threshold to within five per mille of all values, whatever they are."""

_MARGIN = 1000
"""Places of the sorted sample to each side of the expected one: six standard deviations where these are largest."""


def kth_lowest(values: Tensor, count: int) -> Tensor:
    """Returns what `torch.kthvalue` returns, in a fraction of its time and memory (it copies all values and indices).

    A sample of the values gives a range, and only values in it are searched; if the result lies outside, all are.

    Args:
        values: Values, shape ``(values,)``; they may be infinite, but not NaN.
        count: Which value to find, from 1 for the lowest to the number of values.
    """
    if len(values) <= 10 * _SAMPLE:
        return values.kthvalue(count).values
    sample = values[:: len(values) // _SAMPLE].sort().values
    place = count * len(sample) // len(values)
    low, high = _at(sample, place - _MARGIN), _at(sample, place + _MARGIN)
    lower, near = int((values < low).count_nonzero()), (values >= low) & (values <= high)
    if not 0 < count - lower <= int(near.count_nonzero()):
        return values.kthvalue(count).values
    return low if low == high else values[near].kthvalue(count - lower).values


def _at(ordered: Tensor, place: int) -> Tensor:
    if 0 <= place < len(ordered):
        return ordered[place]
    return torch.full_like(ordered[0], float("-inf") if place < 0 else float("inf"))
