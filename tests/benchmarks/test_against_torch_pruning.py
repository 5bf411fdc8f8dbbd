"""The same channels removed by torch-pruning, on networks where it is right: the same weights and outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from benchmarks import against_torch_pruning
from benchmarks.against_torch_pruning import Rows, compare
from benchmarks.compile_time import build

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

# both sides hold the same numbers and run the same kernels on them: there is no rounding to allow for, but a kernel may
# be chosen by how a tensor lies in memory
TOLERANCE = 1e-6


def vgg11_bn() -> nn.Module:
    """With a small classifier: torchvision's has 120 million weights."""
    classifier = (nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 24), nn.ReLU(), nn.Linear(24, 10))
    return nn.Sequential(*make_layers(cfgs["A"], batch_norm=True), *classifier)


DRAWS = [(name, seed) for name in ("resnet18", "vgg11_bn", "mobilenet_v2") for seed in (0, 1)]
DRAWS += [(name, 0) for name in ("regnet_y_400mf", "efficientnet_b0", "densenet121", "googlenet")]


@pytest.mark.parametrize(("name", "seed"), DRAWS)
def test_the_same_channels_leave_the_same_network(name: str, seed: int) -> None:
    difference = compare(vgg11_bn() if name == "vgg11_bn" else build(name), IMAGE, seed)
    assert 0.4 < difference.channels / difference.of < 0.6
    assert difference.shapes == () and difference.values == ()
    assert difference.relative_error is not None and difference.relative_error <= TOLERANCE


def test_another_row_or_one_row_less_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned, layer = against_torch_pruning.pruned_by_torch_pruning, "layer4.0.conv1"

    def hand_over(change: Callable[[Tensor], Tensor]) -> None:
        def instead(model: nn.Module, example: Tensor, rows: Rows) -> nn.Module:
            return pruned(model, example, rows | {layer: change(rows[layer])})

        monkeypatch.setattr(against_torch_pruning, "pruned_by_torch_pruning", instead)

    hand_over(lambda rows: rows[1:])
    assert f"{layer}.weight" in compare(build("resnet18"), IMAGE).shapes
    hand_over(lambda rows: torch.cat([torch.tensor([0]), rows[1:]]))  # the first of a group is always kept
    difference = compare(build("resnet18"), IMAGE)
    assert difference.shapes == () and "layer4.0.bn1.running_mean" in difference.values
    assert difference.relative_error is not None and difference.relative_error > 100 * TOLERANCE
