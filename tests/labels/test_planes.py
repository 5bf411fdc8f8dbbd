"""Planes through reshapes: the same labels as torch gives the full tensor, in as little memory as they need."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphprune.labels.planes import relayout, varying

SHAPES = (
    (24,), (1, 24), (2, 12), (4, 6), (2, 3, 4), (3, 1, 8), (2, 2, 6), (1, 2, 12), (2, 2, 2, 3), (24, 1), (4, 1, 6, 1),
)  # fmt: skip


def plane_of(shape: tuple[int, ...], dims: set[int]) -> Tensor:
    """Labels that differ along the given dims only."""
    small = [size if dim in dims else 1 for dim, size in enumerate(shape)]
    return torch.arange(torch.Size(small).numel()).view(small).expand(shape)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHAPES), st.sampled_from(SHAPES), st.sets(st.integers(0, 3), max_size=2))
def test_a_reshape_of_a_plane_has_the_labels_of_the_reshaped_tensor(
    old: tuple[int, ...], new: tuple[int, ...], dims: set[int]
) -> None:
    plane = plane_of(old, {dim for dim in dims if dim < len(old)})
    assert torch.equal(relayout(plane, new), plane.reshape(new))


def test_dims_without_labels_are_not_copied() -> None:
    # batch and heads become one dim; 257 x 257 scores for each would be 2 million labels
    scores = plane_of((2, 16, 257, 257), {1})
    flat = relayout(scores, (32, 257, 257))
    assert varying(flat) == {0}
    assert flat.untyped_storage().nbytes() <= 32 * 8


def test_an_empty_plane_can_be_reshaped() -> None:
    assert relayout(torch.zeros(0, 3, dtype=torch.long), (0,)).shape == (0,)
