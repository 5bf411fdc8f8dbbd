"""Trained networks and their data, which accuracies are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from graphprune.research.data_files import cifar10, fashion_mnist
from graphprune.research.datasets import Dataset, Split
from graphprune.research.networks import build, orthogonal_init_
from graphprune.research.training import Recipe


class Block(nn.Module):
    """Residual block whose shortcut has no weights: it takes every second pixel and pads with channels of zeros.

    Source: He et al. 2016, section 4.2, option A.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.added = after - before

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, before, H, W)`` to ``(N, after, H', W')``."""
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.added:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images with three stages of 16, 32 and 64 channels.

    Source: He et al. 2016, section 4.2. Layers are named as in the weights of akamaster/pytorch_resnet_cifar10.

    Args:
        blocks: Blocks in each stage; 3 for ResNet20, 9 for ResNet56.
    """

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks)
        self.layer2 = _stage(16, 32, 2, blocks)
        self.layer3 = _stage(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits ``(N, 10)`` of images ``(N, 3, 32, 32)``."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(before: int, after: int, stride: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(Block(before, after, stride), *(Block(after, after, 1) for _ in range(blocks - 1)))


@dataclass(frozen=True)
class Setting:
    """A network, its data, and how the dense and the pruned networks are trained.

    Attributes:
        data: Function that reads the dataset from a directory.
        network: Function that returns the network before its training here, from a weights directory and a seed.
        dense: Training of the dense network.
        finetune: Training after pruning, the same for every tool and criterion.
        train_samples: Samples of the training split that are used; None for all.
        batch_size: Samples in a timed run.
    """

    data: Callable[[Path | None], Dataset]
    network: Callable[[Path | None, int], nn.Module]
    dense: Recipe
    finetune: Recipe
    train_samples: int | None = None
    batch_size: int = 64

    def dataset(self, directory: Path | None) -> Dataset:
        """Returns the data, with only the training samples that are used."""
        data = self.data(directory)
        if self.train_samples is None:
            return data
        train = Split(data.train.inputs[: self.train_samples].clone(), data.train.targets[: self.train_samples].clone())
        return Dataset(data.name, train, data.validation, data.test)


def _resnet(blocks: int, file: str) -> Callable[[Path | None, int], nn.Module]:
    def network(weights: Path | None, seed: int) -> nn.Module:
        assert weights is not None, f"--weights-dir: the directory that holds {file}"
        model = CifarResNet(blocks)
        known = load_file(weights / file)
        missing, unknown = model.load_state_dict(known, strict=False)  # the files do not have num_batches_tracked
        assert not unknown and all(name.endswith("num_batches_tracked") for name in missing), (missing, unknown)
        return model

    return network


def _fresh(name: str) -> Callable[[Path | None, int], nn.Module]:
    def network(weights: Path | None, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return orthogonal_init_(build(name, (1, 28, 28), 10), seed)

    return network


SETTINGS: dict[str, Setting] = {
    "lenet5": Setting(fashion_mnist, _fresh("lenet5"), Recipe(6, 128), Recipe(3, 128)),
    "conv6": Setting(fashion_mnist, _fresh("conv6"), Recipe(2, 128), Recipe(1, 128), 20_000),
    "resnet20": Setting(
        cifar10, _resnet(3, "cifar10_resnet20.safetensors"), Recipe(2, 128, 1e-3), Recipe(2, 128, 1e-3), 10_000
    ),
    "resnet56": Setting(
        cifar10, _resnet(9, "cifar10_resnet56.safetensors"), Recipe(2, 128, 1e-3), Recipe(2, 128, 1e-3), 10_000
    ),
}
