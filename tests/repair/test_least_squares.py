"""Ridge regression, against torch's solver of least squares on the augmented system."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphprune.repair.least_squares import FewRows, NormalEquations, Regression, Solution, gram, regression_of


def drawn(groups: int, rows: int, inputs: int, outputs: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs with a mean that is not zero, what is wanted of them, and weights to start from."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return normal(groups, rows, inputs) + 2, normal(groups, rows, outputs), normal(groups, inputs, outputs)


def expected(rows: Tensor, wanted: Tensor, start: Tensor, ridge: float, *, intercepts: bool) -> Solution:
    """The same by a QR decomposition of the rows with the penalty as further rows."""
    means = rows.mean(1, keepdim=True) * intercepts, wanted.mean(1, keepdim=True) * intercepts
    centred, targets = rows - means[0], wanted - means[1]
    matrices = []
    for x, y, w in zip(centred, targets, start, strict=True):
        root = (ridge * x.square().mean() * len(x)).sqrt()
        eye = root * torch.eye(x.shape[1], dtype=torch.float64)
        matrices.append(torch.linalg.lstsq(torch.cat([x, eye]), torch.cat([y, root * w])).solution)
    matrix = torch.stack(matrices)
    return Solution(matrix, (means[1] - means[0] @ matrix)[:, 0])


@given(st.integers(1, 3), st.integers(2, 30), st.integers(1, 12), st.booleans(), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_both_ways_solve_the_same_problem(groups: int, rows: int, inputs: int, intercepts: bool, seed: int) -> None:
    x, y, start = drawn(groups, rows, inputs, 3, seed)
    wanted = expected(x, y, start, 0.1, intercepts=intercepts)
    for regression in (NormalEquations(intercepts), FewRows(intercepts)):
        for part in range(0, rows, 7):
            regression.add(x[:, part : part + 7], y[:, part : part + 7])
        found = regression.solve(start, 0.1)
        assert found is not None
        # the normal equations square the condition, which the ridge holds below some thousands
        torch.testing.assert_close(found.matrix, wanted.matrix, rtol=1e-7, atol=1e-8)
        torch.testing.assert_close(found.intercept, wanted.intercept, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", [NormalEquations, FewRows])
def test_what_a_matrix_makes_is_found_again(kind: type[Regression]) -> None:
    x, _, matrix = drawn(2, 40, 5, 3, 0)
    bias = torch.randn(2, 3, dtype=torch.float64)
    regression = kind(True)  # type: ignore[call-arg]
    regression.add(x, x @ matrix + bias[:, None])
    found = regression.solve(torch.zeros_like(matrix), 1e-10)
    assert found is not None
    torch.testing.assert_close(found.matrix, matrix, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.intercept, bias, rtol=1e-5, atol=1e-5)
    assert float(found.error(x, x @ matrix + bias[:, None])) < 1e-8


def test_a_strong_ridge_leaves_the_weights_as_they_are() -> None:
    x, y, start = drawn(1, 20, 4, 2, 1)
    regression = NormalEquations(intercepts=True)
    regression.add(x, y)
    found = regression.solve(start, 1e9)
    assert found is not None
    torch.testing.assert_close(found.matrix, start, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [NormalEquations, FewRows])
def test_constant_inputs_leave_the_weights_as_they_are(kind: type[Regression]) -> None:
    start = torch.ones(1, 3, 2, dtype=torch.float64)
    regression = kind(True)  # type: ignore[call-arg]
    regression.add(torch.full((1, 8, 3), 2.0), torch.randn(1, 8, 2))
    found = regression.solve(start, 1e-3)
    assert found is not None and torch.allclose(found.matrix, start)


def test_values_that_are_no_numbers_have_no_solution() -> None:
    regression = NormalEquations(intercepts=True)
    regression.add(torch.full((1, 8, 3), torch.nan), torch.randn(1, 8, 2))
    assert regression.solve(torch.zeros(1, 3, 2, dtype=torch.float64), 1e-3) is None


def test_what_takes_less_memory_is_taken() -> None:
    assert isinstance(regression_of(10, 20, intercepts=True), FewRows)
    assert isinstance(regression_of(20, 20, intercepts=True), NormalEquations)


@pytest.mark.parametrize("width", [1, 128, 129, 300, 515])
def test_products_of_inputs_with_inputs(width: int) -> None:
    rows = torch.randn(2, 9, width, dtype=torch.float64)
    found = gram(rows)
    torch.testing.assert_close(found, rows.transpose(1, 2) @ rows, rtol=1e-12, atol=1e-12)
