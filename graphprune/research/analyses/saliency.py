"""Saliency maps: which pixels the loss of an image depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.errors import InputError
from graphprune.program.module_state import in_mode
from graphprune.research.epochs import device_of


@dataclass(frozen=True, eq=False)
class SaliencyMaps:
    """Saliency maps of some images.

    Attributes:
        maps: One map per image, not negative, float32 ``(N, H, W)``, on the CPU.
        images: The images ``(N, C, H, W)``, as the network saw them.
        targets: The true classes, int64 ``(N,)``.
        predicted: The classes that the network predicts, int64 ``(N,)``.
    """

    maps: Tensor
    images: Tensor
    targets: Tensor
    predicted: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Returns maps and classes as lists, ready for JSON; without the images, which are in the dataset."""
        return {name: getattr(self, name).tolist() for name in ("maps", "targets", "predicted")}


def saliency_maps(model: nn.Module, images: Tensor, targets: Tensor) -> SaliencyMaps:
    """Returns |dL/dx| summed over colours, where L is the cross-entropy of the image's true class.

    Source: figure 3 of the paper, after Simonyan et al. 2013, who take the score of the class instead of the loss, and
        the maximum over the colours instead of the sum. For gray images, as in the paper, maximum and sum are equal.

    Args:
        model: Network from inputs ``(N, C, H, W)`` to logits ``(N, classes)``; run in evaluation mode, not changed.
        images: Inputs ``(N, C, H, W)``, N at least 1.
        targets: True classes ``(N,)``.

    Raises:
        InputError: a shape is not the expected one.
    """
    if images.dim() != 4 or targets.shape != images.shape[:1] or not len(images):
        raise InputError(
            f"saliency: expected images (N, C, H, W) and N > 0 targets, got {tuple(images.shape)} and "
            f"{tuple(targets.shape)}"
        )
    device = device_of(model)
    inputs = images.detach().to(device).requires_grad_()
    with in_mode(model, training=False), torch.enable_grad():
        logits = model(inputs)
        # a sum, so that each image has the gradient of its own loss
        loss = functional.cross_entropy(logits, targets.to(device), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    return SaliencyMaps(gradient.abs().sum(1).cpu(), images.detach().cpu(), targets.cpu(), logits.argmax(1).cpu())
