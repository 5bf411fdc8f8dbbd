"""Layers as matrix products of rows, against torch's own convolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from graphprune.repair.geometry import Geometry, geometry_of

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, tuple[int, ...]]:
    """A convolution of any kind, and the shape of an input."""
    dims, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4]))
    transposed = draw(st.booleans())

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=dims, max_size=dims)))

    options: dict[str, Any] = {"stride": sizes(1, 3), "dilation": sizes(1, 2), "groups": groups}
    kernel = sizes(1, 3)
    if transposed:
        options["padding"] = sizes(0, 1)
        longest = zip(options["stride"], options["dilation"], strict=True)
        options["output_padding"] = tuple(draw(st.integers(0, max(pair) - 1)) for pair in longest)
    else:
        options["padding_mode"] = draw(st.sampled_from(["zeros", "reflect", "circular", "replicate"]))
        options["padding"] = sizes(0, 2)
        if options["padding_mode"] == "zeros" and draw(st.booleans()):
            options["padding"] = draw(st.sampled_from(["same", "valid"]))
            options["stride"] = (1,) * dims
    channels = draw(st.sampled_from([4, 8])), draw(st.sampled_from([4, 8]))
    kind: Any = (TRANSPOSED if transposed else CONVOLUTIONS)[dims]
    return kind(*channels, kernel, **options).double(), (draw(st.integers(1, 3)), channels[0], *sizes(5, 7))


def geometry(layer: Any) -> Geometry:
    return geometry_of(
        layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups,
        transposed=isinstance(layer, tuple(TRANSPOSED.values())), padding_mode=layer.padding_mode,
    )  # fmt: skip


@given(layers(), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_rows_times_matrix_is_the_convolution(given_layer: tuple[Any, tuple[int, ...]], seed: int) -> None:
    layer, shape = given_layer
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
        expected = layer(inputs)
    found = geometry(layer)
    count = expected[0, 0].numel()
    positions = torch.randperm(count, generator=generator)[: max(1, count // 2)].sort().values
    rows = found.input_rows(inputs, tuple(expected.shape), positions)
    product = (rows @ found.matrix(layer.weight.detach())).transpose(0, 1).flatten(1) + layer.bias.detach()
    # sums of some hundred products of normal numbers in double precision
    torch.testing.assert_close(product, found.rows(expected, positions), rtol=1e-10, atol=1e-10)
    assert torch.equal(found.weight(found.matrix(layer.weight), layer.weight), layer.weight)


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (2, 3, 4, 5)])
def test_linear_layers_over_any_number_of_positions(shape: tuple[int, ...]) -> None:
    layer, found = nn.Linear(5, 6).double(), Geometry()
    inputs = torch.randn(shape, dtype=torch.float64)
    expected: Tensor = layer(inputs).detach()
    count = expected[0].numel() // 6
    positions = torch.arange(0, count, 2)
    rows = found.input_rows(inputs, tuple(expected.shape), positions)
    product = rows[0] @ found.matrix(layer.weight.detach())[0] + layer.bias.detach()
    torch.testing.assert_close(product, found.rows(expected, positions), rtol=1e-12, atol=1e-12)
    assert len(product) == shape[0] * len(positions)
    assert torch.equal(found.weight(found.matrix(layer.weight), layer.weight), layer.weight)
