"""Finds the single ATen op that a plain layer or function stands for.

Torch would find the same op through the layer's Python code and its own decompositions, which takes several times as
long as the op's rule. A layer that is not listed here, or has hooks, is called.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

aten = torch.ops.aten

OpOf = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An ATen overload, its positional arguments and its keyword arguments."""


def op_of_layer(layer: nn.Module, source: Tensor) -> OpOf | None:
    """The op that a layer applies in evaluation mode, the layer's result being its first; None if it is not known."""
    of_kind = _LAYERS.get(type(layer))
    if of_kind is None or layer._forward_hooks or layer._forward_pre_hooks or layer.training:
        return None
    return of_kind(layer, source)


def op_of_function(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpOf | None:
    """The op that a function stands for; None if it is not known."""
    known = _FUNCTIONS.get(function)
    if known is None or (known is not aten.linear.default and kwargs):
        return None
    if known in _BINARY and not all(isinstance(argument, Tensor) for argument in args):
        return None
    return known, args, kwargs


_FUNCTIONS = {
    functional.linear: aten.linear.default, aten.linear.default: aten.linear.default,
    operator.add: aten.add.Tensor, torch.add: aten.add.Tensor, operator.iadd: aten.add_.Tensor,
    operator.mul: aten.mul.Tensor, torch.mul: aten.mul.Tensor, torch.cat: aten.cat.default,
}  # fmt: skip
_BINARY = {aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor}


def _convolution(layer: Any, source: Tensor) -> OpOf | None:
    parameters = layer._parameters  # attributes of a module are slow to read
    weight, padding = parameters["weight"], layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str) or source.dim() != weight.dim():
        return None
    arguments = (layer.stride, padding, layer.dilation, False, (0,) * len(padding), layer.groups)
    return aten.convolution.default, (source, weight, parameters["bias"], *arguments), {}


def _linear(layer: Any, source: Tensor) -> OpOf:
    return aten.linear.default, (source, layer._parameters["weight"], layer._parameters["bias"]), {}


def _batch_norm(layer: Any, source: Tensor) -> OpOf | None:
    parameters, (mean, variance) = layer._parameters, (layer._buffers[name] for name in ("running_mean", "running_var"))
    if mean is None or variance is None or source.dim() not in _RANKS[type(layer)]:
        return None
    stored = (parameters["weight"], parameters["bias"], mean, variance)
    return aten.native_batch_norm.default, (source, *stored, False, layer.momentum or 0.0, layer.eps), {}


_RANKS = {nn.BatchNorm1d: (2, 3), nn.BatchNorm2d: (4,), nn.BatchNorm3d: (5,)}


def _layer_norm(layer: Any, source: Tensor) -> OpOf:
    arguments = (layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return aten.native_layer_norm.default, (source, *arguments), {}


def _gelu(layer: Any, source: Tensor) -> OpOf:
    return aten.gelu.default, (source,), {"approximate": layer.approximate}


def _activation(pure: Any, in_place: Any, *arguments: Any) -> Callable[[Any, Tensor], OpOf]:
    return lambda layer, source: (in_place if layer.inplace else pure, (source, *arguments), {})


_LAYERS: dict[type[nn.Module], Callable[[Any, Tensor], OpOf | None]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    nn.Linear: _linear,
    nn.LayerNorm: _layer_norm,
    nn.GELU: _gelu,
    nn.ReLU: _activation(aten.relu.default, aten.relu_.default),
    nn.ReLU6: _activation(aten.hardtanh.default, aten.hardtanh_.default, 0.0, 6.0),
    nn.SiLU: _activation(aten.silu.default, aten.silu_.default),
    nn.Hardswish: _activation(aten.hardswish.default, aten.hardswish_.default),
    nn.Hardsigmoid: _activation(aten.hardsigmoid.default, aten.hardsigmoid_.default),
}
