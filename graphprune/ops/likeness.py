"""Ops whose result, without its values, follows from their arguments.

The analysis needs no values, and torch's shape kernels for these ops are written in Python and take most of the time.
The rules do not depend on this table: an op that is not listed, or is called in an unusual way, is run on the meta
device.

Results are contiguous here. Where those of the network are not, only a later ``view`` could notice the difference, and
its result follows from this table as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from graphprune.ops.schema import call_by_schema

aten = torch.ops.aten

Arguments = dict[str, Any]
Shape = Sequence[int]


def result_like(func: Any, arguments: Arguments) -> Any:
    """The result of an op on the meta device if it follows from the arguments; None if it does not.

    Args:
        func: An ATen overload.
        arguments: The arguments by name; one of the tensors is on the meta device.
    """
    if func in _IN_PLACE:
        return arguments["self"] if arguments["self"].is_meta else None
    if func in _RECURRENT:
        return _recurrent(arguments)
    shape_of = _SHAPES.get(func)
    shape = None if shape_of is None else shape_of(arguments)
    if shape is None:
        return None
    first = arguments["tensors"][0] if func is aten.cat.default else next(iter(arguments.values()))
    result = torch.empty(tuple(shape), dtype=first.dtype, device="meta")
    return (result, *[STATISTICS] * _MORE_RESULTS[func]) if func in _MORE_RESULTS else result


def call_for_shapes(func: Any, arguments: Arguments) -> Any:
    """The result, on the meta device, of an op that has no kernel for it; found by a run on ones."""
    filled = tree_map_only(Tensor, lambda tensor: torch.ones_like(tensor, device="cpu"), arguments)
    return tree_map_only(Tensor, lambda tensor: tensor.to("meta"), call_by_schema(func, filled))


STATISTICS = torch.empty(0, device="meta")
"""Stands for further outputs of a normalisation or attention, which nothing reads without gradients."""


def _same(arguments: Arguments) -> Shape | None:
    """Tells the result of ops on the first tensor that keep its shape and type."""
    first = next(iter(arguments.values()))
    return first.shape if first.is_floating_point() and arguments.get("dtype") is None else None


def _broadcast(arguments: Arguments) -> Shape | None:
    """Tells the result of ops on two operands of one type, or on one and a number."""
    first, other = arguments["self"], arguments["other"]
    if not first.is_floating_point():
        return None
    if isinstance(other, (int, float)) or first.shape == getattr(other, "shape", None):
        return first.shape if not isinstance(other, Tensor) or other.dtype == first.dtype else None
    if not isinstance(other, Tensor) or other.dtype != first.dtype:
        return None
    rank = max(first.dim(), other.dim())
    pairs = zip(*([1] * (rank - tensor.dim()) + list(tensor.shape) for tensor in (first, other)), strict=True)
    sizes = [(a, b) if a != 1 else (b, b) for a, b in pairs]
    return [a for a, _ in sizes] if all(b in (1, a) for a, b in sizes) else None


def _reduced(arguments: Arguments) -> Shape | None:
    first, dims = arguments["self"], arguments["dim"]
    if not first.is_floating_point() or arguments.get("dtype") is not None or not dims:
        return None
    if not all(-first.dim() <= dim < first.dim() for dim in dims):
        return None
    gone = {dim % first.dim() for dim in dims}
    if arguments["keepdim"]:
        return [1 if dim in gone else size for dim, size in enumerate(first.shape)]
    return [size for dim, size in enumerate(first.shape) if dim not in gone]


def _convolved(arguments: Arguments) -> Shape | None:
    """Shape of the result of a convolution ``(N, C_out, ...)``; None where torch has to look closer or refuse."""
    source, weight = arguments["input"], arguments["weight"]
    if arguments["transposed"] or weight.dim() != source.dim():
        return None
    shape = [source.shape[0], weight.shape[0]]
    strides, paddings, dilations = arguments["stride"], arguments["padding"], arguments["dilation"]
    for dim, (size, kernel) in enumerate(zip(source.shape[2:], weight.shape[2:], strict=True)):
        reach = dilations[dim % len(dilations)] * (kernel - 1) + 1
        shape.append((size + 2 * paddings[dim % len(paddings)] - reach) // strides[dim % len(strides)] + 1)
    fits = weight.shape[1] * arguments["groups"] == source.shape[1] and min(shape) > 0
    return shape if fits and _are_sized(arguments, ("bias",), weight.shape[:1]) else None


def _batch_normed(arguments: Arguments) -> Shape | None:
    shape = arguments["input"].shape
    return shape if _are_sized(arguments, ("weight", "bias", "running_mean", "running_var"), shape[1:2]) else None


def _layer_normed(arguments: Arguments) -> Shape | None:
    shape, size = arguments["input"].shape, tuple(arguments["normalized_shape"])
    fits = shape[len(shape) - len(size) :] == size and _are_sized(arguments, ("weight", "bias"), size)
    return shape if fits else None


def _are_sized(arguments: Arguments, names: Sequence[str], shape: Shape) -> bool:
    """Whether each of the named arguments is None or has the given shape."""
    return all(arguments[name] is None or arguments[name].shape == shape for name in names)


def _linear(arguments: Arguments) -> Shape | None:
    source, weight = arguments["input"], arguments["weight"]
    fits = weight.shape[1] == source.shape[-1] and _are_sized(arguments, ("bias",), weight.shape[:1])
    return [*source.shape[:-1], weight.shape[0]] if fits else None


def _matrix_product(first: str, second: str) -> Callable[[Arguments], Shape | None]:
    def shape(arguments: Arguments) -> Shape | None:
        a, b = arguments[first], arguments[second]
        fits = a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
        return [*a.shape[:-1], b.shape[-1]] if fits else None

    return shape


def _concatenated(arguments: Arguments) -> Shape | None:
    tensors = arguments["tensors"]
    shape, dim = list(tensors[0].shape), arguments["dim"]
    if len({(tensor.dtype, tensor.dim()) for tensor in tensors}) > 1 or not -len(shape) <= dim < len(shape):
        return None
    dim %= len(shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    rest = {(*tensor.shape[:dim], *tensor.shape[dim + 1 :]) for tensor in tensors}
    return shape if len(rest) == 1 else None


def _viewed(arguments: Arguments) -> Shape | None:
    """Tells the result for a tensor that is not contiguous; where it is, torch is quick."""
    first = arguments["self"]
    if first.is_contiguous():
        return None
    return torch.empty(first.shape, device="meta").view(arguments["size"]).shape


def _selected(arguments: Arguments) -> Shape:
    """Tells what a mask picks; how many elements depends on its values, so all are taken to be picked."""
    return [torch.broadcast_shapes(arguments["self"].shape, arguments["mask"].shape).numel()]


def _recurrent(arguments: Arguments) -> tuple[Tensor, ...] | None:
    """Output and states of a recurrent layer, which torch would split into its time steps; None if sizes do not fit."""
    source, given = arguments["input"], arguments["hx"]
    states = list(given) if isinstance(given, (list, tuple)) else [given]
    params, directions = arguments["params"], 2 if arguments["bidirectional"] else 1
    fits = params[0].shape[1] == source.shape[2] and params[1].shape[1] == states[0].shape[2]
    if not fits or states[0].shape[0] != directions * arguments["num_layers"]:
        return None
    shapes = [(*source.shape[:2], directions * states[0].shape[2]), *(state.shape for state in states)]
    return tuple(torch.empty(shape, dtype=source.dtype, device="meta") for shape in shapes)


def _attended(arguments: Arguments) -> Shape | None:
    return [*arguments["query"].shape[:-1], arguments["value"].shape[-1]]


_SHAPES: dict[Any, Callable[[Arguments], Shape | None]] = {
    **dict.fromkeys(
        (
            aten.relu.default, aten.gelu.default, aten.silu.default, aten.hardswish.default, aten.hardtanh.default,
            aten.hardsigmoid.default, aten.leaky_relu.default, aten.elu.default, aten.sigmoid.default,
            aten.tanh.default, aten.clone.default, aten.roll.default, aten._softmax.default,
            aten._safe_softmax.default,
        ),
        _same,
    ),
    **dict.fromkeys(
        (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar),
        _broadcast,
    ),
    **dict.fromkeys((aten.mean.dim, aten.sum.dim_IntList, aten.amax.default), _reduced),
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default), _viewed),
    aten.native_batch_norm.default: _batch_normed,
    aten._native_batch_norm_legit_no_training.default: _batch_normed,
    aten.native_layer_norm.default: _layer_normed,
    aten.convolution.default: _convolved,
    aten.linear.default: _linear,
    aten.mm.default: _matrix_product("self", "mat2"),
    aten.bmm.default: _matrix_product("self", "mat2"),
    aten.addmm.default: _matrix_product("mat1", "mat2"),
    aten.cat.default: _concatenated,
    aten.masked_select.default: _selected,
    aten._scaled_dot_product_flash_attention_for_cpu.default: _attended,
}  # fmt: skip
_MORE_RESULTS = {
    aten.native_batch_norm.default: 2, aten._native_batch_norm_legit_no_training.default: 2,
    aten.native_layer_norm.default: 2, aten._scaled_dot_product_flash_attention_for_cpu.default: 1,
}  # fmt: skip
_RECURRENT = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})
_IN_PLACE = frozenset({
    aten.relu_.default, aten.silu_.default, aten.hardswish_.default, aten.hardtanh_.default, aten.hardsigmoid_.default,
    aten.leaky_relu_.default, aten.elu_.default, aten.add_.Tensor, aten.mul_.Tensor,
})  # fmt: skip
