"""Masks of single weights: made from scores, and held while the network is trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.errors import OptionError
from graphprune.weight_pool import Masks

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layer_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of convolutions and linear layers by name, each once, in the order of registration.

    First and last layer included; biases and normalisation are not among them.
    """
    weights = {id(layer.weight) for layer in module.modules() if isinstance(layer, LAYERS)}
    return {name: parameter for name, parameter in module.named_parameters() if id(parameter) in weights}


def largest(scores: Mapping[str, Tensor], sparsity: float) -> Masks:
    """Masks that keep the highest scores of all tensors together.

    Args:
        scores: By name; of any shapes, on one device.
        sparsity: Share to remove, in [0, 1]; met to the nearest whole number of weights.

    Returns:
        True for what stays, of the shapes of the scores.
    """
    flat = torch.cat([of_one.detach().flatten() for of_one in scores.values()])
    stays = torch.zeros_like(flat, dtype=torch.bool)
    stays[flat.topk(len(flat) - round(sparsity * len(flat))).indices] = True
    parts = stays.split([of_one.numel() for of_one in scores.values()])
    return {name: part.view(of_one.shape) for (name, of_one), part in zip(scores.items(), parts, strict=True)}


class HeldMasks:
    """Keeps dead weights at zero while a network is trained.

    Gradients of dead weights are zeroed before they are clipped, so that they do not count in the norm, and their
    moments are cleared once. Then nothing moves them: an L2 weight decay is proportional to the weight.
    """

    def __init__(self, module: nn.Module, masks: Masks) -> None:
        """Nothing happens to the module yet.

        Raises:
            OptionError: a mask is of no parameter, or of another shape.
        """
        parameters = dict(module.named_parameters())
        wrong = [name for name in masks if name not in parameters or masks[name].shape != parameters[name].shape]
        if wrong:
            raise OptionError(f"masks: no parameters of that shape in {type(module).__name__}: {', '.join(wrong)}")
        self._dead = [(parameters[name], ~mask.to(parameters[name].device)) for name, mask in masks.items()]

    @torch.no_grad()
    def apply(self, optimizer: Optimizer | None = None) -> None:
        """Zeroes dead weights, and their entries in the optimizer's state."""
        for parameter, dead in self._dead:
            parameter.masked_fill_(dead, 0.0)
            if optimizer is None or parameter not in optimizer.state:
                continue
            for value in optimizer.state[parameter].values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(dead, 0.0)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """To be called when gradients are there and before they are clipped."""
        for parameter, dead in self._dead:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(dead, 0.0)
