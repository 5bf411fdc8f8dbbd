"""Saliency maps, against differences of the loss."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from graphprune.errors import InputError
from graphprune.research.analyses import saliency_maps


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)).double()


def test_against_differences() -> None:
    model, images, targets = network(), torch.randn(3, 2, 4, 4).double(), torch.tensor([0, 2, 1])
    model.train()
    found = saliency_maps(model, images, targets)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    step = 1e-5
    expected = torch.zeros(3, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        for index in range(images[0].numel()):
            change = torch.zeros(images[0].numel(), dtype=torch.float64)
            change[index] = step
            sides = [
                functional.cross_entropy(model(images + sign * change.view(2, 4, 4)), targets, reduction="none")
                for sign in (1, -1)
            ]
            row, column = divmod(index % 16, 4)
            expected[:, row, column] += ((sides[0] - sides[1]) / (2 * step)).abs()
    # central differences err by the step squared, and by rounding over the step
    torch.testing.assert_close(found.maps, expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(found.predicted, model(images).argmax(1))
    assert torch.equal(found.images, images) and found.targets.tolist() == [0, 2, 1]
    told = json.loads(json.dumps(found.to_dict()))
    assert set(told) == {"maps", "targets", "predicted"} and len(told["maps"][0]) == 4


def test_an_image_does_not_depend_on_its_batch() -> None:
    model, images, targets = network(), torch.randn(3, 2, 4, 4).double(), torch.tensor([0, 2, 1])
    together = saliency_maps(model, images, targets).maps
    alone = torch.cat([saliency_maps(model, images[i : i + 1], targets[i : i + 1]).maps for i in range(3)])
    # convolutions of another batch size add up in another order
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected images \(N, C, H, W\)"):
        saliency_maps(network(), torch.randn(2, 4, 4), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="N > 0 targets"):
        saliency_maps(network(), torch.randn(3, 2, 4, 4), torch.tensor([0]))
