"""Masks of single weights, which are made from scores and held while the network is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from graphprune.program.tensors import Masks
from graphprune.research.training import Trainer
from graphprune.training.masks import hold
from graphprune.training.optimizer import clear_dead

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the weights of convolutions and linear layers by name, each once, in the order of registration.

    The first and the last layer are included; biases and parameters of normalisations are not.
    """
    weights = {id(layer.weight) for layer in module.modules() if isinstance(layer, LAYERS)}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) in weights}


def largest(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Returns masks that keep the highest scores of all tensors together.

    Args:
        scores: The scores by name; of any shapes, on one device.
        sparsity: Share to remove, in [0, 1]; met to the nearest whole number of weights.

    Returns:
        Masks in the shapes of the scores, True for weights that stay.
    """
    flat = torch.cat([of_one.detach().flatten() for of_one in scores.values()])
    stays = torch.zeros_like(flat, dtype=torch.bool)
    stays[flat.topk(len(flat) - round(sparsity * len(flat))).indices] = True
    parts = stays.split([of_one.numel() for of_one in scores.values()])
    return {name: part.view(of_one.shape) for (name, of_one), part in zip(scores.items(), parts, strict=True)}


def hold_in(trainer: Trainer, masks: Masks) -> None:
    """Zeroes dead weights and their moments, and keeps them at zero while the trainer goes on."""
    hold(trainer.model, masks)
    clear_dead(trainer.optimizer, dict(trainer.model.named_parameters()), masks)
