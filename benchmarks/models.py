"""The models that benchmarks run on, by name, all with random weights: no download, no data.

Names are ``paper:NAME``, ``torchvision:NAME`` (classification and segmentation), ``timm:NAME`` and
``transformers:NAME``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.research.networks import NETWORKS, build

FAMILIES = Path(__file__).with_name("timm_families.json")
"""File with the smallest timm model of each family, by parameters; ``python -m benchmarks.timm_families`` makes it."""

BATCH = 2
IMAGE_SIZE = 96
"""Side in pixels of the images for models that take any size; errors show as well as at 224, in a fifth of the time."""

LARGE_SIZE, MEDIUM_SIZE = 400, 112
"""Transformers made for images larger than the first size are built for the second, which takes much less time."""

_FIXED_SIZES = {"inception_v3": 139, "maxvit_t": 224}


def names(source: str) -> list[str]:
    """Returns all models of a source: paper, torchvision, segmentation, timm or transformers."""
    return [f"{'torchvision' if source == 'segmentation' else source}:{name}" for name in _SOURCES[source]()]


def make(name: str) -> tuple[nn.Module, Any]:
    """Returns the model of a name with random weights, and an example batch of two."""
    torch.manual_seed(0)
    source, _, which = name.partition(":")
    return _BUILDERS[source](which)


def _paper(name: str) -> tuple[nn.Module, Any]:
    shape = (1, 28, 28) if name in ("lenet5", "mlp5") else (3, 32, 32)
    return build(name, shape, 10), torch.randn(BATCH, *shape)


def _torchvision(name: str) -> tuple[nn.Module, Any]:
    import torchvision

    options: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    if name in _torchvision_names("segmentation"):
        options |= {"weights_backbone": None}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    if name.startswith("vit_"):
        # torchvision zeroes the head, which would leave nothing to score and nothing to compare
        nn.init.normal_(model.get_submodule("heads.head").weight, std=0.02)  # type: ignore[arg-type]
    size = 224 if name.startswith("vit_") else _FIXED_SIZES.get(name, IMAGE_SIZE)
    return model, torch.randn(BATCH, 3, size, size)


def _torchvision_names(kind: str) -> list[str]:
    import torchvision

    models = torchvision.models
    return list(models.list_models(module=models if kind == "classification" else models.segmentation))


def _timm(name: str) -> tuple[nn.Module, Any]:
    import timm

    model: Any = timm.create_model(name)
    config = model.pretrained_cfg
    channels, *size = config["input_size"]
    if config.get("fixed_input_size") and size[0] > LARGE_SIZE:
        size = [MEDIUM_SIZE, MEDIUM_SIZE]
        model = timm.create_model(name, img_size=MEDIUM_SIZE)
    small = torch.randn(BATCH, channels, IMAGE_SIZE, IMAGE_SIZE)
    if not config.get("fixed_input_size") and size[0] > IMAGE_SIZE and _runs(model, small):
        return model, small
    return model, torch.randn(BATCH, channels, *size)


def _runs(model: nn.Module, example: Any) -> bool:
    """Whether a model takes the example; models with built-in sizes refuse others, each in its own way."""
    model.eval()
    try:
        with torch.no_grad():
            model(example)
    except Exception:
        return False
    finally:
        model.train()
    return True


def _timm_names() -> list[str]:
    smallest: dict[str, str] = json.loads(FAMILIES.read_text(encoding="utf-8"))["smallest"]
    return list(smallest.values())


def _transformers(name: str) -> tuple[nn.Module, Any]:
    from benchmarks.transformers_models import MODELS

    return MODELS[name]()


def _transformers_names() -> list[str]:
    from benchmarks.transformers_models import MODELS

    return list(MODELS)


_BUILDERS: dict[str, Callable[[str], tuple[nn.Module, Any]]] = {
    "paper": _paper,
    "torchvision": _torchvision,
    "timm": _timm,
    "transformers": _transformers,
}

_SOURCES: dict[str, Callable[[], list[str]]] = {
    "paper": lambda: list(NETWORKS),
    "torchvision": lambda: _torchvision_names("classification"),
    "segmentation": lambda: _torchvision_names("segmentation"),
    "timm": _timm_names,
    "transformers": _transformers_names,
}
