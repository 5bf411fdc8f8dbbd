"""The data of the studies, by name. All samples that are not for tests are trained on, as no choices are made here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from graphprune.research.data_files import cifar10, fashion_mnist, mnist
from graphprune.research.datasets import Dataset, Split, mnist_5k
from graphprune.research.image_folders import imagenette

DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "imagenette": imagenette,
    "mnist_5k": lambda directory: mnist_5k(),
}
"""Functions that read a dataset, by name; each takes the directory, see `graphprune.research.data_files`."""


@lru_cache(maxsize=1)
def dataset(name: str, directory: Path | None, samples: int | None) -> Dataset:
    """Returns a dataset whose training split has the first samples of training and validation together.

    The order is a fixed shuffle, so the first samples are a random draw from all classes. The dataset of the last call
    stays in memory.

    Args:
        name: Name of the dataset, a key of `DATASETS`.
        directory: Directory of the data; None for the one that the environment names.
        samples: Number of samples to train on; None for all.

    Raises:
        InputError: the data does not exist.
    """
    read = DATASETS[name](directory)
    known = read.known
    if samples is not None and samples < len(known):
        known = Split(known.inputs[:samples].clone(), known.targets[:samples].clone())
    return replace(read, train=known)
