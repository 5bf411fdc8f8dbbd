"""Further measurements of some studies: attacks, saliency maps, elasticities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.paper.studies import Scale
from graphprune.research.analyses import elasticity_curves, robustness, saliency_maps
from graphprune.research.analyses.robustness import Attack
from graphprune.research.datasets import Dataset, Split, sensitivity_batches

Analysis = Callable[[nn.Module, Dataset, Scale], dict[str, Any]]
"""Function from the trained network, its data and the scale to the entry of the row, ready for JSON."""

ATTACKS: dict[Scale, tuple[int, Attack]] = {"paper": (1000, Attack()), "cpu": (100, Attack(5, 200, 5e-2, 1e-1))}
"""Number of test images, and the attack; scale ``cpu`` takes fewer and longer steps from a larger first weight."""

MAPS = 5
SAMPLES = 2560
DIGITS = 4
"""Digits of numbers in a row that has thousands of them."""


def attacked(model: nn.Module, data: Dataset, scale: Scale) -> dict[str, Any]:
    """Returns the success of the attack on the first test images."""
    images, attack = ATTACKS[scale]
    split = Split(data.test.inputs[:images].clone(), data.test.targets[:images].clone())
    return robustness(model, split, data.normalisation, attack=attack).to_dict() | {"attack": vars(attack)}


def mapped(model: nn.Module, data: Dataset, scale: Scale) -> dict[str, Any]:
    """Returns the saliency maps of the first test images, and the images."""
    maps = saliency_maps(model, data.test.inputs[:MAPS], data.test.targets[:MAPS])
    return rounded(maps.to_dict() | {"images": maps.images.tolist()})


def sorted_elasticities(model: nn.Module, data: Dataset, scale: Scale) -> dict[str, Any]:
    """Sparsities of channels and of weights."""
    device = next(model.parameters()).device
    batches = [
        (inputs.to(device), targets.to(device))
        for inputs, targets in sensitivity_batches(data.train, SAMPLES, batch_size=256, seed=0)
    ]
    return rounded(elasticity_curves(model, batches[0][0][:2], batches, samples=SAMPLES).to_dict())


ANALYSES: dict[str, Analysis] = {
    "robustness": attacked, "saliency": mapped, "elasticities": sorted_elasticities,
}  # fmt: skip


def rounded(tree: dict[str, Any]) -> dict[str, Any]:
    """Rounds the floats in it to a few digits."""
    return {key: _rounded(value) for key, value in tree.items()}


def _rounded(tree: Any) -> Any:
    if isinstance(tree, dict):
        return rounded(tree)
    if isinstance(tree, (list, tuple)):
        return [_rounded(value) for value in tree]
    return float(f"{tree:.{DIGITS}g}") if isinstance(tree, float) else tree
