"""Imagenette is read from folders, scaled as the paper says, and decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from graphprune.errors import InputError, OptionError
from graphprune.research import image_folders
from graphprune.research.data_files import VARIABLE
from graphprune.research.image_folders import IMAGENET_MEAN, IMAGENET_STD, imagenette

CLASSES = ("n02", "n01")
RNG = np.random.default_rng(0)


def write_pictures(folder: Path, *, of_each: int = 4) -> None:
    """A class is a colour: red for n01, blue for n02; one picture of each is gray, and none is square."""
    for part, count in (("train", of_each), ("val", 2)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = np.zeros((40, 60, 3), dtype=np.uint8)
                pixels[..., 0 if name == "n01" else 2] = 200
                picture = Image.fromarray(pixels)
                picture = picture.convert("L") if index == 0 and part == "train" else picture
                picture.save(folder / part / name / f"{index}.png")


@pytest.mark.parametrize("place", ["", "imagenette2-320"])
def test_classes_sizes_and_pixels(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "data" / place)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "data"))
    data = imagenette(validation=0.25, side=16, cache=tmp_path / "cache")
    assert (data.name, data.in_shape, data.classes, data.flip) == ("imagenette", (3, 16, 16), 2, 0.2)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [6, 2, 4]
    assert data.test.targets.tolist() == [0, 0, 1, 1]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    for image, target in zip(data.test.inputs, data.test.targets.tolist(), strict=True):
        expected = torch.zeros(3, 16, 16)
        expected[0 if target == 0 else 2] = 200 / 255
        torch.testing.assert_close(image * std + mean, expected, rtol=0, atol=1e-6)


def test_the_shape_is_given_up_and_the_content_kept(tmp_path: Path) -> None:
    """A picture that is dark on its left half is so after the whole of it became a square."""
    write_pictures(tmp_path)
    pixels = np.zeros((320, 640, 3), dtype=np.uint8)
    pixels[:, 320:] = 255
    Image.fromarray(pixels).save(tmp_path / "val" / "n01" / "0.png")
    image = imagenette(tmp_path, validation=0.25, cache=tmp_path / "cache").test
    square = image.inputs[0, 0] * IMAGENET_STD[0] + IMAGENET_MEAN[0]
    assert square.shape == (128, 128)
    # the few columns next to the edge are blurred by the scaling
    torch.testing.assert_close(square[:, :60], torch.zeros(128, 60), rtol=0, atol=1e-6)
    torch.testing.assert_close(square[:, 68:], torch.ones(128, 60), rtol=0, atol=1e-6)


def test_pictures_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path)
    decoded = []

    def counting(path: Path, side: int) -> torch.Tensor:
        decoded.append(path)
        return original(path, side)

    original = image_folders._picture
    monkeypatch.setattr(image_folders, "_picture", counting)
    first = imagenette(tmp_path, validation=0.25, side=8, cache=tmp_path / "cache")
    assert len(decoded) == 12
    again = imagenette(tmp_path, validation=0.25, side=8, cache=tmp_path / "cache")
    assert len(decoded) == 12
    assert torch.equal(first.train.inputs, again.train.inputs) and torch.equal(first.test.targets, again.test.targets)
    pixels = np.full((41, 60, 3), 7, dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "val" / "n01" / "0.png")
    changed = imagenette(tmp_path, validation=0.25, side=8, cache=tmp_path / "cache")
    assert len(decoded) == 16  # the four of the folder in which one changed
    assert not torch.equal(changed.test.inputs, first.test.inputs)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(InputError, match=rf"imagenette: no directory is named; give it, or set {VARIABLE}"):
        imagenette()
    with pytest.raises(InputError, match=r"imagenette: there is no .*train/CLASS/PICTURE.JPEG") as caught:
        imagenette(tmp_path)
    assert str(tmp_path) in str(caught.value) and VARIABLE in str(caught.value)
    write_pictures(tmp_path)
    (tmp_path / "val" / "n01" / "1.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1\.png cannot be decoded"):
        imagenette(tmp_path, side=8, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.part"))
    for path in (tmp_path / "val" / "n02").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has no pictures in folders of one class each"):
        imagenette(tmp_path, side=8, cache=tmp_path / "cache")
    with pytest.raises(OptionError, match="side must be 1 or more, got 0"):
        imagenette(tmp_path, side=0)
