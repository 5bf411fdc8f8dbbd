"""Carlini and Wagner's attack, against the distance to a plane."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.research.analyses import robustness
from graphprune.research.analyses.robustness import Attack
from graphprune.research.datasets import Normalisation, Split

pytest.importorskip("foolbox")

NORMALISATION = Normalisation((0.4,), (0.2,))
QUICK = Attack(binary_search_steps=6, steps=300, initial_const=1.0)


def plane() -> tuple[nn.Module, torch.Tensor, float]:
    """A network that tells the sides of a plane in pixels, with that plane's normal and offset."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(9, 2))
    normal, offset = torch.randn(9), 0.0
    with torch.no_grad():
        # inputs are (p - 0.4) / 0.2, so the logit normal . p + offset is 0.2 normal . x + 0.4 sum(normal) + offset
        offset = -0.5 * float(normal.sum())
        model[2].weight.copy_(torch.stack([torch.zeros(9), 0.2 * normal]))  # type: ignore[operator]
        model[2].bias.copy_(torch.tensor([0.0, 0.4 * float(normal.sum()) + offset]))  # type: ignore[operator]
    return model, normal, offset


def test_distances_are_those_to_the_plane_in_pixels() -> None:
    model, normal, offset = plane()
    # in the middle of the box, so that the nearest point of the plane is inside
    pixels = 0.5 + 0.1 * torch.randn(24, 1, 3, 3)
    side = (pixels.flatten(1) @ normal + offset > 0).long()
    targets = side.clone()
    targets[:4] = 1 - targets[:4]  # the network has these wrong
    model.train()
    split = Split(NORMALISATION.apply(pixels), targets)
    found = robustness(model, split, NORMALISATION, caps=(0.0, 0.1, 5.0), attack=QUICK)
    assert (found.images, found.classified, len(found.distances)) == (24, 20, 20)
    expected = ((pixels.flatten(1) @ normal + offset).abs() / normal.norm())[4:]
    # the search ends near the plane and never on the near side of it; 5 % is what these few steps leave
    distances = torch.tensor(found.distances)
    assert bool((distances >= expected * 0.999).all())
    torch.testing.assert_close(distances, expected, rtol=0.05, atol=2e-3)
    shares = {cap: sum(distance <= cap for distance in found.distances) / 20 for cap in (0.0, 0.1, 5.0)}
    assert found.success == shares and shares[5.0] == 1
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_slope_is_never_fooled() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]) + 0 * x.flatten(1)[:, :2]

    split = Split(torch.rand(6, 1, 3, 3), torch.tensor([0, 0, 0, 1, 1, 1]))
    found = robustness(Constant(), split, Normalisation(), caps=(100.0,), attack=Attack(2, 20, batch_size=2))
    assert found.classified == 3 and found.success == {100.0: 0.0} and all(map(math.isinf, found.distances))
    assert json.loads(json.dumps(found.to_dict()))["distances"] == [None] * 3
    wrong = Split(split.inputs, torch.ones(6, dtype=torch.int64))
    assert robustness(Constant(), wrong, Normalisation()).success == {}


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="expected values above 0, got steps=0"):
        Attack(steps=0)
    with pytest.raises(OptionError, match="caps must not be negative"):
        robustness(nn.Flatten(), Split(torch.rand(1, 1, 1, 2), torch.zeros(1).long()), Normalisation(), caps=(-1,))
