"""How much of a network is gone."""

from __future__ import annotations

from torch import Tensor, nn

from graphprune.methods.masks import layer_weights
from graphprune.weight_pool import Masks


def zeroed_weights(before: nn.Module, after: nn.Module, masks: Masks | None = None) -> float:
    """Share of the weights of convolutions and linear layers that are zero or removed, in [0, 1].

    Args:
        before: The network before anything was removed.
        after: The network now.
        masks: Live weights of ``after``; without them those that are not zero count as live.
    """
    initial = sum(weight.numel() for weight in layer_weights(before).values())
    left = sum(int(_live(name, weight, masks).sum()) for name, weight in layer_weights(after).items())
    return 1 - left / initial


def dead_nodes(module: nn.Module, masks: Masks) -> float:
    """Share of the output channels of convolutions and linear layers that have no live weight, in [0, 1].

    Those of the last layer do not count; 0 for a network of one layer.
    """
    hidden = list(layer_weights(module).items())[:-1]
    alive = [_live(name, weight, masks).flatten(1).any(1) for name, weight in hidden]
    nodes = sum(len(rows) for rows in alive)
    return 1 - sum(int(rows.sum()) for rows in alive) / nodes if nodes else 0.0


def _live(name: str, weight: Tensor, masks: Masks | None) -> Tensor:
    return weight.detach() != 0 if masks is None or name not in masks else masks[name]
