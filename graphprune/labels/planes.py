"""Label planes: for each element of a tensor, which channel it belongs to.

A plane is an int64 tensor with the full shape of the tensor it describes. In every dimension along which it does not
vary its stride is 0, so that a plane of a ``(N, C, H, W)`` activation stores C integers. A tensor may have several
planes; no two of them vary along the same dimension. Along a dimension without a plane a tensor cannot shrink.

One more plane may tell which sample an element belongs to. It is an int32 tensor, is never tied to anything, and may
vary along the same dimension as a channel plane (batch and heads flattened into one).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

Planes = tuple[Tensor, ...]


def varying(plane: Tensor) -> frozenset[int]:
    """Dimensions along which the plane's labels differ."""
    return _varying(plane.shape, plane.stride())


@lru_cache(maxsize=4096)
def _varying(shape: tuple[int, ...], strides: tuple[int, ...]) -> frozenset[int]:
    return frozenset(dim for dim, stride in enumerate(strides) if stride != 0 and shape[dim] > 1)


def is_sample(plane: Tensor) -> bool:
    """True for the plane that numbers the samples of a batch."""
    return plane.dtype == torch.int32


def channel_planes(planes: Planes) -> Planes:
    """The planes of channels, without the one that numbers the samples."""
    return tuple(plane for plane in planes if not is_sample(plane))


def sample_plane(shape: Sequence[int]) -> Tensor:
    """The plane that numbers the samples along dim 0."""
    return along(torch.arange(shape[0], dtype=torch.int32), shape, 0)


def along(labels: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """The plane of the given shape that has ``labels``, shape ``(shape[dim],)``, along ``dim``."""
    if len(shape) == 1:
        return labels
    strides = [0] * len(shape)
    strides[dim] = labels.stride(0)
    return labels.as_strided(tuple(shape), strides, labels.storage_offset())


def labels_along(plane: Tensor, dim: int) -> Tensor:
    """The labels of a plane along one dim, at index 0 of the others, shape ``(shape[dim],)``; undoes `along`."""
    if plane.dim() == 1:
        return plane
    return plane.as_strided((plane.shape[dim],), (plane.stride(dim),), plane.storage_offset())


def channels_along(planes: Planes, dim: int) -> Tensor | None:
    """The labels of the channels that vary along ``dim`` alone, shape ``(shape[dim],)``; None where no plane does."""
    for plane in planes:
        live = varying(plane)
        if dim in live and len(live) == 1 and not is_sample(plane):
            return labels_along(plane, dim)
    return None


def thin(plane: Tensor, dims: Iterable[int]) -> Tensor:
    """The plane at index 0 of the given dims, which keep size 1."""
    shape = list(plane.shape)
    for dim in dims:
        shape[dim] = 1
    return plane.as_strided(shape, plane.stride(), plane.storage_offset())


def squash(plane: Tensor) -> Tensor:
    """The plane with size 1 in each dim along which it does not vary."""
    shape = [size if stride != 0 else 1 for size, stride in zip(plane.shape, plane.stride(), strict=True)]
    return plane.as_strided(shape, plane.stride(), plane.storage_offset())


def constant_along(plane: Tensor, dims: Iterable[int]) -> Tensor:
    """Returns the plane as if it were constant along ``dims``: index 0 stands for all."""
    strides = list(plane.stride())
    for dim in dims:
        strides[dim] = 0
    return plane.as_strided(plane.shape, strides, plane.storage_offset())


def drop(plane: Tensor, dims: Iterable[int]) -> Tensor:
    """The plane at index 0 of the given dims, which are removed."""
    gone = {dim % plane.dim() for dim in dims}
    shape = [size for dim, size in enumerate(plane.shape) if dim not in gone]
    strides = [stride for dim, stride in enumerate(plane.stride()) if dim not in gone]
    return plane.as_strided(shape, strides, plane.storage_offset())


def compress(plane: Tensor) -> Tensor:
    """Gives stride 0 to every dimension along which the labels turn out to be constant."""
    small = squash(plane)
    for dim in range(small.dim()):
        if small.shape[dim] > 1:
            first = small.narrow(dim, 0, 1)
            if bool((small == first).all()):
                small = first
    return small.expand(plane.shape)


def relayout(plane: Tensor, shape: Sequence[int]) -> Tensor:
    """The plane of the tensor after a reshape."""
    if plane.numel() == 0:
        return plane.reshape(tuple(shape))
    live = varying(plane)
    small_old, small_new = [*plane.shape], [*shape]
    for old, new in _aligned(plane.shape, tuple(shape)):
        if not live.intersection(old):
            # dims without variation would be copied in full where dims are joined
            small_old[old.start : old.stop] = [1] * len(old)
            small_new[new.start : new.stop] = [1] * len(new)
    small = plane.as_strided(small_old, plane.stride(), plane.storage_offset())
    return compress(small.reshape(small_new)).expand(tuple(shape))


@lru_cache(maxsize=4096)
def _aligned(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[tuple[range, range], ...]:
    """The shortest runs of dims in two shapes of equal size that hold the same elements."""
    runs, start = [], (0, 0)
    before = {prod(new[:end]): end for end in range(len(new) + 1)}
    for end in range(1, len(old) + 1):
        if (other := before.get(prod(old[:end]))) is not None:
            runs.append((range(start[0], end), range(start[1], other)))
            start = (end, other)
    return tuple(runs)


def same(first: Tensor, second: Tensor) -> bool:
    """True where two planes are the same memory, hence need no union."""
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape and first.stride() == second.stride()


def kept_indices(plane: Tensor, dim: int, keep: Tensor) -> Tensor:
    """Indices along ``dim`` that survive under ``keep`` (bool per label), shape ``(kept,)``.

    The keep set of a plane that varies along several dims is a product set, so an index survives if any element at
    it does.
    """
    small = squash(plane)
    kept = keep.index_select(0, small.reshape(-1)).view(small.shape)
    others = [other for other in range(plane.dim()) if other != dim]
    return (kept.amax(others) if others else kept).nonzero().flatten()


KnownSizes = dict[tuple[Any, ...], int]
"""Kept sizes under one keep set, by plane and dim. Most nodes pass on the planes of their argument."""


def kept_size(planes: Planes, shape: Sequence[int], dim: int, keep: Tensor, known: KnownSizes) -> int:
    """Size of ``dim`` once the removed labels are gone; looked up in ``known``, or added there."""
    for plane in planes:
        if dim in varying(plane) and not is_sample(plane):
            return _kept_along(plane, dim, keep, known)
    return shape[dim]


def kept_shape(planes: Planes, shape: Sequence[int], keep: Tensor, known: KnownSizes) -> tuple[int, ...]:
    """The `kept_size` of every dim."""
    sizes = list(shape)
    for plane in channel_planes(planes):
        for dim in varying(plane):
            sizes[dim] = _kept_along(plane, dim, keep, known)
    return tuple(sizes)


def _kept_along(plane: Tensor, dim: int, keep: Tensor, known: KnownSizes) -> int:
    key = (plane.data_ptr(), plane.shape, plane.stride(), dim)
    if key not in known:
        alone = varying(plane) == {dim}
        indices = keep.index_select(0, labels_along(plane, dim)) if alone else kept_indices(plane, dim, keep)
        known[key] = int(indices.sum()) if alone else len(indices)
    return known[key]


def gather(tensor: Tensor, planes: Planes, keep: Tensor) -> Tensor:
    """The compact form of a dense tensor, without the removed elements."""
    for plane in channel_planes(planes):
        for dim in varying(plane):
            tensor = torch.index_select(tensor, dim, kept_indices(plane, dim, keep).to(tensor.device))
    return tensor


def scatter(compact: Tensor, shape: Sequence[int], planes: Planes, keep: Tensor) -> Tensor:
    """The dense form of a compact tensor, zero where elements were removed; the inverse of `gather`."""
    dense = compact
    for plane in channel_planes(planes):
        for dim in varying(plane):
            index = kept_indices(plane, dim, keep).to(compact.device)
            full = [*dense.shape]
            full[dim] = shape[dim]
            dense = dense.new_zeros(full).index_copy(dim, index, dense)
    return dense
