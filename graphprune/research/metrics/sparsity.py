"""Shares of weights and of nodes that were removed from a network, compared with the dense network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphprune.errors import InputError, OptionError
from graphprune.research.metrics.layers import as_matrix, is_transposed, layer_weight, layers_of


@dataclass(frozen=True)
class LayerLeft:
    """How much one layer keeps.

    Attributes:
        name: Path of the layer in the dense network.
        before: Number of weights or nodes of the dense layer.
        left: Number of those that still exist and are not zero; a node is zero when all weights into it are zero.
    """

    name: str
    before: int
    left: int

    @property
    def removed(self) -> float:
        """Share that was removed, in [0, 1]."""
        return 1 - self.left / self.before


def weights_left(model: nn.Module, dense: nn.Module) -> list[LayerLeft]:
    """Counts the weights of each convolution and linear layer, in the order of the dense network; tied ones once.

    Args:
        model: The pruned network: with zeros, physically smaller, or both. Its layers have the same names as in
            `dense`; a layer that it lacks was removed as a whole.
        dense: The network before anything was removed.

    Raises:
        InputError: `dense` has no convolution or linear layer, or `model` is not a smaller form of `dense`.
    """
    return [
        LayerLeft(name, weight.numel(), 0 if left is None else int(torch.count_nonzero(left)))
        for name, weight, left in _pairs(model, dense)
    ]


def weight_sparsity(model: nn.Module, dense: nn.Module) -> float:
    """Returns (zeroed + removed) / initial over the weights of convolutions and linear layers, in [0, 1].

    Biases and parameters of normalisations do not count. Arguments and errors are those of `weights_left`.
    """
    return _removed(weights_left(model, dense))


def nodes_left(model: nn.Module, dense: nn.Module, outputs: Sequence[str] | None = None) -> list[LayerLeft]:
    """Counts the nodes (output channels) of each convolution and linear layer except the output layers.

    The inputs of the network are not nodes of a layer, so they do not count either. Channels of coupled layers count in
    each of these layers. A node whose incoming weights are all zero counts as removed, although its bias may still
    reach later layers.

    Args:
        model: See `weights_left`.
        dense: See `weights_left`.
        outputs: Paths of the output layers; the last layer by default.

    Raises:
        InputError: see `weights_left`.
        OptionError: an output is no layer.
    """
    layers = layers_of(dense)
    pairs = _pairs(model, dense)
    last = [pairs[-1][0]] if outputs is None else list(outputs)
    unknown = [name for name in last if name not in layers]
    if unknown:
        raise OptionError(f"outputs: no layer is called {', '.join(unknown)}; layers are {', '.join(layers)}")
    found = []
    for name, weight, left in pairs:
        if name not in last:
            before = len(as_matrix(layers[name], weight))
            count = 0 if left is None else int((as_matrix(layers[name], left) != 0).any(1).sum())
            found.append(LayerLeft(name, *(nodes * _nodes_per_row(layers[name]) for nodes in (before, count))))
    return found


def node_sparsity(model: nn.Module, dense: nn.Module, outputs: Sequence[str] | None = None) -> float:
    """Returns 1 - nodes left / nodes before, in [0, 1]; 0 for a network of output layers only. See `nodes_left`."""
    return _removed(nodes_left(model, dense, outputs))


def harmonic_mean(sparsity: float, accuracy: float) -> float:
    """Returns the harmonic mean 2 s a / (s + a) of sparsity and accuracy, or 0 if both are 0.

    Source: section 5 of the paper, which selects the points of its tables by this mean.

    Args:
        sparsity: Share removed, in [0, 1].
        accuracy: Share classified right, in [0, 1].

    Raises:
        OptionError: one of the two is out of range (a percentage, for example).
    """
    if not (0 <= sparsity <= 1 and 0 <= accuracy <= 1):
        raise OptionError(f"sparsity and accuracy must be shares in [0, 1], got {sparsity} and {accuracy}")
    return 2 * sparsity * accuracy / (sparsity + accuracy) if sparsity + accuracy else 0.0


def _removed(layers: Sequence[LayerLeft]) -> float:
    before = sum(layer.before for layer in layers)
    return 1 - sum(layer.left for layer in layers) / before if before else 0.0


def _pairs(model: nn.Module, dense: nn.Module) -> list[tuple[str, Tensor, Tensor | None]]:
    """Returns the path of each layer, its weight in the dense network, and its weight in the pruned one or None."""
    layers = layers_of(dense)
    if not layers:
        raise InputError("the dense network has no convolution or linear layer, so there are no weights to count")
    found, problems = [], []
    for name in layers:
        weight, left = layer_weight(dense, name), layer_weight(model, name)
        assert weight is not None
        if left is not None and not _fits(left, weight):
            problems.append(f"{name}: expected at most {tuple(weight.shape)}, got {tuple(left.shape)}")
        found.append((name, weight, left))
    if all(left is None for _, _, left in found):
        problems.append(f"it has none of the layers {', '.join(layers)}")
    if problems:
        raise InputError("the network is no smaller form of the dense one: " + "; ".join(problems))
    return found


def _fits(left: Tensor, weight: Tensor) -> bool:
    return left.dim() == weight.dim() and all(a <= b for a, b in zip(left.shape, weight.shape, strict=True))


def _nodes_per_row(layer: nn.Module) -> int:
    """Output channels for one row: a transposed convolution has one row for a channel in each of its groups."""
    return int(getattr(layer, "groups", 1)) if is_transposed(layer) else 1
