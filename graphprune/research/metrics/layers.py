"""Convolutions and linear layers, whose weights the metrics count."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


def layers_of(dense: nn.Module) -> dict[str, nn.Module]:
    """Returns convolutions and linear layers by path, in module order; of layers that share a weight, the first."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()
    for name, module in dense.named_modules():
        if isinstance(module, (_ConvNd, nn.Linear)):
            source = getattr(module, "parametrizations", None)
            weight = module.weight if source is None or "weight" not in source else source["weight"]
            if id(weight) not in seen:
                seen.add(id(weight))
                found[name] = module
    return found


def layer_weight(model: nn.Module, name: str) -> Tensor | None:
    """Returns a layer's weight as a forward pass sees it (masked, if parametrised); None if the layer is gone."""
    try:
        weight = getattr(model.get_submodule(name), "weight", None)
    except AttributeError:
        return None
    return weight.detach() if isinstance(weight, Tensor) else None


def is_transposed(layer: nn.Module) -> bool:
    """Whether the weight of a layer has its output channels along dim 1."""
    return isinstance(layer, _ConvNd) and bool(layer.transposed)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Returns the weight of a layer with its output channels as rows, ``(C_out, rest)``."""
    return weight.movedim(1 if is_transposed(layer) else 0, 0).flatten(1)


def is_of_weight(name: str, layers: dict[str, nn.Module]) -> bool:
    """Whether a parameter or buffer is the weight of a layer, or a tensor that a parametrisation makes it from."""
    path, _, rest = name.partition(".parametrizations.weight.")
    if rest:
        return path in layers
    path, _, last = name.rpartition(".")
    return path in layers and last in ("weight", "weight_orig", "weight_mask")
