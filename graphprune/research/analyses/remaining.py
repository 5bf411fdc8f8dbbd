"""What is left of each layer: where a method prunes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from graphprune.research.metrics.sparsity import LayerLeft, nodes_left, weights_left


@dataclass(frozen=True)
class Remaining:
    """Layers in the order of the dense network.

    Attributes:
        weights: Weights of each convolution and linear layer.
        nodes: Nodes of each of them but the output layers.
    """

    weights: tuple[LayerLeft, ...]
    nodes: tuple[LayerLeft, ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return {kind: [asdict(layer) for layer in layers] for kind, layers in vars(self).items()}


def remaining(model: nn.Module, dense: nn.Module, outputs: Sequence[str] | None = None) -> Remaining:
    """Counts what is left.

    Source: figure 4 of the paper, remaining weights by layer.

    Args:
        model: The network: with zeros, physically smaller, or both.
        dense: The network before anything went.
        outputs: Paths of the output layers; the last layer by default.

    Raises:
        InputError: `model` is no smaller form of `dense`.
        OptionError: an output is no layer.
    """
    return Remaining(tuple(weights_left(model, dense)), tuple(nodes_left(model, dense, outputs)))
