"""Datasets in the layouts that they are published in, read from a directory that the user names.

The directory is an argument, or the environment variable ``GRAPHPRUNE_DATA`` names it. Nothing is downloaded. The test
images are the test images of the publisher; the validation images, which choices are made on, are cut from the training
images by a fixed seed. Folders of pictures are read by `graphprune.research.image_folders`.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError, OptionError
from graphprune.research.datasets import MNIST_MEAN, MNIST_STD, Dataset, Normalisation, Split

VARIABLE = "GRAPHPRUNE_DATA"

FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
"""Mean and standard deviation of the pixels of Fashion-MNIST's 60000 training images, scaled to [0, 1]."""

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Means and deviations of red, green and blue in ImageNet, which networks trained on CIFAR-10 are often given too.

Source: torchvision's documentation of its pretrained weights.
"""

VALIDATION = 0.1
"""Share of the training images that is kept for choices; the paper's appendix F tunes on a share of 0.2."""

FLIP = 0.2
"""Probability that a training image of CIFAR-10 or Imagenette is mirrored; source: appendix J of the paper."""

_CIFAR_ROW = 1 + 3 * 32 * 32

_IDX_FILES = (
    "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte",
)  # fmt: skip
_CIFAR_FILES = (*(f"data_batch_{index}.bin" for index in range(1, 6)), "test_batch.bin")


def mnist(directory: str | Path | None = None, seed: int = 0, validation: float = VALIDATION) -> Dataset:
    """MNIST: 54000 images to train, 6000 to validate, 10000 to test; normalised and not augmented.

    Args:
        directory: Holds the four IDX files, ``train-images-idx3-ubyte.gz`` and so on, packed or not, in it or in a
            folder ``MNIST/raw`` or ``mnist`` of it.
        seed: Seed of the shuffle that the validation split is cut from.
        validation: Share of the training images that is kept for choices, above 0 and below 1.

    Returns:
        Images ``(1, 28, 28)``, normalised by `MNIST_MEAN` and `MNIST_STD`; 10 classes.

    Raises:
        InputError: no directory is named, or a file is missing or damaged.
        OptionError: the share is out of range.
    """
    folder = find_folder("mnist", directory, ("", "mnist", "MNIST/raw"), _IDX_FILES)
    return _idx_dataset("mnist", folder, MNIST_MEAN, MNIST_STD, seed, validation)


def fashion_mnist(directory: str | Path | None = None, seed: int = 0, validation: float = VALIDATION) -> Dataset:
    """Fashion-MNIST: 54000 images to train, 6000 to validate, 10000 to test; normalised and not augmented.

    Args:
        directory: See `mnist`, or a folder ``FashionMNIST/raw`` or ``fashion-mnist`` of it.
        seed: See `mnist`.
        validation: See `mnist`.

    Returns:
        Images ``(1, 28, 28)``, normalised by `FASHION_MEAN` and `FASHION_STD`; 10 classes.

    Raises:
        InputError: no directory is named, or a file is missing or damaged.
        OptionError: the share is out of range.
    """
    folder = find_folder("fashion_mnist", directory, ("", "fashion-mnist", "FashionMNIST/raw"), _IDX_FILES)
    return _idx_dataset("fashion_mnist", folder, FASHION_MEAN, FASHION_STD, seed, validation)


def cifar10(directory: str | Path | None = None, seed: int = 0, validation: float = VALIDATION) -> Dataset:
    """CIFAR-10: 45000 images to train, 5000 to validate, 10000 to test; training images are mirrored, see `FLIP`.

    Args:
        directory: Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, in it or in its folder
            ``cifar-10-batches-bin``.
        seed: See `mnist`.
        validation: See `mnist`.

    Returns:
        Images ``(3, 32, 32)``, normalised by `CIFAR_MEAN` and `CIFAR_STD`; 10 classes.

    Raises:
        InputError: no directory is named, or a file is missing or damaged.
        OptionError: the share is out of range.
    """
    folder = find_folder("cifar10", directory, ("", "cifar-10-batches-bin"), _CIFAR_FILES)
    known = torch.cat([_read_cifar(folder / f"data_batch_{index}.bin") for index in range(1, 6)])
    test = _read_cifar(folder / "test_batch.bin")
    known_part, test_part = ((rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]) for rows in (known, test))
    return dataset_of("cifar10", known_part, test_part, (CIFAR_MEAN, CIFAR_STD), seed, validation, FLIP)


def _idx_dataset(name: str, folder: Path, mean: float, std: float, seed: int, validation: float) -> Dataset:
    images, labels, test_images, test_labels = (folder / file for file in _IDX_FILES)
    known, test = (
        (_read_idx(of_images, dims=3)[:, None], _read_idx(of_labels, dims=1))
        for of_images, of_labels in ((images, labels), (test_images, test_labels))
    )
    return dataset_of(name, known, test, ((mean,), (std,)), seed, validation)


def find_folder(name: str, directory: str | Path | None, places: tuple[str, ...], files: tuple[str, ...]) -> Path:
    """Returns the first folder among `places` that contains the first of `files`, packed or not.

    Args:
        name: Name of the dataset.
        directory: The directory; None for what `VARIABLE` names.
        places: Paths of folders in it, ``""`` for itself.
        files: The layout; the first decides, all are named where it is absent.

    Raises:
        InputError: no directory is named, or none of the folders contains the file.
    """
    layout = f"one folder with {', '.join(files)}"
    named = directory if directory is not None else os.environ.get(VARIABLE)
    if named is None:
        raise InputError(f"{name}: no directory is named; give it, or set {VARIABLE}. Expected in it: {layout}")
    for place in places:
        folder = Path(named) / place
        if (folder / files[0]).exists() or (folder / f"{files[0]}.gz").is_file():
            return folder
    wanted = " or ".join(str(Path(named) / place / files[0]) for place in places)
    raise InputError(
        f"{name}: there is no {wanted}. Expected: {layout}. Nothing is downloaded, so put the files there, or name "
        f"another directory as argument or in {VARIABLE}"
    )


def _read_idx(path: Path, dims: int) -> Tensor:
    """Reads an IDX file of bytes: two zeros, type 8, the number of dims, their sizes in big-endian, then the values."""
    packed = path.with_name(f"{path.name}.gz")
    try:
        content = path.read_bytes() if path.is_file() else gzip.decompress(packed.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    shape = np.frombuffer(content, dtype=">u4", count=dims, offset=4).tolist() if len(content) >= 4 + 4 * dims else []
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != 4 + 4 * dims + int(np.prod(shape)):
        raise InputError(f"{path} is no IDX file of bytes with {dims} dims: it has {len(content)} bytes; get it again")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


def _read_cifar(path: Path) -> Tensor:
    """Reads uint8 ``(N, 3073)``: the label, then 1024 pixels each of red, green and blue, row by row."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not len(content) or len(content) % _CIFAR_ROW:
        raise InputError(f"{path} has {len(content)} bytes, which are no rows of {_CIFAR_ROW}; get it again")
    return torch.from_numpy(content.reshape(-1, _CIFAR_ROW))


Pixels = tuple[Tensor, Tensor]
"""Bytes ``(N, C, H, W)`` and class indices ``(N,)``."""


def dataset_of(
    name: str, known: Pixels, test: Pixels, moments: tuple[tuple[float, ...], tuple[float, ...]], seed: int,
    validation: float, flip: float = 0.0,
) -> Dataset:  # fmt: skip
    """Normalises pixels, and splits the images that are not for tests into training and validation.

    Args:
        name: Name of the dataset.
        known: What is to be split.
        test: What is not.
        moments: Mean and standard deviation of each channel, of pixels scaled to [0, 1].
        seed: Seed of the shuffle that the validation split is cut from.
        validation: Share of ``known`` that it takes, above 0 and below 1.
        flip: Probability that a training image is to be mirrored.

    Raises:
        OptionError: the share leaves no image for training or none for validation.
    """
    count = len(known[1])
    chosen = round(validation * count)
    if not 0 < chosen < count:
        raise OptionError(
            f"{name}: validation must leave images to both splits, got {validation} of {count} images; to train on all "
            "when the choices are made, take Dataset.known"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    parts = [(known[0][rows], known[1][rows]) for rows in order.split([chosen, count - chosen])]
    held_out, train, tested = (_split(part, moments) for part in (*parts, test))
    return Dataset(name, train, held_out, tested, Normalisation(*moments), flip)


def _split(part: Pixels, moments: tuple[tuple[float, ...], tuple[float, ...]]) -> Split:
    return Split(Normalisation(*moments).apply(part[0].to(torch.float32) / 255), part[1].to(torch.int64))
