"""Datasets in the layouts that they are published in, read from a directory that the user names.

The directory is an argument, or what the environment variable ``GRAPHPRUNE_DATA`` says. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphprune.datasets import Dataset, Split
from graphprune.errors import InputError

VARIABLE = "GRAPHPRUNE_DATA"

FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
"""Mean and standard deviation of the pixels of Fashion-MNIST's 60000 training images, scaled to [0, 1]."""

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, which networks trained on CIFAR-10 are often given too.

Source: torchvision's documentation of its pretrained weights.
"""

_VALIDATION = 0.1
"""Share of the training images that is kept for choices."""

_CIFAR_ROW = 1 + 3 * 32 * 32


def fashion_mnist(directory: str | Path | None = None, seed: int = 0) -> Dataset:
    """Fashion-MNIST: 54000 images to train, 6000 to validate, 10000 to test.

    Args:
        directory: Holds the four IDX files, ``train-images-idx3-ubyte.gz`` and so on, packed or not, in it or in a
            folder ``FashionMNIST/raw`` or ``fashion-mnist`` of it.
        seed: Of the shuffle that the validation split is cut from.

    Returns:
        Images ``(1, 28, 28)``, normalised by `FASHION_MEAN` and `FASHION_STD`; 10 classes.

    Raises:
        InputError: no directory is named, or a file is missing or damaged.
    """
    folder = _folder("fashion_mnist", directory, ("", "fashion-mnist", "FashionMNIST/raw"), "train-images-idx3-ubyte")
    parts = {}
    for part in ("train", "t10k"):
        pixels = _read_idx(folder / f"{part}-images-idx3-ubyte", dims=3)[:, None]
        labels = _read_idx(folder / f"{part}-labels-idx1-ubyte", dims=1)
        parts[part] = _split(pixels, labels, (FASHION_MEAN,), (FASHION_STD,))
    return _dataset("fashion_mnist", parts["train"], parts["t10k"], seed)


def cifar10(directory: str | Path | None = None, seed: int = 0) -> Dataset:
    """CIFAR-10: 45000 images to train, 5000 to validate, 10000 to test.

    Args:
        directory: Holds ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, in it or in its folder
            ``cifar-10-batches-bin``.
        seed: Of the shuffle that the validation split is cut from.

    Returns:
        Images ``(3, 32, 32)``, normalised by `CIFAR_MEAN` and `CIFAR_STD`; 10 classes.

    Raises:
        InputError: no directory is named, or a file is missing or damaged.
    """
    folder = _folder("cifar10", directory, ("", "cifar-10-batches-bin"), "data_batch_1.bin")
    known = torch.cat([_read_cifar(folder / f"data_batch_{index}.bin") for index in range(1, 6)])
    test = _read_cifar(folder / "test_batch.bin")
    return _dataset("cifar10", _cifar_split(known), _cifar_split(test), seed)


def _cifar_split(rows: Tensor) -> Split:
    return _split(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], CIFAR_MEAN, CIFAR_STD)


def _folder(name: str, directory: str | Path | None, places: tuple[str, ...], first: str) -> Path:
    """The first of some places in a directory that has a file, whole or packed.

    Raises:
        InputError: there is none.
    """
    named = directory if directory is not None else os.environ.get(VARIABLE)
    if named is None:
        raise InputError(f"{name}: no directory is named; give it, or set {VARIABLE}")
    for place in places:
        folder = Path(named) / place
        if (folder / first).is_file() or (folder / f"{first}.gz").is_file():
            return folder
    wanted = " or ".join(str(Path(named) / place / first) for place in places)
    raise InputError(f"{name}: there is no {wanted}; nothing is downloaded, so put the files there")


def _read_idx(path: Path, dims: int) -> Tensor:
    """An IDX file of bytes: two zeros, type 8, the number of dims, their sizes in big-endian, then the values."""
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
    """uint8 ``(N, 3073)``: the label, then 1024 pixels of red, green and blue each, row by row."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not len(content) or len(content) % _CIFAR_ROW:
        raise InputError(f"{path} has {len(content)} bytes, which are no rows of {_CIFAR_ROW}; get it again")
    return torch.from_numpy(content.reshape(-1, _CIFAR_ROW))


def _split(pixels: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Split:
    """Bytes ``(N, C, H, W)`` scaled to [0, 1] and normalised by channel."""
    center, scale = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    return Split((pixels.to(torch.float32) / 255 - center) / scale, labels.to(torch.int64))


def _dataset(name: str, known: Split, test: Split, seed: int) -> Dataset:
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))
    validation, train = order.split([round(_VALIDATION * len(known)), len(known) - round(_VALIDATION * len(known))])
    return Dataset(
        name, Split(known.inputs[train], known.targets[train]),
        Split(known.inputs[validation], known.targets[validation]), test,
    )  # fmt: skip
