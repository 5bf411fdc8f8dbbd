"""The so-many-th lowest of very many values."""

from __future__ import annotations

import torch
from torch import Tensor

_SAMPLE = 100_000
"""Values that tell about where the threshold is; to five per mille of all, whatever they are."""

_MARGIN = 1000
"""Places in a sorted sample to both sides of the expected one: six standard deviations of it where it is largest."""


def kth_lowest(values: Tensor, count: int) -> Tensor:
    """Returns what `torch.kthvalue` returns, in a fraction of its memory and time: that copies all values and places.

    Only values near that place in a sample of them are sorted; where it is not among them after all, all are.

    Args:
        values: Any, also infinite; none that is no number. Shape ``(values,)``.
        count: From 1 to the number of values.
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
