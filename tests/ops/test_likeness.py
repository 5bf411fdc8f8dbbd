"""Results that are told from the arguments are those that torch's own shape kernels give."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from graphprune.ops.likeness import result_like
from graphprune.ops.schema import bind, call_by_schema

aten = torch.ops.aten


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


def agree(func: Any, *args: Any) -> bool:
    """Whether the result is told, and right."""
    arguments = bind(func, args, {})
    told = result_like(func, arguments)
    if told is None:
        return False
    expected = call_by_schema(func, arguments)
    told, expected = (result[0] if isinstance(result, tuple) else result for result in (told, expected))
    assert told.shape == expected.shape and told.stride() == expected.stride() and told.dtype == expected.dtype
    return True


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions(rank: int) -> None:
    for stride, padding, dilation, groups, kernel in itertools.product((1, 2), (0, 1, 2), (1, 2), (1, 2), (1, 3)):
        source, weight = meta(2, 4, *(9, 8, 7)[:rank]), meta(6, 4 // groups, *[kernel] * rank)
        settings = ([stride] * rank, [padding] * rank, [dilation] * rank, False, [0] * rank, groups)
        assert agree(aten.convolution.default, source, weight, None, *settings)


def test_norms_and_elementwise_ops() -> None:
    x, row = meta(2, 6, 5, 5), meta(6)
    assert agree(aten.native_batch_norm.default, x, row, row, row, row, False, 0.1, 1e-5)
    assert agree(aten.native_layer_norm.default, x, [5], meta(5), meta(5), 1e-5)
    assert agree(aten.relu.default, x) and agree(aten.relu_.default, x)
    assert agree(aten.add.Tensor, x, meta(1, 6, 1, 1)) and agree(aten.mul_.Tensor, x, x)


def test_what_torch_has_to_look_at_is_left_to_it() -> None:
    assert not agree(aten.add.Tensor, meta(1, 6), meta(4, 6))
    assert not agree(aten.relu.default, meta(4, 6).t())
    wrong = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    arguments = bind(aten.convolution.default, (meta(2, 3, 9, 9), meta(6, 4, 3, 3), None, *wrong), {})
    assert result_like(aten.convolution.default, arguments) is None
