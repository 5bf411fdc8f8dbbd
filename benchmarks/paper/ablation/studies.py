"""The networks of the ablation, untrained and trained, with their data and settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from benchmarks.paper.ablation.variants import Granularity
from benchmarks.trained_networks import SETTINGS
from graphprune.research.data_files import fashion_mnist
from graphprune.research.datasets import Dataset, Split
from graphprune.research.networks import DROPOUT, NEGATIVE_SLOPE, ConvNet, build, orthogonal_init_
from graphprune.research.training import Recipe


@dataclass(frozen=True)
class Study:
    """A network and what is measured on it.

    Attributes:
        data: Function that reads the dataset from a directory.
        network: Function that returns the untrained network of a seed; None for the trained ResNet20 of
            `benchmarks.trained_networks`.
        recipe: Training after the prune.
        train_samples: Samples of the training split that are used.
        test_samples: Samples of the test split.
        sparsities: Shares to remove: of the channels that may go, of the weights.
        schedule: That variants have unless it is what is turned round.
        samples: For scoring in a round.
        protect: Channels that stay; for the ResNet all but those inside of blocks.
    """

    data: Callable[[Path | None], Dataset]
    network: Callable[[int], nn.Module] | None
    recipe: Recipe
    train_samples: int
    test_samples: int
    sparsities: Mapping[Granularity, tuple[float, ...]]
    schedule: str
    samples: int = 2560
    protect: tuple[str, ...] = ()

    def dataset(self, directory: Path | None) -> Dataset:
        """Returns the data, with only the samples that are used."""
        data = self.data(directory)
        return replace(data, train=_first(data.train, self.train_samples), test=_first(data.test, self.test_samples))


def _first(split: Split, count: int) -> Split:
    return Split(split.inputs[:count].clone(), split.targets[:count].clone())


def narrow_conv6(seed: int) -> nn.Module:
    """Returns Conv6 with a quarter of its channels, for images ``(1, 28, 28)``, with orthogonal weights."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((1, 16, 16, 32, 32, 64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(NEGATIVE_SLOPE)]
        if (before, after) in ((16, 16), (32, 32)):
            layers.append(nn.MaxPool2d(2))
    hidden = [nn.Dropout(DROPOUT), nn.Linear(576, 64), nn.BatchNorm1d(64), nn.LeakyReLU(NEGATIVE_SLOPE)]
    classifier = nn.Sequential(*hidden, nn.Dropout(DROPOUT), nn.Linear(64, 10))
    return orthogonal_init_(ConvNet(nn.Sequential(*layers), 3, classifier), seed)


def _lenet5(seed: int) -> nn.Module:
    return orthogonal_init_(build("lenet5", (1, 28, 28), 10), seed)


STUDIES: dict[str, Study] = {
    "lenet5": Study(
        fashion_mnist, _lenet5, Recipe(4, 128), 5000, 3000, {"channel": (0.7, 0.9), "weight": (0.95, 0.99)}, "halving"
    ),
    "conv6-narrow": Study(
        fashion_mnist, narrow_conv6, Recipe(3, 128), 4000, 3000, {"channel": (0.7, 0.9), "weight": (0.95, 0.99)},
        "halving",
    ),
    "resnet20": Study(
        SETTINGS["resnet20"].data, None, SETTINGS["resnet20"].finetune, 10_000, 2000,
        {"channel": (0.1, 0.2, 0.3, 0.4), "weight": (0.3, 0.5, 0.7, 0.9)}, "one-shot", 1024,
        ("conv1", "layer?.?.conv2"),
    ),
}  # fmt: skip
