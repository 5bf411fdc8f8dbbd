"""Datasets are read from their published layouts, and nothing else is taken for one."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from graphprune.errors import InputError, OptionError
from graphprune.research.data_files import (
    CIFAR_MEAN,
    CIFAR_STD,
    FASHION_MEAN,
    FASHION_STD,
    VARIABLE,
    cifar10,
    fashion_mnist,
    mnist,
)
from graphprune.research.datasets import MNIST_MEAN, MNIST_STD

RNG = np.random.default_rng(0)


def idx(values: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return head + values.tobytes()


def write_fashion(folder: Path, *, packed: bool) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, count in (("train", 50), ("t10k", 12)):
        written[f"{part}-images-idx3-ubyte"] = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        written[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, values in written.items():
        content = idx(values)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return written


def write_cifar(folder: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    folder.mkdir(parents=True)
    written = {}
    for name in [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]:
        rows = RNG.integers(0, 256, (10, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(10)
        rows.tofile(folder / f"{name}.bin")
        written[name] = rows
    return written


@pytest.mark.parametrize(("place", "packed"), [("", True), ("", False), ("FashionMNIST/raw", True)])
def test_fashion_mnist(place: str, packed: bool, tmp_path: Path) -> None:
    written = write_fashion(tmp_path / place, packed=packed)
    data = fashion_mnist(tmp_path)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [45, 5, 12]
    assert data.in_shape == (1, 28, 28) and data.classes == 10
    pixels = torch.from_numpy(written["t10k-images-idx3-ubyte"]).float() / 255
    torch.testing.assert_close(data.test.inputs[:, 0] * FASHION_STD + FASHION_MEAN, pixels, rtol=0, atol=1e-6)
    assert data.test.targets.tolist() == written["t10k-labels-idx1-ubyte"].tolist()


@pytest.mark.parametrize(("place", "packed"), [("", False), ("MNIST/raw", True), ("mnist", True)])
def test_mnist(place: str, packed: bool, tmp_path: Path) -> None:
    written = write_fashion(tmp_path / place, packed=packed)
    data = mnist(tmp_path, validation=0.2)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [40, 10, 12]
    assert data.name == "mnist" and data.flip == 0 and len(data.known) == 50
    pixels = torch.from_numpy(written["t10k-images-idx3-ubyte"]).float() / 255
    torch.testing.assert_close(data.test.inputs[:, 0] * MNIST_STD + MNIST_MEAN, pixels, rtol=0, atol=1e-6)
    torch.testing.assert_close(data.normalisation.undo(data.test.inputs)[:, 0], pixels, rtol=0, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0, 0.001])
def test_a_share_that_leaves_nothing_is_refused(share: float, tmp_path: Path) -> None:
    write_fashion(tmp_path, packed=False)
    with pytest.raises(OptionError, match="must leave images to both splits"):
        mnist(tmp_path, validation=share)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = write_cifar(tmp_path / "cifar-10-batches-bin")
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    data = cifar10()
    assert [len(split) for split in (data.train, data.validation, data.test)] == [45, 5, 10]
    rows = written["test_batch"]
    assert data.test.targets.tolist() == rows[:, 0].tolist() and data.flip == 0.2
    for channel, (mean, std) in enumerate(zip(CIFAR_MEAN, CIFAR_STD, strict=True)):
        plane = torch.from_numpy(rows[:, 1 + 1024 * channel : 1 + 1024 * (channel + 1)]).float().reshape(-1, 32, 32)
        torch.testing.assert_close(data.test.inputs[:, channel] * std + mean, plane / 255, rtol=0, atol=1e-6)


def test_training_images_are_split_and_none_is_lost(tmp_path: Path) -> None:
    written = write_fashion(tmp_path, packed=False)
    data = fashion_mnist(tmp_path)
    images = torch.cat([data.train.inputs, data.validation.inputs]) * FASHION_STD + FASHION_MEAN
    sums = (255 * images.sum((1, 2, 3))).round().long().sort().values
    expected = torch.from_numpy(written["train-images-idx3-ubyte"]).sum((1, 2)).long().sort().values
    assert sums.tolist() == expected.tolist()
    assert fashion_mnist(tmp_path, seed=1).validation.targets.tolist() != data.validation.targets.tolist()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"cifar10: no directory is named; give it, or set {VARIABLE}"):
        cifar10()
    with pytest.raises(InputError, match=r"fashion_mnist: there is no .*train-images-idx3-ubyte") as caught:
        fashion_mnist(tmp_path)
    for told in (str(tmp_path), "t10k-labels-idx1-ubyte", VARIABLE):
        assert told in str(caught.value)
    write_fashion(tmp_path, packed=False)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte is no IDX file of bytes with 1 dims"):
        fashion_mnist(tmp_path)
    labels.unlink()
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte cannot be read"):
        fashion_mnist(tmp_path)
    write_cifar(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(b"12")
    with pytest.raises(InputError, match=r"test_batch.bin has 2 bytes, which are no rows of 3073"):
        cifar10(tmp_path)
