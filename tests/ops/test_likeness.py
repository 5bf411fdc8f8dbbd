"""Results that are told from the arguments are those that torch's own shape kernels give."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from graphprune.ops.likeness import result_like
from graphprune.ops.schema import bind, call_by_schema

aten = torch.ops.aten


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def agree(func: Any, *args: Any) -> bool:
    """Whether the result is told, and right."""
    arguments = bind(func, args, {})
    told = result_like(func, arguments)
    if told is None:
        return False
    expected = call_by_schema(func, arguments)
    assert isinstance(told, tuple) == isinstance(expected, tuple)
    if isinstance(told, tuple):
        assert len(told) == len(expected)
        told, expected = told[0], expected[0]
    assert told.shape == expected.shape and told.dtype == expected.dtype
    if all(tensor.is_contiguous() for tensor in args if isinstance(tensor, Tensor)):
        assert told.stride() == expected.stride()
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
    assert agree(aten.add.Tensor, meta(1, 6), meta(4, 6)) and agree(aten.mul.Tensor, meta(6, 1, 1), x)
    assert agree(aten.div.Tensor, x, 2) and agree(aten.mul.Scalar, x, 0.5)
    assert agree(aten.relu.default, meta(4, 6).t()) and agree(aten.clone.default, meta(4, 6).t())


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", [aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input])
def test_recurrent_layers(op: Any, directions: int, batch_first: bool) -> None:
    gates = {aten.lstm.input: 4, aten.gru.input: 3}.get(op, 1)
    widths = [5] * directions + [6 * directions] * directions
    params = [meta(gates * 6, width) for block in widths for width in (block, 6)]
    state = meta(2 * directions, 3, 6)
    given = [state, state] if op is aten.lstm.input else state
    source = meta(3, 7, 5) if batch_first else meta(7, 3, 5)
    settings = (False, 2, 0.0, False, directions == 2, batch_first)
    arguments = bind(op, (source, given, params, *settings), {})
    told, expected = result_like(op, arguments), call_by_schema(op, arguments)
    assert [tensor.shape for tensor in told] == [tensor.shape for tensor in expected]
    assert result_like(op, arguments | {"input": meta(7, 3, 4)}) is None


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dims", [[-1], [2, 3], [0], [-1, 1]])
def test_reductions(dims: list[int], keepdim: bool) -> None:
    assert agree(aten.mean.dim, meta(2, 6, 5, 4), dims, keepdim)
    assert agree(aten.sum.dim_IntList, meta(2, 6, 5, 4), dims, keepdim)
    assert agree(aten.amax.default, meta(2, 6, 5, 4), dims, keepdim)


def test_products() -> None:
    assert agree(aten.linear.default, meta(2, 7, 5), meta(3, 5), meta(3))
    assert agree(aten.mm.default, meta(2, 5), meta(5, 3)) and agree(aten.addmm.default, meta(3), meta(2, 5), meta(5, 3))
    assert agree(aten.bmm.default, meta(4, 2, 5), meta(4, 5, 3))
    heads = meta(2, 3, 7, 4), meta(2, 3, 5, 4), meta(2, 3, 5, 4)
    assert agree(aten._scaled_dot_product_flash_attention_for_cpu.default, *heads)


def test_movement() -> None:
    assert agree(aten.cat.default, [meta(2, 3, 4), meta(2, 5, 4)], 1)
    assert agree(aten.cat.default, [meta(2, 3, 4), meta(2, 3, 1)], -1)
    assert agree(aten.roll.default, meta(2, 3, 4), [1, 1], [1, 2])
    # torch refuses to view a tensor of this layout; the network's own may have another one
    assert result_like(aten.view.default, bind(aten.view.default, (meta(4, 6).t(), [2, -1]), {})).shape == (2, 12)


def test_what_torch_has_to_look_at_is_left_to_it() -> None:
    integers = torch.ones(4, 6, dtype=torch.int64, device="meta")
    assert not agree(aten.add.Tensor, meta(4, 6), integers)
    assert not agree(aten.div.Tensor, integers, 2)
    assert not agree(aten.mean.dim, meta(4, 6), [], False)
    settings = ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    for func, args in (
        (aten.add.Tensor, (meta(4, 6), meta(4, 5))),
        (aten.mean.dim, (meta(4, 6), [2])),
        (aten.native_batch_norm.default, (meta(2, 6, 5), meta(6), meta(4), meta(6), meta(6), False, 0.1, 1e-5)),
        (aten.native_layer_norm.default, (meta(2, 6), [6], meta(6), meta(4), 1e-5)),
        (aten.linear.default, (meta(2, 5), meta(3, 4))),
        (aten.linear.default, (meta(2, 5), meta(3, 5), meta(4))),
        (aten.mm.default, (meta(2, 5), meta(4, 3))),
        (aten.cat.default, ([meta(2, 3), meta(4, 5)], 1)),
        (aten.convolution.default, (meta(2, 3, 9, 9), meta(6, 4, 3, 3), None, *settings)),
    ):
        assert result_like(func, bind(func, args, {})) is None
