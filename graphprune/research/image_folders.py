"""Imagenette, read from folders of pictures, which are decoded once and kept as bytes for the next time.

Pictures are decoded by Pillow and scaled by torchvision (the extra ``images``).
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from torch import Tensor

from graphprune.errors import InputError, OptionError
from graphprune.research.data_files import FLIP, VALIDATION, Pixels, dataset_of, find_folder
from graphprune.research.datasets import Dataset

_log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet, which Imagenette is a part of.

The paper says only that images are normalised.

Source: torchvision's documentation of its pretrained weights.
"""

SIDE, FIRST_SIDE = 128, 320
"""Side in pixels of the images for networks, and of the shorter side before that; source: appendix J of the paper."""

_PLACES = ("", "imagenette2-320", "imagenette-320", "imagenette2", "imagenette")


def imagenette(
    directory: str | Path | None = None, seed: int = 0, validation: float = VALIDATION, *, side: int = SIDE,
    cache: str | Path | None = None,
) -> Dataset:  # fmt: skip
    """Imagenette: ten classes of ImageNet; training images are mirrored, see `graphprune.research.data_files.FLIP`.

    Source: appendix J of the paper: three channels, the shorter side brought to 320 pixels with the shape kept, then
        the whole picture scaled to 128 by 128. The edition of the paper had 12894 images to train and 500 to test; the
        present one has 9469 and 3925. All pictures in the folders are used.

    Args:
        directory: Holds ``train`` and ``val``, each with one folder of pictures per class, in it or in a folder
            ``imagenette2-320`` and the like of it. Classes are numbered in the order of their folders' names.
        seed: Seed of the shuffle that the validation split is cut from ``train`` by; ``val`` is the test split.
        validation: Share of the training images that is kept for choices, above 0 and below 1.
        side: Height and width of the result in pixels.
        cache: Folder for the decoded pictures, 49 kB each at the default side; ``GRAPHPRUNE_CACHE`` or the user's
            cache folder by default.

    Returns:
        Images ``(3, side, side)``, normalised by `IMAGENET_MEAN` and `IMAGENET_STD`.

    Raises:
        InputError: no directory is named, a folder or its pictures are missing, torchvision is missing, or a picture is
            damaged.
        OptionError: an option is out of range.
    """
    if side < 1:
        raise OptionError(f"side must be 1 or more, got {side}")
    layout = ("train/CLASS/PICTURE.JPEG", "val/CLASS/PICTURE.JPEG")
    folder = find_folder("imagenette", directory, _PLACES, ("train", *layout, "in folders of one class each"))
    home = Path(cache or os.environ.get("GRAPHPRUNE_CACHE") or platformdirs.user_cache_path("graphprune")) / "pictures"
    known, test = (_read(folder / part, side, home) for part in ("train", "val"))
    return dataset_of("imagenette", known, test, (IMAGENET_MEAN, IMAGENET_STD), seed, validation, FLIP)


def _read(folder: Path, side: int, home: Path) -> Pixels:
    """Returns the pictures ``(N, 3, side, side)`` as bytes, and their classes, in the order of their paths."""
    samples = _samples(folder)
    stored = home / f"{_fingerprint(folder, samples, side)}.npy"
    if not stored.is_file():
        _log.info("imagenette: decoding %d pictures of %s into %s", len(samples), folder, stored)
        _decode(samples, side, stored)
    # mapped, not read, so that only the images of the split that is being made are in memory as bytes
    pixels = torch.from_numpy(np.load(stored, mmap_mode="c"))
    return pixels, torch.tensor([target for _, target in samples])


def _samples(folder: Path) -> list[tuple[Path, int]]:
    """Returns the path and the class of each picture."""
    datasets = _torchvision().datasets
    try:
        found = datasets.ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        raise InputError(
            f"imagenette: {folder} has no pictures in folders of one class each: {error}. Expected: "
            f"{folder}/CLASS/PICTURE.JPEG"
        ) from error
    return [(Path(path), int(target)) for path, target in found]


def _fingerprint(folder: Path, samples: Sequence[tuple[Path, int]], side: int) -> str:
    """Returns a name for the decoded pictures that changes with the sides and with the files (path, size, time)."""
    digest = hashlib.sha256(f"{side} {FIRST_SIDE}".encode())
    for path, _ in samples:
        status = path.stat()
        digest.update(f"{path.relative_to(folder)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return f"imagenette-{folder.name}-{side}-{digest.hexdigest()[:16]}"


def _decode(samples: Sequence[tuple[Path, int]], side: int, target: Path) -> None:
    """Writes all pictures as one array; the file gets its name when it is complete, so a broken run leaves no file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        shape = (len(samples), 3, side, side)
        pixels: np.memmap[Any, Any] = np.lib.format.open_memmap(name, mode="w+", dtype=np.uint8, shape=shape)
        for index, (path, _) in enumerate(samples):
            pixels[index] = _picture(path, side).numpy()
        pixels.flush()
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)


def _picture(path: Path, side: int) -> Tensor:
    """Reads a picture as bytes ``(3, side, side)``; its shorter side first becomes `FIRST_SIDE`, as in the paper."""
    from PIL import Image

    functional = _torchvision().transforms.functional

    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise InputError(f"imagenette: {path} cannot be decoded: {error}; get it again") from error
    picture = functional.resize(picture, [FIRST_SIDE])
    scaled: Tensor = functional.pil_to_tensor(functional.resize(picture, [side, side]))
    return scaled


def _torchvision() -> Any:
    try:
        import torchvision
    except ModuleNotFoundError as error:
        raise InputError(
            "imagenette: pictures are read with torchvision, which is missing; `pip install 'graphprune[images]'`"
        ) from error
    return torchvision
