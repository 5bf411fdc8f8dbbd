"""Attributes of torch.nn layers that repeat a size, brought in line with the layer's smaller tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from graphprune.rewrite.literals import groups_left
from graphprune.rewrite.sizes import Survivors

Updater = Callable[[Any, Survivors, Survivors], None]
"""Updates a layer, given its argument and its result under the keep set.

Updaters of frequent layers write to ``vars``, because most of the time would go into the check for parameters in
``nn.Module.__setattr__``.
"""


def updater_of(layer: nn.Module) -> Updater | None:
    """The function that updates the sizes that a layer keeps as attributes; None if it keeps none."""
    return next((update for kind, update in _UPDATERS.items() if isinstance(layer, kind)), None)


def _linear(module: nn.Linear, source: Survivors, result: Survivors) -> None:
    vars(module).update(in_features=source.size(-1), out_features=result.size(-1))


def _convolution(module: _ConvNd, source: Survivors, result: Survivors) -> None:
    channel = len(source.shape) - len(module.kernel_size) - 1
    vars(module).update(in_channels=source.size(channel), out_channels=result.size(channel))
    if module.groups > 1:
        module.groups = groups_left(source, module.groups, channel)


def _batch_norm(module: _NormBase, source: Survivors, result: Survivors) -> None:
    vars(module).update(num_features=result.size(1))


def _layer_norm(module: Any, source: Survivors, result: Survivors) -> None:
    count = len(module.normalized_shape)
    rank = len(result.shape)
    module.normalized_shape = tuple(result.size(dim) for dim in range(rank - count, rank))


def _group_norm(module: nn.GroupNorm, source: Survivors, result: Survivors) -> None:
    module.num_groups = groups_left(source, module.num_groups)
    module.num_channels = result.size(1)


def _prelu(module: nn.PReLU, source: Survivors, result: Survivors) -> None:
    if module.num_parameters > 1:
        module.num_parameters = result.size(1)


def _embedding(module: nn.Embedding | nn.EmbeddingBag, source: Survivors, result: Survivors) -> None:
    module.embedding_dim = result.size(-1)


def _unflatten(module: nn.Unflatten, source: Survivors, result: Survivors) -> None:
    first = int(module.dim) % len(source.shape)
    sizes = module.unflattened_size
    module.unflattened_size = tuple(
        size if size == -1 else result.size(first + offset) for offset, size in enumerate(sizes)
    )


def _bilinear(module: nn.Bilinear, source: Survivors, result: Survivors) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _recurrent(module: Any, source: Survivors, result: Survivors) -> None:
    states, module.input_size = module.weight_hh_l0.shape[1], module.weight_ih_l0.shape[1]
    if module.proj_size > 0:
        module.proj_size, module.hidden_size = states, module.weight_hr_l0.shape[1]
    else:
        module.hidden_size = states
    module._init_flat_weights()  # renews the list of parameters that the layer also keeps


def _recurrent_cell(module: Any, source: Survivors, result: Survivors) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


_UPDATERS: dict[type[nn.Module], Updater] = {
    nn.Linear: _linear,
    _ConvNd: _convolution,
    _NormBase: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
    nn.PReLU: _prelu,
    nn.Embedding: _embedding,
    nn.EmbeddingBag: _embedding,
    nn.Unflatten: _unflatten,
    nn.Bilinear: _bilinear,
    RNNBase: _recurrent,
    RNNCellBase: _recurrent_cell,
}
