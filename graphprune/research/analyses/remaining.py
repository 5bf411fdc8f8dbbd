"""Weights and nodes that each layer keeps, which shows where a method prunes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from graphprune.research.metrics.sparsity import LayerLeft, nodes_left, weights_left


@dataclass(frozen=True)
class Remaining:
    """What the layers keep, in the order of the dense network.

    Attributes:
        weights: Weights of each convolution and linear layer.
        nodes: Nodes of each of them but the output layers.
    """

    weights: tuple[LayerLeft, ...]
    nodes: tuple[LayerLeft, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return {kind: [asdict(layer) for layer in layers] for kind, layers in vars(self).items()}


def remaining(model: nn.Module, dense: nn.Module, outputs: Sequence[str] | None = None) -> Remaining:
    """Counts the weights and nodes that each layer keeps.

    Source: figure 4 of the paper, remaining weights by layer.

    Args:
        model: The pruned network: with zeros, physically smaller, or both.
        dense: The network before anything was removed.
        outputs: Paths of the output layers; the last layer by default.

    Raises:
        InputError: `model` is not a smaller form of `dense`.
        OptionError: an output is not the path of a layer.
    """
    return Remaining(tuple(weights_left(model, dense)), tuple(nodes_left(model, dense, outputs)))
