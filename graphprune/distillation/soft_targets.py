"""How far the outputs of one network are from those of another."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from graphprune.errors import LossError


def divergence(found: Any, wanted: Any, temperature: float | None) -> Tensor:
    """Mean distance of the outputs over the samples, a scalar.

    Args:
        found: Outputs of the network that is trained.
        wanted: Outputs of the network that it should come near to, of the same structure.
        temperature: Logits ``(N, classes, ...)`` are divided by it before the softmax. The distance is the
            Kullback-Leibler divergence times its square, so that gradients have the same size at all temperatures. With
            None, it is the squared distance as a share of the mean square of what is wanted.

    Raises:
        LossError: the outputs hold no real numbers, or have other shapes, or are no logits though there is a
            temperature.
    """
    pairs = list(zip(_real(found), _real(wanted), strict=False))
    if not pairs or len(_real(found)) != len(_real(wanted)):
        raise LossError(f"the outputs hold {len(_real(found))} and {len(_real(wanted))} tensors of real numbers")
    distances = []
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            raise LossError(f"the outputs have the shapes {tuple(ours.shape)} and {tuple(theirs.shape)}")
        distances.append(_squared(ours, theirs) if temperature is None else _softened(ours, theirs, temperature))
    total = distances[0]
    for distance in distances[1:]:
        total = total + distance
    return total / len(distances)


def _real(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _squared(found: Tensor, wanted: Tensor) -> Tensor:
    scale = wanted.square().mean().clamp_min(1e-12)
    return (found - wanted).square().mean() / scale


def _softened(found: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    if found.dim() < 2 or found.shape[1] < 2:
        raise LossError(
            f"the output has the shape {tuple(found.shape)}; a temperature is for logits (N, classes, ...). "
            "temperature=None compares the outputs themselves"
        )
    ours = functional.log_softmax(found / temperature, dim=1)
    theirs = functional.log_softmax(wanted / temperature, dim=1)
    # a mean over samples and positions, as cross-entropy takes it
    each = (theirs.exp() * (theirs - ours)).sum(1)
    return each.mean() * temperature**2
