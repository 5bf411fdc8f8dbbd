"""The data of the studies, by name; all that is not for tests is trained on, for nothing is chosen here."""

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
"""Readers; each takes the directory of the data, see `graphprune.research.data_files`."""


@lru_cache(maxsize=1)
def dataset(name: str, directory: Path | None, samples: int | None) -> Dataset:
    """A dataset whose training split is training and validation together, cut to its first samples.

    The order is a fixed shuffle, so the first samples are a draw of all classes. The last one asked for is kept.

    Raises:
        InputError: the data is not there.
    """
    read = DATASETS[name](directory)
    known = read.known
    if samples is not None and samples < len(known):
        known = Split(known.inputs[:samples].clone(), known.targets[:samples].clone())
    return replace(read, train=known)
