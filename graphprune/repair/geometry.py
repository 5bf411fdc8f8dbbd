"""How a convolution or a linear layer reads its input: as a matrix product of rows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Geometry:
    """Sizes and steps of a convolution, one entry per spatial dim; a linear layer has no spatial dims.

    A transposed convolution is the plain convolution of its input with zeros in between, by flipped kernels.

    Attributes:
        kernel: Sizes of the kernel.
        stride: Steps between neighbouring outputs, or, if transposed, between neighbouring inputs.
        padding: Zeros (or what `padding_mode` says) before and after each spatial dim.
        dilation: Steps between neighbouring entries of the kernel.
        groups: Number of groups of channels that do not mix.
        transposed: Whether it is a transposed convolution.
        padding_mode: How values beyond the edge are made, as `torch.nn.functional.pad` names it.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    padding_mode: str = "constant"

    @property
    def channel_dim(self) -> int:
        """The dim of an input or output that holds channels."""
        return 1 if self.kernel else -1

    def rows(self, values: Tensor, positions: Tensor) -> Tensor:
        """What is at some positions of an output: shape ``(samples * positions, channels)``.

        Args:
            values: An output, shape ``(N, C, *spatial)``, or ``(N, ..., C)`` of a linear layer.
            positions: Indices among all positions of a sample, shape ``(positions,)``.
        """
        if not self.kernel:
            by_sample = values.reshape(len(values), -1, values.shape[-1])
            return by_sample.index_select(1, positions).flatten(0, 1)
        return values.flatten(2).index_select(2, positions).transpose(1, 2).flatten(0, 1)

    def input_rows(self, values: Tensor, output_shape: tuple[int, ...], positions: Tensor) -> Tensor:
        """What outputs at some positions are computed from: shape ``(groups, samples * positions, inputs)``.

        Args:
            values: An input, shape ``(N, C, *spatial)``, or ``(N, ..., C)`` of a linear layer.
            output_shape: Shape of the output.
            positions: Indices among all positions of an output, shape ``(positions,)``.
        """
        if not self.kernel:
            return self.rows(values, positions)[None]
        padded = self._padded(values, output_shape[2:])
        steps = (1,) * len(self.kernel) if self.transposed else self.stride
        first = _flat(_unravelled(positions, output_shape[2:]), steps, padded.shape[2:])
        taps = torch.arange(prod(self.kernel), device=positions.device)
        offsets = _flat(_unravelled(taps, self.kernel), self.dilation, padded.shape[2:])
        wanted = (first[:, None] + offsets[None]).flatten()
        samples, channels = values.shape[:2]
        # with channels last, whole columns of channels are copied instead of single values
        taken = padded.movedim(1, -1).flatten(1, -2).index_select(1, wanted)
        split = taken.view(samples * len(positions), len(taps), self.groups, channels // self.groups)
        return split.permute(2, 0, 1, 3).reshape(self.groups, samples * len(positions), -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as matrices that rows are multiplied by: shape ``(groups, inputs, outputs)``."""
        if self.transposed:
            split = weight.view(self.groups, -1, *weight.shape[1:]).transpose(1, 2)
            split = split.flip(tuple(range(3, split.dim())))
        else:
            split = weight.reshape(self.groups, weight.shape[0] // self.groups, *weight.shape[1:])
        return split.movedim(2, -1).flatten(2).transpose(1, 2)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight that `matrix` makes such matrices of; the inverse of `matrix`."""
        outputs = like.shape[1] if self.transposed else like.shape[0] // self.groups
        split = matrix.transpose(1, 2).reshape(self.groups, outputs, *like.shape[2:], -1).movedim(-1, 2)
        if self.transposed:
            split = split.flip(tuple(range(3, split.dim()))).transpose(1, 2)
        return split.reshape(like.shape)

    def _padded(self, values: Tensor, output: tuple[int, ...]) -> Tensor:
        """The input with its edges, and between its entries with the zeros of a transposed convolution."""
        if not self.transposed:
            around = [edge for pair in reversed(self.padding) for edge in pair]
            return F.pad(values, around, mode=self.padding_mode) if any(around) else values
        spread = [(size - 1) * step + 1 for size, step in zip(values.shape[2:], self.stride, strict=True)]
        apart = values.new_zeros(*values.shape[:2], *spread)
        every: list[slice[None, None, int]] = [slice(None, None, step) for step in self.stride]
        apart[(slice(None), slice(None), *every)] = values
        edges: list[tuple[int, int]] = []
        for size, out, kernel, dilation, (start, _) in zip(
            spread, output, self.kernel, self.dilation, self.padding, strict=True
        ):
            reach = dilation * (kernel - 1)
            edges.append((reach - start, out + reach - size - (reach - start)))
        return F.pad(apart, [edge for pair in reversed(edges) for edge in pair])


def geometry_of(
    kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, groups: int, *, transposed: bool,
    padding_mode: str = "zeros",
) -> Geometry:  # fmt: skip
    """Makes a geometry of what torch's convolutions take."""
    dims = len(kernel)
    stride, dilation = _each(stride, dims), _each(dilation, dims)
    return Geometry(
        kernel,
        stride,
        _edges(padding, kernel, dilation),
        dilation,
        groups,
        transposed,
        "constant" if padding_mode == "zeros" else padding_mode,
    )


def _edges(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if padding == "valid":
        return ((0, 0),) * len(kernel)
    if padding == "same":  # an odd entry goes to the end, as in torch
        reaches = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return tuple((reach // 2, reach - reach // 2) for reach in reaches)
    return tuple((edge, edge) for edge in _each(padding, len(kernel)))


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * dims if len(values) == 1 else values


def _unravelled(indices: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    return list(torch.unravel_index(indices, tuple(shape)))


def _flat(coordinates: list[Tensor], steps: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Index in a flattened tensor of what lies at coordinates times steps."""
    flat = torch.zeros_like(coordinates[0])
    for coordinate, step, size in zip(coordinates, steps, shape, strict=True):
        flat = flat * size + coordinate * step
    return flat
