"""Ridge regression towards the weights that are there, from rows that come batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """Weights and intercepts of a layer.

    Attributes:
        matrix: Shape ``(groups, inputs, outputs)``, float64.
        intercept: Shape ``(groups, outputs)``, float64.
    """

    matrix: Tensor
    intercept: Tensor

    def error(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Sum of the squared distances from what is wanted, a scalar.

        Args:
            rows: Shape ``(groups, rows, inputs)``.
            wanted: Shape ``(groups, rows, outputs)``.
        """
        found = torch.baddbmm(self.intercept.to(rows)[:, None], rows, self.matrix.to(rows))
        return (found - wanted).double().square().sum()


class Regression(Protocol):
    """Rows of inputs with the outputs that are wanted; solved for several ridges."""

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """Adds rows ``(groups, rows, inputs)`` with what is wanted of them, ``(groups, rows, outputs)``."""

    def solve(self, start: Tensor, ridge: float) -> Solution | None:
        """The weights that minimise the squared distance plus a penalty for their distance from ``start``.

        Args:
            start: Shape ``(groups, inputs, outputs)``, float64.
            ridge: Weight of the penalty, as a share of the mean variance of the inputs.

        Returns:
            The solution; None where the inputs are so nearly dependent that rounding would decide.
        """


@dataclass
class NormalEquations:
    """Sums of products over rows: their memory does not grow with the number of rows.

    The products of a batch are taken in the type of its rows, and added up in float64. If there are intercepts, means
    do not matter; those of the first batch are subtracted from all rows, so that large ones cost no digits.

    Attributes:
        intercepts: Whether the layer has a place for an intercept.
        count: Number of rows.
    """

    intercepts: bool
    count: int = 0
    _shifts: list[Tensor] = field(default_factory=list, repr=False)
    _sums: list[Tensor] = field(default_factory=list, repr=False)

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """See `Regression.add`."""
        if not self._shifts:
            self._shifts = [each.mean(1, keepdim=True) * self.intercepts for each in (rows, wanted)]
        rows, wanted = (each - shift for each, shift in zip((rows, wanted), self._shifts, strict=True))
        sums = [gram(rows), rows.transpose(1, 2) @ wanted, rows.sum(1), wanted.sum(1)]
        if not self._sums:
            self._sums = [each.double() for each in sums]
        else:
            for total, each in zip(self._sums, sums, strict=True):
                total += each
        self.count += rows.shape[1]

    def solve(self, start: Tensor, ridge: float) -> Solution | None:
        """See `Regression.solve`."""
        squares, products, inputs, outputs = (each / self.count for each in self._sums)
        if self.intercepts:
            squares -= inputs[:, :, None] * inputs[:, None]
            products -= inputs[:, :, None] * outputs[:, None]
        missing = products - squares @ start
        diagonal = squares.diagonal(dim1=1, dim2=2)
        diagonal += _penalty(diagonal.mean(1), ridge)[:, None]
        change = _solved(squares, missing)
        if change is None:
            return None
        inputs, outputs = inputs + self._shifts[0][:, 0], outputs + self._shifts[1][:, 0]
        return _with_intercept(start + change, inputs, outputs, intercepts=self.intercepts)


@dataclass
class FewRows:
    """The rows themselves, where there are fewer of them than inputs: the same solution by a smaller matrix.

    Attributes:
        intercepts: Whether the layer has a place for an intercept.
    """

    intercepts: bool
    _rows: list[Tensor] = field(default_factory=list, repr=False)
    _wanted: list[Tensor] = field(default_factory=list, repr=False)
    _known: tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)

    def add(self, rows: Tensor, wanted: Tensor) -> None:
        """See `Regression.add`."""
        self._rows.append(rows)
        self._wanted.append(wanted)
        self._known = None

    def solve(self, start: Tensor, ridge: float) -> Solution | None:
        """See `Regression.solve`."""
        rows, wanted, means, kernel = self._joined()
        squares = kernel.clone()
        diagonal = squares.diagonal(dim1=1, dim2=2)
        diagonal += rows.shape[1] * _penalty(rows.square().mean((1, 2)), ridge)[:, None]
        shares = _solved(squares, wanted - rows @ start)
        if shares is None:
            return None
        return _with_intercept(start + rows.transpose(1, 2) @ shares, *means, intercepts=self.intercepts)

    def _joined(self) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        """All rows and what is wanted, float64, less their means; the means; and the products of rows with rows."""
        if self._known is None:
            rows, wanted = (torch.cat(each, 1).double() for each in (self._rows, self._wanted))
            means = rows.mean(1), wanted.mean(1)
            if self.intercepts:
                rows, wanted = rows - means[0][:, None], wanted - means[1][:, None]
            self._known = rows, wanted, means, rows @ rows.transpose(1, 2)
        return self._known


def gram(rows: Tensor) -> Tensor:
    """Products of inputs with inputs, summed over rows: ``(groups, inputs, inputs)``; of most pairs one is computed."""
    width = rows.shape[2]
    if width <= SMALL:
        return rows.transpose(1, 2) @ rows
    first, second = rows[:, :, : width // 2], rows[:, :, width // 2 :]
    between = first.transpose(1, 2) @ second
    upper, lower = torch.cat([gram(first), between], 2), torch.cat([between.transpose(1, 2), gram(second)], 2)
    return torch.cat([upper, lower], 1)


SMALL = 128
"""Up to this width all products are taken at once; smaller blocks cost more calls than they save products."""


def regression_of(rows: int, inputs: int, *, intercepts: bool) -> Regression:
    """The regression that takes less memory for a number of rows and of inputs."""
    return FewRows(intercepts) if rows < inputs else NormalEquations(intercepts)


def _solved(squares: Tensor, products: Tensor) -> Tensor | None:
    factor, failed = torch.linalg.cholesky_ex(squares)
    return None if bool(failed.any()) else torch.cholesky_solve(products, factor)


def _penalty(variance: Tensor, ridge: float) -> Tensor:
    """The ridge of each group; never zero, so that inputs that are constant leave the weights as they are."""
    return (ridge * variance).clamp_min(_LEAST)


_LEAST = 1e-12


def _with_intercept(matrix: Tensor, inputs: Tensor, outputs: Tensor, *, intercepts: bool) -> Solution:
    if not intercepts:
        return Solution(matrix, torch.zeros_like(outputs))
    return Solution(matrix, outputs - (inputs[:, None] @ matrix)[:, 0])
